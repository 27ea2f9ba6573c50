"""Reading through a connection of its own: what is committed, each answer as of one instant."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from perdure.model.records import Ending, History, RunQuery, RunRecord, WorkerRecord
from perdure.stores.sqlite import rows
from perdure.stores.sqlite.bulk import Among
from perdure.stores.sqlite.codes import STATUS_CODES, pack_id
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.payloads import Payloads
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

_AILING = {3, 5, 6}  # the statuses of the index run_ailing


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
            )

    def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the runs that match, newest first."""
        with self._instant() as namespace:
            definition = None
            if query.definition is not None:
                definition = self._names.find(query.definition)
                if definition is None:
                    return []
            text, parameters = _list_statement(query, definition)
            return [self._run(row) for row in self._all(text, namespace, *parameters)]

    def workers(self) -> list[WorkerRecord]:
        """Return the registered workers."""
        with self._instant() as namespace:
            return [rows.worker(row, self._names) for row in self._all(WORKERS, namespace)]

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


def _list_statement(query: RunQuery, definition: int | None) -> tuple[str, list[Any]]:
    """Return the statement of a list and its parameters after the namespace."""
    where = ["namespace = ?"]
    parameters: list[Any] = []
    if query.statuses:
        codes = sorted({STATUS_CODES[status] for status in query.statuses})
        where.append(f"status IN ({', '.join(map(str, codes))})")
        if set(codes) <= _AILING:
            where.append("status > 2 AND status <> 4")  # word for word, or the index is not used
    if definition is not None:
        where.append("definition = ?")
        parameters.append(definition)
    if query.reason is not None:
        where.append("reason = ?")
        parameters.append(query.reason)
    if query.parent_id is not None:
        where.append("parent = ? AND parent IS NOT NULL")
        parameters.append(pack_id(query.parent_id))
    if query.before is not None:
        where.append("seq < ?")
        parameters.append(query.before)
    parameters.append(query.limit)
    text = f"SELECT {rows.FULL} FROM run WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?"
    return text, parameters
