"""Finding what is over: ended runs and published events whose retention has ended.

Runs that are kept as their definition says stand in the index ``run_ended``, by definition, by how
they ended, and by when; so those that are over are one range of each. The others stand in
``run_kept``, by when to look at them: runs with a retention of their own, and those that were found
over while somebody needed them, which are looked at again an hour later. So a look costs what it
finds, and a few seeks for each definition.

The index costs 0.5 us at the end of a run. Going through the runs in the order of their creation
costs nothing there, but meets all those that are kept longer again and again.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from perdure.model.records import Micros, Status
from perdure.model.retention import DEFAULT, Prune, Retention, events_for
from perdure.stores.sqlite.codes import STATUS_CODES
from perdure.stores.sqlite.names import EMPTY, Names

_decoder = msgspec.json.Decoder(Retention)

_DECLINED: Final = 7
_WAYS: Final = (*(STATUS_CODES[one] for one in Status if STATUS_CODES[one] > 3), _DECLINED)
"""How a run may have ended, as WAY has it."""

# What the indexes say of themselves must stand in the statements word for word.
WAY: Final = "status + 3 * (reason IS 'declined')"
ENDED_AT: Final = "created_at + finished_at"
LOOK_AT: Final = "coalesce(kept_until, created_at + finished_at + retention)"
ENDED: Final = "status > 3 AND retention IS NULL AND kept_until IS NULL"
KEPT: Final = "status > 3 AND (retention IS NOT NULL OR kept_until IS NOT NULL)"

_IN_ENDED: Final = f"FROM run INDEXED BY run_ended WHERE namespace = ? AND {ENDED}"
_IN_KEPT: Final = f"FROM run INDEXED BY run_kept WHERE namespace = ? AND {KEPT}"

NEEDED: Final = (
    "(EXISTS (SELECT 1 FROM wait WHERE wait.kind = 2 AND wait.namespace = run.namespace"
    " AND wait.key = run.id)"
    " OR run.parent IS NOT NULL AND EXISTS (SELECT 1 FROM run AS parent"
    " WHERE parent.namespace = run.namespace AND parent.id = run.parent AND parent.status <> 4))"
)

_PAGES: Final = " + ".join(
    f"CASE typeof({column}) WHEN 'integer' THEN {column} / 4096 ELSE 0 END"
    for column in ("input", "meta", "options", "result", "error")
)

FOUND: Final = f"seq, {_PAGES}, {NEEDED}"

DEFINITIONS: Final = f"""
WITH RECURSIVE found (definition) AS (
    SELECT min(definition) FROM run INDEXED BY run_ended WHERE namespace = ?1 AND {ENDED}
    UNION ALL
    SELECT (
        SELECT min(definition) FROM run INDEXED BY run_ended
        WHERE namespace = ?1 AND {ENDED} AND definition > found.definition
    ) FROM found WHERE definition IS NOT NULL
)
SELECT definition FROM found WHERE definition IS NOT NULL
"""

_OVER: Final = f"{_IN_ENDED} AND definition = ? AND {WAY} = ? AND {ENDED_AT} <= ?"

BY_AGE: Final = f"SELECT {FOUND} {_OVER} ORDER BY {ENDED_AT} LIMIT ?"
COUNT_BY_AGE: Final = f"SELECT count(*) {_OVER} AND NOT {NEEDED}"

FIRST: Final = (
    f"SELECT {ENDED_AT}, {FOUND} {_IN_ENDED} AND definition = ? AND {WAY} = ?"
    f" ORDER BY {ENDED_AT} LIMIT ?"
)
COUNT_UP_TO: Final = f"SELECT count(*) FROM (SELECT 1 {_IN_ENDED} AND definition = ? LIMIT ?)"

BY_ITSELF: Final = (
    f"SELECT {FOUND}, definition, {WAY}, {ENDED_AT}, retention {_IN_KEPT} AND {LOOK_AT} <= ?"
)
KEPT_AND_OLD: Final = f"SELECT {FOUND} {_IN_KEPT} AND {ENDED_AT} <= ? AND NOT {NEEDED}"

_PUBLISHED: Final = "FROM event INDEXED BY event_type WHERE namespace = ? AND run IS NULL"

TYPES: Final = """
WITH RECURSIVE found (type) AS (
    SELECT min(type) FROM event INDEXED BY event_type WHERE namespace = ?1 AND run IS NULL
    UNION ALL
    SELECT (
        SELECT min(type) FROM event INDEXED BY event_type
        WHERE namespace = ?1 AND run IS NULL AND type > found.type
    ) FROM found WHERE type IS NOT NULL
)
SELECT type FROM found WHERE type IS NOT NULL
"""

EVENTS: Final = (
    f"SELECT seq, length(payload) / 4096 {_PUBLISHED} AND type = ? AND at <= ? ORDER BY at LIMIT ?"
)
COUNT_EVENTS: Final = f"SELECT count(*) {_PUBLISHED} AND type = ? AND at <= ?"

RETENTIONS: Final = "SELECT definition, content FROM retention WHERE namespace = ?"

Found: TypeAlias = tuple[int, int, bool]
"""Of a run that is over: its seq, how many pages its payloads take, and whether it is needed."""


def retentions(connection: sqlite3.Connection, namespace: int) -> dict[int, Retention]:
    """Return what is kept of definitions, by number."""
    found = connection.execute(RETENTIONS, (namespace,)).fetchall()
    return {definition: _decoder.decode(content) for definition, content in found}


class Search:
    """What one Prune finds.

    Args:
        connection: of which nothing is left to flush.
        namespace: its number.
        names: of the connection.
        asked: the transition.
        now: the store's time.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        namespace: int,
        names: Names,
        asked: Prune,
        now: Micros,
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._asked = asked
        self._now = now
        self._retentions = retentions(connection, namespace)
        codes = {STATUS_CODES[status] for status in asked.statuses} or set(_WAYS)
        self._ways = [way for way in _WAYS if (4 if way == _DECLINED else way) in codes]
        found = [names.find(name) for name in asked.definitions]
        self._chosen = [number for number in found if number is not None]

    # --- runs that are kept as their definition says -----------------------------------------

    def by_age(self, limit: int) -> list[Found]:
        """Return the first runs that are over by their age, at most so many."""
        found: list[Found] = []
        for place in self._places():
            if len(found) >= limit:
                break
            found += self._all(BY_AGE, *place, limit - len(found))
        return found

    def by_count(self, definition: int, limit: int) -> list[Found]:
        """Return the first runs of a definition that has more than it keeps."""
        keep = self._retention(definition).keep
        if keep is None:
            return []
        ((count,),) = self._all(COUNT_UP_TO, definition, keep + limit)
        excess = count - keep
        if excess <= 0:
            return []
        first = [row for way in _WAYS for row in self._all(FIRST, definition, way, excess)]
        return [(seq, pages, needed) for _, seq, pages, needed in sorted(first)[:excess]]

    def counted(self) -> Iterable[int]:
        """Return the definitions of which no more than a number is kept."""
        if self._asked.older_than is not None or self._asked.statuses:
            return ()
        limited = [one for one, kept in self._retentions.items() if kept.keep is not None]
        return [one for one in limited if not self._asked.definitions or one in self._chosen]

    def _places(self) -> Iterable[tuple[int, int, Micros]]:
        """Yield a definition, a way to end, and until when those have ended that are over."""
        definitions = self._chosen
        if not self._asked.definitions:
            definitions = [one for (one,) in self._all(DEFINITIONS)]
        for definition in definitions:
            for way in self._ways:
                if (age := self._age(definition, way)) is not None:
                    yield definition, way, self._now - age

    def _age(self, definition: int, way: int) -> Micros | None:
        """Return how long what ended so is kept; None for ever."""
        if self._asked.older_than is not None:
            return self._asked.older_than
        kept = self._retention(definition)
        return (kept.completed, kept.failed, kept.cancelled, kept.declined)[way - _WAYS[0]]

    def _retention(self, definition: int) -> Retention:
        return self._retentions.get(definition, DEFAULT)

    # --- the others --------------------------------------------------------------------------

    def by_themselves(self, limit: int) -> tuple[list[Found], list[int]]:
        """Return runs that are to be looked at and are over, and those that are not."""
        asked = self._asked
        if asked.definitions and not self._chosen:
            return [], []
        if asked.older_than is not None:
            cutoff = self._now - asked.older_than
            return self._all(f"{KEPT_AND_OLD}{self._narrow()} LIMIT ?", cutoff, limit), []
        statement = f"{BY_ITSELF}{self._narrow()} ORDER BY {LOOK_AT} LIMIT ?"
        over: list[Found] = []
        others: list[int] = []
        for seq, pages, needed, definition, way, ended_at, own in self._all(
            statement, self._now, limit
        ):
            age = self._age(definition, way) if own is None else own
            if age is None or ended_at + age > self._now:
                others.append(seq)
            else:
                over.append((seq, pages, needed))
        return over, others

    def _narrow(self) -> str:
        text = f" AND {WAY} IN ({', '.join(map(str, self._ways))})"
        if self._asked.definitions:
            text += f" AND definition IN ({', '.join(map(str, self._chosen))})"
        return text

    # --- events ------------------------------------------------------------------------------

    def events(self, limit: int) -> list[tuple[int, int]]:
        """Return the seq of the first events that are over, each with the pages that it takes."""
        found: list[tuple[int, int]] = []
        for place in self._event_places():
            found += self._all(EVENTS, *place, limit - len(found))
        return found

    def _event_places(self) -> Sequence[tuple[int, Micros]]:
        kept_for = events_for(self._asked, self._retention(EMPTY))
        if kept_for is None:
            return ()
        return [(type_, self._now - kept_for) for (type_,) in self._all(TYPES)]

    # --- counting ----------------------------------------------------------------------------

    def count_runs(self) -> int:
        """Return how many runs are over and not needed."""
        most = 1 << 62
        over, _ = self.by_themselves(most)
        count = sum(1 for _, _, needed in over if not needed)
        by_age = {place: self._one(COUNT_BY_AGE, *place) for place in self._places()}
        count += sum(by_age.values())
        for definition in self.counted():
            # Those that are over by their age are gone before the others are counted.
            old = {seq for seq, _, _ in self._old(definition)}
            keep = self._retention(definition).keep
            first = [row for way in _WAYS for row in self._all(FIRST, definition, way, most)]
            rest = sorted(row for row in first if row[1] not in old)
            excess = rest[: max(0, len(rest) - (keep or 0))]
            count += sum(1 for _, _, _, needed in excess if not needed)
        return count

    def _old(self, definition: int) -> list[Found]:
        places = [place for place in self._places() if place[0] == definition]
        return [row for place in places for row in self._all(BY_AGE, *place, 1 << 62)]

    def count_events(self) -> int:
        """Return how many events are over."""
        return sum(self._one(COUNT_EVENTS, *place) for place in self._event_places())

    def _one(self, statement: str, *parameters: Any) -> int:
        ((count,),) = self._all(statement, *parameters)
        return int(count)

    def _all(self, statement: str, *parameters: Any) -> list[Any]:
        return self._connection.execute(statement, (self._namespace, *parameters)).fetchall()
