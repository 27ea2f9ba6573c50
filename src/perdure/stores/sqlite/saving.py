"""Checkpoints: recording the outcomes of durable calls, and reopening failed ones."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from perdure.model.events import FOR_GOOD
from perdure.model.records import (
    Checkpoint,
    Control,
    Micros,
    RunRecord,
    Status,
    StepKey,
    StepOutcome,
)
from perdure.model.transitions import Conflict, Fenced, Outcome, SaveCheckpoint, Saved
from perdure.stores.sqlite import feed, rows, streams
from perdure.stores.sqlite.bulk import Bulk
from perdure.stores.sqlite.codes import STEP_OUTCOME_CODES
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import PlacedSave, Unit

_COLUMNS = f"run, {rows.CHECKPOINT}"
_KEY = "run, generation, path, k, scope, fingerprint"
PENDING: Final = STEP_OUTCOME_CODES[StepOutcome.PENDING]
_SAVED: Final = Saved()

INSERT: Final = Bulk(
    _COLUMNS,
    lambda columns, places: (
        f"INSERT INTO checkpoint ({columns}) VALUES {places} ON CONFLICT ({_KEY}) DO NOTHING"
    ),
)

INSERT_PLAIN: Final = Bulk(
    rows.PLAIN_SAVE,
    lambda columns, places: (
        f"INSERT INTO checkpoint ({columns}) VALUES {places} ON CONFLICT ({_KEY}) DO NOTHING"
    ),
)

# A replaced row keeps its seq, and so its place in the order of first recording.
REPLACE: Final = Bulk(
    _COLUMNS,
    lambda columns, places: (
        f"INSERT INTO checkpoint ({columns}) VALUES {places} ON CONFLICT ({_KEY})"
        " DO UPDATE SET position = excluded.position, kind = excluded.kind,"
        " outcome = excluded.outcome, tries = excluded.tries, epoch = excluded.epoch,"
        " started_at = excluded.started_at, ended_at = excluded.ended_at,"
        " due_at = excluded.due_at, site = excluded.site, text = excluded.text,"
        " log = excluded.log, value = excluded.value"
    ),
)

FIND = (
    "SELECT seq, epoch, outcome, tries, due_at FROM checkpoint WHERE run = ? AND generation = ?"
    " AND path = ? AND k = ? AND scope = ? AND fingerprint = ?"
)

REOPEN = (
    f"UPDATE checkpoint SET outcome = {PENDING}, tries = 0, due_at = ?"
    " WHERE run = ? AND generation = ? AND path = ? AND k = ? AND scope = ? AND fingerprint = ?"
    " AND outcome IN (1, 2, 4)"
)

UNTELL = "UPDATE checkpoint SET told_at = NULL WHERE seq > ?"

CLEAR: Final = (
    "DELETE FROM checkpoint WHERE run = ? AND generation = ?",
    "DELETE FROM taken WHERE run = ? AND generation = ?",
)

# What this generation has taken is taken for good; what earlier ones had is free.
FORGET: Final = (
    "DELETE FROM checkpoint WHERE run = :run",
    "DELETE FROM attempt WHERE run = :run",
    (
        f"UPDATE taken SET generation = {FOR_GOOD}, checkpoint = 0"
        " WHERE run = :run AND generation = :generation"
    ),
    f"DELETE FROM taken WHERE run = :run AND generation <> {FOR_GOOD}",
)

NEWEST = "SELECT max(seq) FROM checkpoint"

_Recorded: TypeAlias = tuple[int, int, int, int, Micros | None]
"""Seq, epoch, outcome, tries and due_at of what is recorded under a key."""


def save(unit: Unit, transition: SaveCheckpoint) -> Outcome:
    """Record a checkpoint with the next :func:`write`, which may still correct the answer."""
    grant = transition.grant
    row = unit.row(grant.run_id)
    if row is None:
        return Fenced(grant.run_id)
    run = row.run
    if run.epoch != grant.epoch or run.grant != grant.token:
        return Fenced(grant.run_id)
    if run.status is not Status.RUNNING:
        return _saved_before(unit, transition, row)
    unit.saves.append((len(unit.outcomes), len(unit.feed), transition, row))
    unit.feed.append(None)  # its place in the order
    if run.attempt != 1:
        unit.tells_steps = False  # the row of a checkpoint does not say of which attempt it is
    if transition.delay is None and run.control is Control.NONE:
        return _SAVED
    return Saved(run.control, None if transition.delay is None else unit.now + transition.delay)


def _saved_before(unit: Unit, transition: SaveCheckpoint, row: Row) -> Saved | Fenced:
    """Answer for a claim that was settled since: only what it recorded is known."""
    write(unit)
    recorded = _find(unit, row, transition.key)
    if recorded is None or recorded[1] != row.run.epoch:
        return Fenced(row.run.run_id)
    return Saved(row.run.control, recorded[4])


def write(unit: Unit) -> None:
    """Write the checkpoints of the unit, and correct the answers of those that are not new."""
    saves = unit.saves
    if not saves:
        return
    parameters: list[Any] = []
    are_plain = all(rows.is_plain_save(transition, row.run) for _, _, transition, row in saves)
    are_told = are_plain and unit.tells_steps and unit.ends.tells_steps
    if are_plain:
        statement, entry_of = INSERT_PLAIN, feed.plainly_saved
        told_at = unit.now if are_told else None
        for _, _, transition, row in saves:
            parameters += rows.plain_save(transition, row.run, told_at, unit.names)
    else:  # all of them: their order in one statement is the order of first recording
        statement, entry_of = INSERT, feed.saved
        for _, _, transition, row in saves:
            parameters += rows.saved(transition, row.run, unit.now, unit.names)
    inserted = statement.run(unit.connection, parameters)
    if unit.known_ends is not None:
        unit.known_ends = unit.known_ends.after_steps(inserted)
    changes = saves
    if inserted != len(saves):
        changes = _reconcile_all(unit, inserted)
        are_told = False
    if not are_told:
        for _, place, transition, row in changes:
            unit.tell_step(entry_of(transition, row, unit.now), place)
    saves.clear()


def _reconcile_all(unit: Unit, inserted: int) -> list[PlacedSave]:
    """Settle all saves after the bulk insert; return those that are what is recorded now.

    Entries tell of them all, because the others among them replaced what was told already.
    """
    (newest,) = unit.connection.execute(NEWEST).fetchone()
    unit.connection.execute(UNTELL, (newest - inserted,))
    new = set(range(newest - inserted + 1, newest + 1))
    changes: list[PlacedSave] = []
    for one in unit.saves:
        index, _, transition, row = one
        answer, is_change = _reconcile(unit, transition, row, unit.outcomes[index], new)
        unit.outcomes[index] = answer
        if is_change:
            changes.append(one)
    return changes


def _reconcile(
    unit: Unit, transition: SaveCheckpoint, row: Row, answer: Outcome, new: set[int]
) -> tuple[Outcome, bool]:
    """Settle one save after the bulk insert, which left alone what had been recorded before.

    Returns:
        The answer, and whether this very save is now what is recorded.
    """
    recorded = _find(unit, row, transition.key)
    assert recorded is not None
    assert isinstance(answer, Saved)
    seq, epoch, outcome, tries, due_at = recorded
    if seq in new:  # by the first save of its key
        new.remove(seq)
        return answer, True
    is_final = outcome != PENDING
    if epoch == transition.grant.epoch:
        is_same_try = transition.outcome is StepOutcome.PENDING and transition.tries == tries
        if is_final or is_same_try:  # by this grant: just now, or before
            return Saved(answer.control, due_at), False
    elif is_final:
        return Conflict(row.run.run_id, transition.key.path), False
    REPLACE.run(unit.connection, rows.saved(transition, row.run, unit.now, unit.names))
    return answer, True


def put(unit: Unit, run: RunRecord, record: Checkpoint) -> None:
    """Record a checkpoint as it is, in the place of the one under its key; flush before."""
    REPLACE.run(unit.connection, rows.recorded(record, run, unit.names))
    unit.known_ends = None  # it may have been inserted


def clear(unit: Unit, run: RunRecord, generation: int) -> None:
    """Clear away what is recorded of a generation; flush before."""
    for statement in CLEAR:
        unit.connection.execute(statement, (run.seq, generation))
    streams.forget(unit, run, generation)


def forget(unit: Unit, run: RunRecord) -> None:
    """Forget what is recorded of a run that continues as new; ``run`` as it was; flush before."""
    feed.keep_steps(unit.connection, unit.namespace, (run.seq,))
    for statement in FORGET:
        unit.connection.execute(statement, {"run": run.seq, "generation": run.generation})
    streams.forget_marks(unit, run)


def _find(unit: Unit, row: Row, key: StepKey) -> _Recorded | None:
    found: _Recorded | None = unit.connection.execute(FIND, _place(row, key)).fetchone()
    return found


def reopen(unit: Unit, row: Row, culprits: Iterable[StepKey]) -> None:
    """Make the steps that failed or were given up in an attempt due again at once."""
    write(unit)
    for key in culprits:
        unit.connection.execute(REOPEN, (unit.now, *_place(row, key)))


def _place(row: Row, key: StepKey) -> tuple[Any, ...]:
    return (row.run.seq, row.run.generation, key.path, key.k, key.scope, key.fingerprint)
