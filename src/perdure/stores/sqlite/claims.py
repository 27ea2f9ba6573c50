"""Claims: what is due becomes queued, and the first of a worker's lanes are given to it.

A lane is the ready runs of one queue and definition, in the order of claiming. Which lanes are not
empty is found by skipping through the index, so that a claim costs the same with 100,000 ready
runs as with ten, also when they are of definitions that the worker does not know.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Final, TypeAlias

from perdure.model import lifecycle
from perdure.model.records import Checkpoint, Ending, Micros, Rank
from perdure.model.transitions import Claim, Claimed, ClaimedRun
from perdure.stores.sqlite import rows
from perdure.stores.sqlite.bulk import Among
from perdure.stores.sqlite.codes import unpack_texts
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.schedules import next_fire_at
from perdure.stores.sqlite.unit import NotQuick, Unit
from perdure.stores.sqlite.workers import is_registered, versions_of

NEXT_DUE = (
    "SELECT due_at FROM run WHERE namespace = ? AND status = 2 AND due_at IS NOT NULL"
    " ORDER BY due_at LIMIT 1"
)

_MANY: Final = 20  # runs that a claim may promote or give while the loop waits: 0.3 ms

MANY_DUE = (
    "SELECT 1 FROM run WHERE namespace = ? AND status = 2 AND due_at IS NOT NULL AND due_at <= ?"
    " LIMIT 1 OFFSET ?"
)

# lifecycle.queue_again and rank_when_queued, for any number of runs in one statement.
PROMOTE: Final = (
    "UPDATE run SET status = 0, waiting_for = NULL, due_at = NULL, updated_at = ?1 - created_at,"
    f" rank = CASE WHEN crashes >= {lifecycle.SUSPECT_AFTER} THEN 2 WHEN epoch > 0 THEN 0 ELSE 1"
    " END WHERE namespace = ?2 AND status = 2 AND due_at IS NOT NULL AND due_at <= ?1"
)

IS_ANY_PAUSED = "SELECT 1 FROM run WHERE status = 3 AND namespace = ? LIMIT 1"

NEXT_MISFITS = (
    "SELECT min(misfits) FROM run"
    " WHERE status = 3 AND namespace = ? AND definition = ? AND misfits > ?"
)

PAUSED = (
    f"SELECT {rows.HOT} FROM run"
    " WHERE status = 3 AND namespace = ? AND definition = ? AND misfits = ?"
    " AND reason = 'mismatch' AND queue IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?"
)

GIVEN = (
    f"SELECT {rows.FULL} FROM run"
    " WHERE status = 1 AND namespace = ? AND worker = ? AND grant_token = ?"
    " ORDER BY rank, priority, seq"
)

LANES = """
WITH RECURSIVE lane (queue, definition) AS (
    SELECT value, (
        SELECT min(definition) FROM run WHERE status = 0 AND namespace = ?1 AND queue = value
    ) FROM json_each(?2)
    UNION ALL
    SELECT queue, (
        SELECT min(definition) FROM run
        WHERE status = 0 AND namespace = ?1 AND queue = lane.queue AND definition > lane.definition
    ) FROM lane WHERE definition IS NOT NULL
)
SELECT queue, definition FROM lane WHERE definition IN (SELECT value FROM json_each(?3))
"""

SUSPECTS = """
SELECT seq FROM run WHERE status = 0 AND rank = 2 AND namespace = ?1
    AND queue IN (SELECT value FROM json_each(?2))
    AND definition IN (SELECT value FROM json_each(?3))
