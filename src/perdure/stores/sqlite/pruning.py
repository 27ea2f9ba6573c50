"""Retention: what holds for definitions, and removing what is over.

What is over is found in :mod:`perdure.stores.sqlite.searching`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from perdure.model.retention import AGAIN, DEFAULT, Prune, Pruned, PutRetentions, RetentionsKept
from perdure.model.transitions import Outcome
from perdure.stores.sqlite import counting, feed, streams
from perdure.stores.sqlite.bulk import Among
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.leader import refused
from perdure.stores.sqlite.searching import Found, Search, retentions
from perdure.stores.sqlite.unit import Unit

_encoder = msgspec.json.Encoder()

_MOST: Final = 5_000  # rows and pages that one transition deletes: some 15 ms

STORE = (
    "INSERT INTO retention (namespace, definition, content) VALUES (?, ?, ?)"
    " ON CONFLICT DO UPDATE SET content = excluded.content"
)

FORGET = "DELETE FROM retention WHERE namespace = ? AND definition = ?"

LOOK_AGAIN: Final = Among("UPDATE run SET kept_until = ? WHERE seq IN {keys}")

WEIGHTS: Final = Among(
    "SELECT run, count(*) + coalesce(sum(length(value)), 0) / 4096 FROM checkpoint"
    " WHERE run IN {keys} GROUP BY run"
)

OF_RUNS: Final = tuple(
    Among(f"DELETE FROM {table} WHERE {column} IN {{keys}}")  # noqa: S608  # constants
    for table, column in (
        ("checkpoint", "run"),
        ("attempt", "run"),
        ("audit", "run"),
        ("wait", "run"),
        ("taken", "run"),
        ("event", "run IS NOT NULL AND run"),
        ("run", "seq"),
    )
)

OF_EVENTS: Final = (
    Among("DELETE FROM taken WHERE event IN {keys}"),
    Among("DELETE FROM event WHERE seq IN {keys}"),
)


def put(unit: Unit, transition: PutRetentions) -> Outcome:
    """Keep what holds for definitions."""
    for definition, retention in transition.retentions:
        place = (unit.namespace, unit.names.number(definition))
        if retention == DEFAULT:
            unit.connection.execute(FORGET, place)
        else:
            unit.connection.execute(STORE, (*place, _encoder.encode(retention)))
    found = retentions(unit.connection, unit.namespace)
    kept = [(unit.names.texts[definition], retention) for definition, retention in found.items()]
    return RetentionsKept(tuple(sorted(kept, key=lambda one: one[0])))


def prune(unit: Unit, transition: Prune) -> Outcome:
    """Remove ended runs that are over and not needed, and published events."""
    if (refusal := refused(unit, transition.lead)) is not None:
        return refusal
    flush(unit)
    feed.remove_old(unit.connection, unit.namespace, unit.now)  # or it would be kept below
    search = Search(unit.connection, unit.namespace, unit.names, transition, unit.now)
    removal = _Removal(unit, transition.limit)
    over, others = search.by_themselves(removal.room)
    LOOK_AGAIN.run(unit.connection, others, None)
    removal.room -= len(others)
    removal.take(over)
    if removal.room > 0:
        removal.take(search.by_age(removal.room))
    for definition in search.counted():
        if removal.room > 0:
            removal.take(search.by_count(definition, removal.room))
    events = search.events(transition.limit)
    taken = _light(events)
    for statement in OF_EVENTS:
        statement.run(unit.connection, taken)
    is_more = removal.room <= 0 or len(events) == transition.limit or len(taken) < len(events)
    is_uncounted = counting.fold(unit.connection)
    unit.upto = None
    return Pruned(removal.runs, len(taken), is_more or is_uncounted)


class _Removal:
    """The runs that one transition removes.

    Attributes:
        room: how many more may be looked at.
        runs: how many were removed.
    """

    def __init__(self, unit: Unit, limit: int) -> None:
        self.room = limit
        self.runs = 0
        self._unit = unit
        self._left = _MOST

    def take(self, found: Sequence[Found]) -> None:
        """Remove those that nobody needs, and have the others looked at again later."""
        self.room -= len(found)
        connection = self._unit.connection
        needed = [seq for seq, _, is_needed in found if is_needed]
        LOOK_AGAIN.run(connection, needed, self._unit.now + AGAIN)
        free = [(seq, pages) for seq, pages, is_needed in found if not is_needed]
        steps = Counter(dict(WEIGHTS.all(connection, [seq for seq, _ in free])))
        steps.update(dict(streams.WEIGHTS.all(connection, [seq for seq, _ in free])))
        taken = _light([(seq, 1 + pages + steps.get(seq, 0)) for seq, pages in free], self._left)
        self._left -= sum(1 + pages + steps.get(seq, 0) for seq, pages in free[: len(taken)])
        if len(taken) < len(free) or self._left <= 0:
            self.room = 0
        self._remove(taken)

    def _remove(self, seqs: Sequence[int]) -> None:
        unit = self._unit
        if not seqs:
            return
        counting.remove(unit.connection, seqs)
        feed.keep(unit.connection, unit.namespace, seqs)
        for statement in (*streams.OF_RUNS, *OF_RUNS):
            statement.run(unit.connection, seqs)
        counting.removed(unit.connection)
        unit.payloads.delete(seqs)
        unit.forget(seqs)
        self.runs += len(seqs)


def _light(found: Iterable[tuple[int, int]], most: int = _MOST) -> list[int]:
    """Return the first of what is found, not more than together are quickly deleted."""
    taken: list[int] = []
    for seq, weight in found:
        most -= weight
        if taken and most < 0:
            break
        taken.append(seq)
    return taken
