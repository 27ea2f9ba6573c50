"""Reading through a connection of its own: what is committed, each answer as of one instant."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from typing import Any, Final

from perdure.model.changes import ChangePage, SubscriberRecord
from perdure.model.events import EventQuery, EventRecord, ListenerRecord
from perdure.model.leader import LeaderRecord
from perdure.model.queues import QueueRecord, next_start_at
from perdure.model.records import (
    Count,
    Ending,
    History,
    Micros,
    RunQuery,
    RunRecord,
    WorkerRecord,
    count_order,
)
from perdure.model.retention import Prune, Pruned
from perdure.model.schedules import Fire, ScheduleRecord
from perdure.model.streams import StreamPage
from perdure.model.versions import Pinned
from perdure.stores.sqlite import (
    counting,
    events,
    gates,
    leader,
    rows,
    schedules,
    searching,
    streams,
    subscribers,
)
from perdure.stores.sqlite.bulk import Among
from perdure.stores.sqlite.codes import STATUSES, pack_id
from perdure.stores.sqlite.feed import Feed
from perdure.stores.sqlite.listing import count_statement, events_statement, list_statement
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.payloads import Payloads
from perdure.stores.sqlite.queues import ALL as QUEUES
from perdure.stores.sqlite.queues import queue_of
from perdure.stores.sqlite.rows import SqlRow

GET = f"SELECT {rows.FULL} FROM run WHERE namespace = ? AND id = ?"

ENDINGS: Final = Among(
    f"SELECT {rows.ENDING} FROM run AS ended WHERE namespace = ? AND id IN {{keys}} AND status > 3"
)

CHECKPOINTS = f"SELECT {rows.CHECKPOINT} FROM checkpoint WHERE run = ? ORDER BY seq"
ATTEMPTS = f"SELECT {rows.ATTEMPT} FROM attempt WHERE run = ? ORDER BY seq"
WAITS = f"SELECT {rows.WAIT} FROM wait WHERE run = ? ORDER BY number"
AUDITS = f"SELECT {rows.AUDIT} FROM audit WHERE run = ? ORDER BY seq"
WORKERS = f"SELECT {rows.WORKER} FROM worker WHERE namespace = ? ORDER BY seq"

PINS = (
    "SELECT definition, pin, count(*) FROM run INDEXED BY run_pinned"
    " WHERE namespace = ? AND pin <> 0 AND status < 4 GROUP BY definition, pin"
)


class Reader:
    """The reading side of one store.

    Args:
        connection: for this object alone.
        namespace: the name of the namespace.
    """

    def __init__(self, connection: sqlite3.Connection, namespace: str) -> None:
        self.connection = connection
        self._names = Names(connection)
        self._payloads = Payloads(connection)
        self._namespace_name = namespace

    def get(self, run_id: str) -> RunRecord | None:
        """Return the run."""
        with self._instant() as namespace:
            found = self._all(GET, namespace, pack_id(run_id))
            return self._run(found[0]) if found else None

    def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        """Return how those of the runs ended that are terminal, in the order asked for."""
        asked = {pack_id(run_id): run_id for run_id in run_ids}
        with self._instant() as namespace:
            found = ENDINGS.all(self.connection, list(asked), namespace)
            endings = {columns[1]: rows.ending(columns, self._payloads) for columns in found}
        return {run_id: endings[packed] for packed, run_id in asked.items() if packed in endings}

    def history(self, run_id: str) -> History | None:
        """Return everything kept of a run."""
        with self._instant() as namespace:
            found = self._all(GET, namespace, pack_id(run_id))
            if not found:
                return None
            run = self._run(found[0])
            names = self._names
            return History(
                run=run,
                attempts=tuple(rows.attempt(row, names) for row in self._all(ATTEMPTS, run.seq)),
                checkpoints=tuple(
                    rows.checkpoint(row, run.created_at, names)
                    for row in self._all(CHECKPOINTS, run.seq)
                ),
                waits=tuple(rows.wait(row) for row in self._all(WAITS, run.seq)),
                audit=tuple(rows.audit(row, run_id) for row in self._all(AUDITS, run.seq)),
                streams=streams.records(self._all(streams.OF_RUN, run.seq)),
            )

    def stream(self, run_id: str, name: str, after: int, limit: int) -> StreamPage | None:
        """Return entries of a stream, those that fit in a page."""
        with self._instant() as namespace:
            found = self._all(streams.PLACE, name, namespace, pack_id(run_id))
            if not found:
                return None
            stream = found[0][3]
            with closing(self.connection.execute(streams.PAGE, (stream, after, limit))) as entries:
                return streams.page(found[0], entries)

    def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the runs that match, newest first."""
        with self._instant() as namespace:
            statement = list_statement(query, namespace, self._names)
            if statement is None:
                return []
            return [self._run(row) for row in self._all(statement.text, *statement.parameters)]

    def count_runs(self, query: RunQuery) -> int:
        """Return how many runs match."""
        with self._instant() as namespace:
            statement = count_statement(query, namespace, self._names)
            if statement is None:
                return 0
            [(runs,)] = self._all(statement.text, *statement.parameters)
            return int(runs)

    def counts(self, *, by_definition: bool, by_queue: bool) -> list[Count]:
        """Return how many runs there are of each status."""
        texts = self._names.texts
        with self._instant() as namespace:
            found = self._all(counting.COUNTS[by_definition, by_queue], namespace)
            counts = [
                Count(
                    STATUSES[status],
                    None if definition is None else texts[definition],
                    None if queue is None else texts[queue],
                    runs,
                )
                for status, definition, queue, runs in found
            ]
        return sorted(counts, key=count_order)

    def pins(self) -> list[Pinned]:
        """Return how many runs that have not ended are pinned to which version."""
        texts = self._names.texts
        with self._instant() as namespace:
            found = self._all(PINS, namespace)
            pinned = [Pinned(texts[name], texts[pin], runs) for name, pin, runs in found]
        return sorted(pinned, key=lambda one: (one.definition, one.version))

    def events(self, query: EventQuery) -> list[EventRecord]:
        """Return the events that match, newest first."""
        with self._instant() as namespace:
            statement = events_statement(query, namespace, self._names)
            if statement is None:
                return []
            found = self._all(statement.text, *statement.parameters)
            return [events.event(row, self._names) for row in found]

    def changes(self, after: str | None, limit: int) -> ChangePage:
        """Return the changes that follow on a position."""
        with self._instant() as namespace:
            return Feed(self.connection, namespace, self._names).page(after, limit)

    def position(self, back: int) -> str:
        """Return the position on which the newest ``back`` changes follow."""
        with self._instant() as namespace:
            return Feed(self.connection, namespace, self._names).position(back)

    def subscribers(self) -> list[SubscriberRecord]:
        """Return the subscribers, in the order of their names."""
        with self._instant() as namespace:
            return [SubscriberRecord(*row) for row in self._all(subscribers.ALL, namespace)]

    def listeners(self) -> list[ListenerRecord]:
        """Return the registered listeners by type, then definition."""
        with self._instant() as namespace:
            return events.listeners(self._all(events.LISTENERS, namespace), self._names)

    def schedules(self, due_by: Micros | None) -> list[ScheduleRecord]:
        """Return the schedules, in the order of their keys."""
        with self._instant() as namespace:
            if due_by is None:
                found = self._all(schedules.ALL, namespace)
            else:
                found = self._all(schedules.DUE, namespace, due_by)
            return [schedules.schedule_of(row) for row in found]

    def fires(self, key: str, limit: int) -> list[Fire]:
        """Return what became of the instants of a schedule, newest first."""
        with self._instant() as namespace:
            found = self._all(schedules.FIRES, namespace, key, limit)
            return [schedules.fire_of(row) for row in found]

    def damage(self) -> list[str]:
        """Return what SQLite's check of the file finds."""
        found = [line for (line,) in self._all("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def prunable(self, asked: Prune, now: Micros) -> Pruned:
        """Return how much there is to remove."""
        with self._instant() as namespace:
            search = searching.Search(self.connection, namespace, self._names, asked, now)
            return Pruned(search.count_runs(), search.count_events())

    def queues(self) -> list[QueueRecord]:
        """Return the queues of which something is kept, in the order of their names."""
        with self._instant() as namespace:
            found = [queue_of(row, self._names) for row in self._all(QUEUES, namespace)]
        return sorted(found, key=lambda record: record.queue)

    def next_start_of_key(self, queue: str, limit_key: str) -> Micros:
        """Return from when on the rate of a key allows a start; 0 for nothing kept."""
        with self._instant() as namespace:
            number = self._names.find(queue)
            if number is None:
                return 0
            kept = [queue_of(row, self._names) for row in self._all(QUEUES, namespace)]
            rate = next((one.limits.key_rate for one in kept if one.queue == queue), None)
            due_at = gates.next_start_at(self.connection, (namespace, number, limit_key))
        return 0 if rate is None else max(0, next_start_at(rate, due_at))

    def workers(self) -> list[WorkerRecord]:
        """Return the registered workers."""
        with self._instant() as namespace:
            return [rows.worker(row, self._names) for row in self._all(WORKERS, namespace)]

    def leader(self) -> LeaderRecord:
        """Return who leads."""
        with self._instant() as namespace:
            return leader.record_of(self._all(leader.FIND, namespace), self._names)

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _run(self, row: SqlRow) -> RunRecord:
        return rows.full_row(row, self._names, self._payloads).run

    def _all(self, text: str, *parameters: Any) -> list[SqlRow]:
        return self.connection.execute(text, parameters).fetchall()

    def _instant(self) -> _Instant:
        return _Instant(self.connection, self._names, self._namespace_name)


class _Instant:
    """A transaction that reads: everything inside it is as of one commit."""

    def __init__(self, connection: sqlite3.Connection, names: Names, namespace: str) -> None:
        self._connection = connection
        self._names = names
        self._namespace = namespace

    def __enter__(self) -> int:
        self._connection.execute("BEGIN")
        try:
            return self._names.find(self._namespace) or -1  # no run has this number
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def __exit__(self, *_: object) -> None:
        self._names.committed()
        self._connection.execute("ROLLBACK")
