"""Claims: what is due becomes queued, and the first of what is queued is given to a worker.

Which those are is decided in :mod:`perdure.stores.sqlite.choosing`.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Final

from perdure.model import lifecycle, lineage
from perdure.model.changes import ChangeKind
from perdure.model.records import Checkpoint, Ending, Micros, Rank, Status
from perdure.model.transitions import Claim, Claimed, ClaimedRun
from perdure.stores.sqlite import choosing, counting, feed, gates, rows
from perdure.stores.sqlite.bulk import Among
from perdure.stores.sqlite.choosing import Allowance, Candidate, Places, places_of
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

# Whether there is anything to do besides giving runs away, in one statement.
OUTLOOK = f"""
SELECT ({NEXT_DUE.replace("?", "?1")}), ({gates.NEXT_LOOK.replace("?", "?1")}),
    EXISTS (SELECT 1 FROM queue WHERE namespace = ?1), ({counting.COUNTED})
"""

_MANY: Final = 20  # runs that a claim may promote or give while the loop waits: 0.3 ms

MANY_DUE = (
    "SELECT 1 FROM run WHERE namespace = ? AND status = 2 AND due_at IS NOT NULL AND due_at <= ?"
    " LIMIT 1 OFFSET ?"
)

_IS_DUE: Final = "namespace = ?2 AND status = 2 AND due_at IS NOT NULL AND due_at <= ?1"

# lifecycle.queue_again and rank_when_queued, for any number of runs in one statement.
PROMOTE: Final = (
    "UPDATE run SET status = 0, waiting_for = NULL, due_at = NULL, updated_at = ?1 - created_at,"
    f" rank = CASE WHEN crashes >= {lifecycle.SUSPECT_AFTER} THEN 2 WHEN epoch > 0 THEN 0 ELSE 1"
    " END, parked = limit_key IS NOT NULL"
    f" WHERE {_IS_DUE}"
)

DUE: Final = f"SELECT {feed.WOKEN} FROM run WHERE {_IS_DUE} ORDER BY due_at, seq"

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

SLOTS: Final = Among("UPDATE run SET slot = 1 WHERE seq IN {keys}")


def claim(unit: Unit, transition: Claim) -> Claimed:
    """Give claimable runs to a worker. It is the last of a batch."""
    flush(unit)
    outlook = unit.connection.execute(OUTLOOK, (unit.namespace,)).fetchone()
    next_due_at, next_look_at, are_limits, unit.upto = outlook
    if not is_registered(unit, transition.worker_id):
        return Claimed((), unit.now, next_due_at, suspects=False, known=False)
    if next_due_at is not None and next_due_at <= unit.now:
        if unit.quick and _are_many_due(unit):
            raise NotQuick
        if gates.mark_due(unit.connection, unit.namespace, unit.now):
            next_look_at = unit.now
        for *place, runs in unit.connection.execute(
            counting.DUE, (unit.now, unit.namespace, unit.counted)
        ).fetchall():
            definition, queue = place
            unit.moves.add(definition, queue, Status.WAITING, Status.QUEUED, runs)
        _note_due(unit)
        unit.connection.execute(PROMOTE, (unit.now, unit.namespace))
        unit.hint = True
        next_due_at = _next_due_at(unit)
    allowance = Allowance(unit, next_look_at, are_limits=bool(are_limits))
    places = places_of(unit, transition)
    suspects = choosing.suspects(unit, places, allowance)
    runs = resumed = _given_before(unit, transition)
    if not runs:
        chosen = _chosen(unit, transition, places, suspects, allowance)
        if unit.quick and len(chosen) > _MANY:
            raise NotQuick
        runs = _give(unit, transition, chosen, allowance)
        resumed = [row for row in runs if row.run.epoch > 1 or lineage.is_fork(row.run)]
        allowance.keep()
    dues = [due for due in (next_due_at, allowance.next_look_at) if due is not None]
    return Claimed(
        _with_history(unit, runs, resumed),
        unit.now,
        min(dues, default=None),
        bool(suspects),
        next_fire_at=next_fire_at(unit),
    )


def _chosen(
    unit: Unit,
    transition: Claim,
    places: Places,
    suspects: list[Candidate],
    allowance: Allowance,
) -> list[Candidate]:
    """Return what is given: mismatches that may fit, or one suspect alone, or the first."""
    refitted = _refit(unit, transition, places, allowance)
    if refitted:
        return refitted
    if transition.suspects and suspects:
        suspect = suspects.pop(0)
        allowance.took(suspect)
        return [suspect]
    return choosing.first(
        unit, places, allowance, transition.limit, fresh_first=transition.fresh_first
    )


def _are_many_due(unit: Unit) -> bool:
    row = unit.connection.execute(MANY_DUE, (unit.namespace, unit.now, _MANY)).fetchone()
    return row is not None


def _note_due(unit: Unit) -> None:
    due = unit.connection.execute(DUE, (unit.now, unit.namespace)).fetchall()
    unit.feed += [feed.woken(columns) for columns in due]


def _next_due_at(unit: Unit) -> Micros | None:
    row = unit.connection.execute(NEXT_DUE, (unit.namespace,)).fetchone()
    return None if row is None else int(row[0])


def _refit(unit: Unit, transition: Claim, places: Places, allowance: Allowance) -> list[Candidate]:
    """Queue paused mismatches that the worker may fit; return those to be given at once."""
    if unit.connection.execute(IS_ANY_PAUSED, (unit.namespace,)).fetchone() is None:
        return []
    versions = versions_of(unit, transition.worker_id)
    fitting: list[Row] = []
    for name in set(transition.definitions):
        version, definition = versions.get(name), unit.names.find(name)
        if version is not None and definition is not None:
            fitting += _paused(unit, definition, version, places, transition.limit)
    fitting.sort(key=lambda row: row.run.seq)
    given: list[Candidate] = []
    for row in fitting:
        if len(given) == transition.limit:
            break
        run = row.run
        candidate = (int(Rank.RESUMED), 0, run.seq, unit.names.number(run.queue), run.limit_key)
        if not allowance.lets(candidate):
            continue
        lifecycle.refit(run, unit.now)
        unit.change(row, ChangeKind.RESUMED)
        if run.rank is not Rank.SUSPECT:
            allowance.took(candidate)
            given.append(candidate)
    flush(unit)
    return given


def _paused(unit: Unit, definition: int, version: str, places: Places, limit: int) -> list[Row]:
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


def _given_before(unit: Unit, transition: Claim) -> list[Row]:
    """Return what the same claim gave and what still runs under it."""
    whose = (unit.namespace, unit.names.number(transition.worker_id), transition.token)
    found = unit.connection.execute(GIVEN, whose).fetchall()
    given = [rows.full_row(columns, unit.names, unit.payloads) for columns in found]
    if transition.fresh_first:
        given.sort(key=lambda row: row.run.rank is not Rank.FRESH)
    return given


def _give(
    unit: Unit, transition: Claim, chosen: list[Candidate], allowance: Allowance
) -> list[Row]:
    """Give these queued runs to the worker."""
    taken = [candidate[2] for candidate in chosen]
    fresh = [seq for rank, _, seq, *_ in chosen if rank == Rank.FRESH]
    others = [seq for rank, _, seq, *_ in chosen if rank != Rank.FRESH]
    found = {
        columns[0]: rows.fresh_row(columns, unit.names, unit.payloads)
        for columns in READ_FRESH.all(unit.connection, fresh)
    }
    for columns in READ.all(unit.connection, others):
        found[columns[0]] = rows.full_row(columns, unit.names, unit.payloads)
    given = [found[seq] for seq in taken]
    counted = unit.counted
    for row in given:
        lifecycle.claim(row.run, transition.worker_id, transition.token, unit.now)
        if row.run.seq <= counted:
            unit.moves.moved(row.run, Status.QUEUED)
    unit.feed += feed.claimed(given)
    worker = unit.names.number(transition.worker_id)
    CLAIM.run(unit.connection, taken, transition.token, worker, unit.now)
    slots = [seq for _, _, seq, queue, _ in chosen if allowance.is_limited(queue)]
    if slots:
        SLOTS.run(unit.connection, slots)
        for seq in slots:
            found[seq].slot = True
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
        unit.rows[run.run_id] = Row(
            copy(run), row.key, row.definition, row.queue, row.waits, row.slot, run.status
        )
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
