"""Gates: of the queued runs that share a limit_key, only the next ones stand where claims look.

Those are *exposed* (``parked`` is 0) and stand in the index ``run_ready`` like runs without a key.
The others are parked, so that any number of them behind a full key costs a claim nothing. Whatever
moves a run with a key marks its gate; the next claim looks at the marked gates, and chooses anew
who is exposed. The limits themselves are looked at when a run is claimed: see
:mod:`perdure.stores.sqlite.choosing`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from perdure.model import queues
from perdure.model.queues import Limits
from perdure.model.records import Micros, Rank
from perdure.stores.sqlite.bulk import Among

GatePlace: TypeAlias = tuple[int, int, str]
"""Of a gate: the numbers of its namespace and queue, and its key."""

_AT_ONCE: Final = 64  # gates that one claim looks at: 40 us each

MARK = (
    "INSERT INTO gate (namespace, queue, limit_key, look_at, next_start_at) VALUES (?, ?, ?, ?, 0)"
    " ON CONFLICT DO UPDATE"
    " SET look_at = min(coalesce(look_at, excluded.look_at), excluded.look_at)"
)

MARK_ALL = "UPDATE gate SET look_at = ? WHERE namespace = ? AND queue = ?"

MARK_DUE = (
    "SELECT DISTINCT namespace, queue, limit_key FROM run WHERE namespace = ? AND status = 2"
    " AND due_at IS NOT NULL AND limit_key IS NOT NULL AND due_at <= ?"
)

MARKED = (
    "SELECT queue, limit_key FROM gate"
    " WHERE namespace = ? AND look_at IS NOT NULL AND look_at <= ? ORDER BY look_at LIMIT ?"
)

NEXT_LOOK = (
    "SELECT look_at FROM gate WHERE namespace = ? AND look_at IS NOT NULL ORDER BY look_at LIMIT 1"
)

LOOKED = "UPDATE gate SET look_at = ? WHERE namespace = ? AND queue = ? AND limit_key = ?"

FORGET = "DELETE FROM gate WHERE namespace = ? AND queue = ? AND limit_key = ?"

STARTED = "UPDATE gate SET next_start_at = ? WHERE namespace = ? AND queue = ? AND limit_key = ?"

NEXT_START = "SELECT next_start_at FROM gate WHERE namespace = ? AND queue = ? AND limit_key = ?"

PARK: Final = Among("UPDATE run SET parked = 1 WHERE seq IN {keys} AND status = 0")

EXPOSE: Final = Among("UPDATE run SET parked = 0 WHERE seq IN {keys}")

_OF_KEY = "status = 0 AND namespace = ?1 AND queue = ?2 AND limit_key = ?3"

PARK_ALL = f"UPDATE run SET parked = 1 WHERE {_OF_KEY} AND parked = 0"  # noqa: S608

IS_ANY_PARKED = f"SELECT 1 FROM run WHERE {_OF_KEY} AND parked = 1 LIMIT 1"  # noqa: S608

# Definitions, and the versions that their runs are pinned to: see choosing.LANES.
CODES = f"""
WITH RECURSIVE lane (code) AS (
    SELECT (
        SELECT definition << 32 | pin FROM run WHERE {_OF_KEY} AND parked = 1
        ORDER BY definition, pin LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT definition << 32 | pin FROM run WHERE {_OF_KEY} AND parked = 1
            AND (definition, pin) >= (code >> 32, (code & 0xffffffff) + 1)
        ORDER BY definition, pin LIMIT 1
    ) FROM lane WHERE code IS NOT NULL
)
SELECT code >> 32, code & 0xffffffff FROM lane WHERE code IS NOT NULL
"""  # noqa: S608

FIRST = (
    f"SELECT seq, rank FROM run WHERE {_OF_KEY} AND parked = 1"  # noqa: S608
    " AND definition = ?4 AND pin = ?5 ORDER BY rank, priority, seq LIMIT ?6"
)

RUNNING = (
    "SELECT count(*) FROM run WHERE status = 1 AND slot = 1"
    " AND namespace = ? AND queue = ? AND limit_key = ?"
)


def mark(connection: sqlite3.Connection, places: Iterable[GatePlace], at: Micros) -> None:
    """Have gates looked at, at a time that may have come."""
    for place in places:
        connection.execute(MARK, (*place, at))


def mark_due(connection: sqlite3.Connection, namespace: int, now: Micros) -> bool:
    """Mark the gates of the waiting runs whose time has come, if any, before they are queued."""
    due = connection.execute(MARK_DUE, (namespace, now)).fetchall()
    mark(connection, due, now)
    return bool(due)


def park(connection: sqlite3.Connection, keys: Sequence[int]) -> int:
    """Put runs, named by seq, behind their gates; return how many of them are queued."""
    return PARK.run(connection, keys)


def next_look_at(connection: sqlite3.Connection, namespace: int) -> Micros | None:
    """Return when the next gate is to be looked at."""
    found = connection.execute(NEXT_LOOK, (namespace,)).fetchone()
    return None if found is None else int(found[0])


def marked(connection: sqlite3.Connection, namespace: int, now: Micros) -> list[tuple[int, str]]:
    """Return the gates that are to be looked at now, by queue and key; not all of very many."""
    return connection.execute(MARKED, (namespace, now, _AT_ONCE)).fetchall()


def running(connection: sqlite3.Connection, place: GatePlace) -> int:
    """Return how many slots of a key are taken."""
    (count,) = connection.execute(RUNNING, place).fetchone()
    return int(count)


def next_start_at(connection: sqlite3.Connection, place: GatePlace) -> Micros:
    """Return what is kept of the rate of a key."""
    found = connection.execute(NEXT_START, place).fetchone()
    return 0 if found is None else int(found[0])


def started(connection: sqlite3.Connection, place: GatePlace, due_at: Micros) -> None:
    """Keep something of the rate of a key."""
    mark(connection, (place,), due_at)
    connection.execute(STARTED, (due_at, *place))


def is_any_parked(connection: sqlite3.Connection, place: GatePlace) -> bool:
    """Tell whether runs stand behind a gate."""
    return connection.execute(IS_ANY_PARKED, place).fetchone() is not None


def look(connection: sqlite3.Connection, place: GatePlace, limits: Limits, now: Micros) -> None:
    """Expose the first runs of a key: of each definition and pin as many as the limits let."""
    taken = running(connection, place)
    room = queues.within(queues.EXPOSED, queues.room(limits.key_concurrency, taken))
    due_at = next_start_at(connection, place)
    connection.execute(PARK_ALL, place)
    look_at: Micros | None = None
    exposed: list[int] = []
    lanes = connection.execute(CODES, place).fetchall()
    if room:
        for code in lanes:
            first, at = _first(connection, (*place, *code, room), limits, due_at, now)
            exposed += first
            look_at = at if look_at is None else look_at
    EXPOSE.run(connection, exposed)
    if lanes or taken or due_at > now:
        if look_at is None and not lanes and due_at > now:
            look_at = due_at  # to forget it then
        connection.execute(LOOKED, (look_at, *place))
    else:
        connection.execute(FORGET, place)


def _first(
    connection: sqlite3.Connection,
    lane: tuple[int, int, str, int, int, int],
    limits: Limits,
    due_at: Micros,
    now: Micros,
) -> tuple[list[int], Micros | None]:
    """Return whom of a definition and pin to expose, and when a rate next allows another."""
    rate = limits.key_rate
    starts = queues.free_starts(rate, due_at, now)
    started = 0
    first: list[int] = []
    for seq, rank in connection.execute(FIRST, lane).fetchall():
        if rate is not None and rank == Rank.FRESH:
            if started == starts:
                return first, queues.next_start_at(
                    rate, queues.due_after(rate, due_at, now, started)
                )
            started += 1
        first.append(seq)
    return first, None