ORDER BY priority, seq LIMIT 2
"""

_LANE = (
    "SELECT rank, priority, seq FROM run"
    " WHERE status = 0 AND namespace = ? AND queue = ? AND definition = ? AND rank < 2"
    " ORDER BY rank, priority, seq LIMIT ?"
)

_LANES_AT_ONCE = 64

FIRST_OF: Final = {
    count: " UNION ALL ".join(f"SELECT * FROM ({_LANE})" for _ in range(count))
    + " ORDER BY rank, priority, seq LIMIT ?"
    for count in (1, 2, 4, 8, 16, 32, _LANES_AT_ONCE)
}

READ: Final = Among(f"SELECT {rows.FULL} FROM run WHERE seq IN {{keys}}")

# 18 columns instead of 37: with the record that is built from them 3 us less a run.
READ_FRESH: Final = Among(f"SELECT {rows.FRESH} FROM run WHERE seq IN {{keys}}")

# lifecycle.claim, with 3 parameters for all and 1 a run instead of 22.
CLAIM: Final = Among(
    "UPDATE run SET status = 1, epoch = epoch + 1, grant_token = ?1, worker = ?2,"
    " claimed_at = ?3 - created_at, updated_at = ?3 - created_at,"
    " started_at = coalesce(started_at, ?3 - created_at) WHERE seq IN {keys}"
)

CHECKPOINTS: Final = Among(
    f"SELECT run, {rows.CHECKPOINT} FROM checkpoint WHERE run IN {{keys}} ORDER BY seq"
)

ENDINGS: Final = Among(
    f"SELECT wait.run, {rows.ENDING}"
    " FROM wait JOIN run AS ended ON ended.namespace = wait.namespace AND ended.id = wait.key"
    " WHERE wait.kind = 2 AND wait.run IN {keys} AND ended.status > 3"
    " ORDER BY wait.run, wait.number"
)

_Places: TypeAlias = tuple[int, str, str]
"""Namespace, queues and definitions of a claim; the last two are JSON lists."""


def claim(unit: Unit, transition: Claim) -> Claimed:
    """Give claimable runs to a worker. It is the last of a batch."""
    flush(unit)
    next_due_at = _next_due_at(unit)
    if not is_registered(unit, transition.worker_id):
        return Claimed((), unit.now, next_due_at, suspects=False, known=False)
    if next_due_at is not None and next_due_at <= unit.now:
        if unit.quick and _are_many_due(unit):
            raise NotQuick
        unit.connection.execute(PROMOTE, (unit.now, unit.namespace))
        unit.hint = True
        next_due_at = _next_due_at(unit)
    places = _places(unit, transition)
    suspects = [seq for (seq,) in unit.connection.execute(SUSPECTS, places).fetchall()]
    runs = resumed = _given_before(unit, transition)
    if not runs:
        refitted = _refit(unit, transition, places)
        if refitted:
            taken = refitted
        elif transition.suspects and suspects:
            taken = {suspects.pop(0): Rank.SUSPECT.value}
        else:
            taken = _first(unit, places, transition.limit)
        if unit.quick and len(taken) > _MANY:
            raise NotQuick
        runs = _give(unit, transition, taken)
        resumed = [row for row in runs if row.run.epoch > 1]
    return Claimed(
        _with_history(unit, runs, resumed),
        unit.now,
        next_due_at,
        bool(suspects),
        next_fire_at=next_fire_at(unit),
    )


def _are_many_due(unit: Unit) -> bool:
    row = unit.connection.execute(MANY_DUE, (unit.namespace, unit.now, _MANY)).fetchone()
    return row is not None


def _next_due_at(unit: Unit) -> Micros | None:
    row = unit.connection.execute(NEXT_DUE, (unit.namespace,)).fetchone()
    return None if row is None else int(row[0])


def _refit(unit: Unit, transition: Claim, places: _Places) -> dict[int, int]:
    """Queue paused mismatches that the worker may fit; return those to be given at once."""
    if unit.connection.execute(IS_ANY_PAUSED, (unit.namespace,)).fetchone() is None:
        return {}
    versions = versions_of(unit, transition.worker_id)
    fitting: list[Row] = []
    for name in set(transition.definitions):
        version, definition = versions.get(name), unit.names.find(name)
        if version is not None and definition is not None:
            fitting += _paused(unit, definition, version, places, transition.limit)
    fitting.sort(key=lambda row: row.run.seq)
    refitted = fitting[: transition.limit]
    for row in refitted:
        lifecycle.refit(row.run, unit.now)
        unit.change(row)
    flush(unit)
    return {row.run.seq: row.run.rank.value for row in refitted if row.run.rank is not Rank.SUSPECT}


def _paused(unit: Unit, definition: int, version: str, places: _Places, limit: int) -> list[Row]:
    """Return the oldest paused runs of a definition that this version may fit.

    Runs that the same versions did not fit stand together in the index, so that any number of
    those that this one did not fit costs one look.
    """
    found: list[Row] = []
    misfits = ""
    while True:
        (misfits,) = unit.connection.execute(
            NEXT_MISFITS, (unit.namespace, definition, misfits)
        ).fetchone()
        if misfits is None:
            return found
        if version not in unpack_texts(misfits):
            place = (unit.namespace, definition, misfits, places[1], limit)
            found += unit.adopt(unit.connection.execute(PAUSED, place).fetchall())


def _places(unit: Unit, transition: Claim) -> _Places:
    find = unit.names.find
    queues = (find(queue) for queue in set(transition.queues))
    definitions = (find(definition) for definition in set(transition.definitions))
    return (unit.namespace, _list(queues), _list(definitions))


def _list(numbers: Iterable[int | None]) -> str:
    """Return numbers as a JSON list; a name without a number has no runs."""
    return f"[{','.join(str(number) for number in numbers if number is not None)}]"


def _given_before(unit: Unit, transition: Claim) -> list[Row]:
    """Return what the same claim gave and what still runs under it."""
    whose = (unit.namespace, unit.names.number(transition.worker_id), transition.token)
    found = unit.connection.execute(GIVEN, whose).fetchall()
    return [rows.full_row(columns, unit.names, unit.payloads) for columns in found]


def _first(unit: Unit, places: _Places, limit: int) -> dict[int, int]:
    """Return seq and rank of the first runs of all lanes together, suspects left out."""
    if limit <= 0:
        return {}
    lanes = unit.connection.execute(LANES, places).fetchall()
    first: list[tuple[int, int, int]] = []
    for at in range(0, len(lanes), _LANES_AT_ONCE):
        some = lanes[at : at + _LANES_AT_ONCE]
        count = 1 << (len(some) - 1).bit_length()
        some += [(-1, -1)] * (count - len(some))  # no queue has this number
        parameters: list[int] = []
        for queue, definition in some:
            parameters += (unit.namespace, queue, definition, limit)
        first += unit.connection.execute(FIRST_OF[count], (*parameters, limit)).fetchall()
    if len(lanes) > _LANES_AT_ONCE:
        first.sort()
    return {seq: rank for rank, _, seq in first[:limit]}


def _give(unit: Unit, transition: Claim, taken: dict[int, int]) -> list[Row]:
    """Give these queued runs, named by seq with their rank, to the worker."""
    fresh = [seq for seq, rank in taken.items() if rank == Rank.FRESH]
    others = [seq for seq, rank in taken.items() if rank != Rank.FRESH]
    found = {
        columns[0]: rows.fresh_row(columns, unit.names, unit.payloads)
        for columns in READ_FRESH.all(unit.connection, fresh)
    }
    for columns in READ.all(unit.connection, others):
        found[columns[0]] = rows.full_row(columns, unit.names, unit.payloads)
    given = [found[seq] for seq in taken]
    for row in given:
        lifecycle.claim(row.run, transition.worker_id, transition.token, unit.now)
    worker = unit.names.number(transition.worker_id)
    CLAIM.run(unit.connection, list(taken), transition.token, worker, unit.now)
    return given


def _with_history(unit: Unit, given: list[Row], resumed: list[Row]) -> tuple[ClaimedRun, ...]:
    """Add checkpoints and endings where there may be any, and note the runs as held."""
    checkpoints = _checkpoints(unit, resumed)
    endings = _endings(unit, [row for row in given if row.waits])
    claimed: list[ClaimedRun] = []
    for row in given:
        run = row.run
        claimed.append(
            ClaimedRun(run, tuple(checkpoints.get(run.seq, ())), tuple(endings.get(run.seq, ())))
        )
        # The store keeps a copy: the run that is handed out is a value.
        unit.rows[run.run_id] = Row(copy(run), row.key, row.waits)
    return tuple(claimed)


def _checkpoints(unit: Unit, resumed: Iterable[Row]) -> dict[int, list[Checkpoint]]:
    by_seq = {row.run.seq: row.run for row in resumed}
    found: dict[int, list[Checkpoint]] = {}
    for seq, *columns in CHECKPOINTS.all(unit.connection, list(by_seq)):
        run = by_seq[seq]
        if columns[0] == run.generation:
            checkpoint = rows.checkpoint(tuple(columns), run.created_at, unit.names)
            found.setdefault(seq, []).append(checkpoint)
    return found


def _endings(unit: Unit, waiting: Iterable[Row]) -> dict[int, Iterable[Ending]]:
    found: dict[int, dict[str, Ending]] = {}
    keys = [row.run.seq for row in waiting]
    for waiter, *columns in ENDINGS.all(unit.connection, keys):
        ending = rows.ending(columns, unit.payloads)
        found.setdefault(waiter, {})[ending.run_id] = ending
    return {waiter: endings.values() for waiter, endings in found.items()}
