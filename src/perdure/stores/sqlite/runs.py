"""Transitions on one run: create, settle, cancel, pause, resume, pin, retry."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Final, TypeVar

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind, how_left
from perdure.model.keys import Throttle
from perdure.model.progress import SetProgress
from perdure.model.records import Control, Micros, ParentClose, RunRecord, Status, WaitKind
from perdure.model.transitions import (
    CancelRun,
    Completed,
    Continued,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Failed,
    Fenced,
    Missing,
    Outcome,
    PauseRun,
    Refused,
    RestartRun,
    ResumeRun,
    Retrying,
    RetryRun,
    Saved,
    Settle,
    Settled,
    Suspended,
    Verdict,
)
from perdure.model.versions import PinRun
from perdure.stores.sqlite import arrivals, feed, keys, rows, saving, waiting
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import NotNew, Unit

T = TypeVar("T", CancelRun, PauseRun, ResumeRun, RetryRun, RestartRun)

INPUT = "SELECT input FROM run WHERE seq = ?"

AUDITED = "SELECT 1 FROM audit WHERE run = ? AND request_id = ?"

CONTINUE: Final = "UPDATE run SET input = ?, continued = continued + 1 WHERE seq = ?"

PROGRESS: Final = "SELECT progress FROM run WHERE seq = ?"

SAY: Final = "UPDATE run SET progress = ?1 WHERE seq = ?2 AND progress IS NOT ?1"

SHIFT_WAITS = "UPDATE wait SET due_at = due_at + ? WHERE run = ? AND due_at IS NOT NULL"

SHIFT_STEPS = (
    "UPDATE checkpoint SET due_at = due_at + ?"
    " WHERE run = ? AND generation = ? AND due_at IS NOT NULL"
)

ACTIONS: Final = {
    "cancel": ChangeKind.CANCELLED,
    "pause": ChangeKind.PAUSED,
    "resume": ChangeKind.RESUMED,
    "retry": ChangeKind.RETRIED,
    "restart": ChangeKind.RESTARTED,
}

PIN = "UPDATE run SET pin = ?, updated_at = ? - created_at WHERE seq = ?"

INSERT_AUDIT = f"INSERT INTO audit (run, {rows.AUDIT}) VALUES (?, ?, ?, ?)"


_TELL_OF_BEFORE = frozenset({Retrying, Failed, Continued})
"""Verdicts after which it matters how the run was."""

_BEGIN_ANEW = frozenset({Retrying, Continued})
"""Verdicts that change what is recorded."""

# --- create ----------------------------------------------------------------------------------


def create(unit: Unit, transition: CreateRun) -> Outcome:
    """Insert a run. Without ``careful`` one that no other transition of the batch names is new."""
    if transition.key_rule is not None and transition.unique_key is not None:
        return _create_by_rule(unit, transition, transition.unique_key)
    run_id = transition.run_id
    is_known = unit.careful or run_id in unit.creates
    row = unit.row(run_id) if is_known else unit.rows.get(run_id)
    if row is not None and row.run.token == transition.token:
        return Created(run_id)
    if transition.by is not None:
        holder = unit.row(transition.by.run_id)
        if holder is None or not lifecycle.holds(holder.run, transition.by):
            if not unit.careful:
                raise NotNew  # it may be: then this is answered as the first was
            return Fenced(transition.by.run_id)
    if row is None and transition.unique_key is not None and unit.careful:
        row = keys.holder(unit, transition.definition, transition.unique_key)
    if row is not None:
        return Exists(row.run.run_id, _is_same(unit, row, transition))
    _add(unit, transition)
    return Created(run_id)


def _create_by_rule(unit: Unit, transition: CreateRun, unique_key: str) -> Outcome:
    """Insert a run, or do what its rule says where its unique_key is taken. It looks first."""
    flush(unit)
    run_id = transition.run_id
    row = unit.row(run_id)
    if row is not None and row.run.token == transition.token:
        return Created(run_id)
    taken_by = keys.taken_by(unit, transition)
    if taken_by is not None:
        return Exists(taken_by, same=True)
    if transition.by is not None:
        by = unit.row(transition.by.run_id)
        if by is None or not lifecycle.holds(by.run, transition.by):
            return Fenced(transition.by.run_id)
    if row is not None:
        return Exists(row.run.run_id, _is_same(unit, row, transition))
    holder = keys.holder(unit, transition.definition, unique_key)
    row = keys.in_the_way(unit, transition, holder)
    if row is not None:
        return Exists(row.run.run_id, _is_same(unit, row, transition))
    replaced = None if holder is None else keys.make_way(unit, transition, holder)
    if isinstance(transition.key_rule, Throttle):
        keys.open_window(unit, transition, transition.key_rule)
    _add(unit, transition)
    return Created(run_id, replaced)


def _add(unit: Unit, transition: CreateRun) -> None:
    """Insert a run with the next flush, and mark whom it is attached to."""
    unit.add(transition)
    if transition.on_parent_close is not ParentClose.ABANDON:
        assert transition.by is not None
        parent = unit.row(transition.by.run_id)
        if parent is not None and not parent.run.attaches:
            parent.run.attaches = True
            unit.change(parent, None)


def _is_same(unit: Unit, row: Row, transition: CreateRun) -> bool:
    if row.run.definition != transition.definition:
        return False
    flush(unit)
    (stored,) = unit.connection.execute(INPUT, (row.run.seq,)).fetchone()
    return unit.payloads.read(stored, row.run.seq, 0) == transition.input


# --- progress --------------------------------------------------------------------------------


def say(unit: Unit, transition: SetProgress) -> Outcome:
    """Keep how far a run says it is."""
    row = unit.row(transition.grant.run_id)
    if row is None:
        return Fenced(transition.grant.run_id)
    run = row.run
    if run.epoch != transition.grant.epoch or run.grant != transition.grant.token:
        return Fenced(run.run_id)
    is_running = run.status is Status.RUNNING
    if not is_running:
        (said,) = unit.connection.execute(PROGRESS, (run.seq,)).fetchone()
        return Saved(run.control) if said == transition.value else Fenced(run.run_id)
    if unit.connection.execute(SAY, (transition.value, run.seq)).rowcount:
        unit.feed.append(feed.said(row))
        unit.hint = True
    return Saved(run.control)


# --- settle ----------------------------------------------------------------------------------


def settle(unit: Unit, transition: Settle) -> Outcome:
    """End a claim."""
    row = unit.row(transition.grant.run_id)
    if row is None:
        return Fenced(transition.grant.run_id)
    run = row.run
    if not lifecycle.holds(run, transition.grant):
        if unit.ended:
            flush(unit)  # it may have been woken: the answer is what the run is now
        return lifecycle.settle(run, transition, unit.now)  # fenced, or settled before
    if type(transition.verdict) is Completed and run.control is Control.NONE:
        outcome = lifecycle.settle(run, transition, unit.now)  # as nearly all: 1.5 us less
        unit.change(row, ChangeKind.COMPLETED)
        return outcome
    if run.control is Control.RESTART or type(transition.verdict) in _BEGIN_ANEW:
        flush(unit)  # what was recorded before belongs to the generation, or attempt, that ends
    before = copy(run) if run.control or type(transition.verdict) in _TELL_OF_BEFORE else None
    outcome = lifecycle.settle(run, transition, unit.now)
    how = _follow(unit, row, before, transition.verdict)
    unit.change(row, how)
    kinds = {wait.kind for wait in unit.waits_of(row)}
    if WaitKind.CHILD in kinds or WaitKind.EVENT in kinds:
        flush(unit)  # a join may be fulfilled already: the answer is what the run is now
        if WaitKind.EVENT in kinds:
            arrivals.wake_if_arrived(unit, row)
        return Settled(run.status)
    return outcome


def _follow(unit: Unit, row: Row, before: RunRecord | None, verdict: Verdict) -> ChangeKind:
    """Write what else follows from a verdict, and return what happened to the run.

    Args:
        unit: the batch.
        row: of the run, as it is now.
        before: as it was, where that matters.
        verdict: how its claim ended; it may have been overruled.
    """
    run = row.run
    how = ChangeKind.RELEASED if before is None else how_left(before, run, ChangeKind.RELEASED)
    match verdict:
        case Suspended(waits=waits) if run.waiting_for is not None:
            unit.set_waits(row, waits)
            return ChangeKind.SUSPENDED
        case Retrying(error=error, culprits=culprits) if run.waiting_for is not None:
            assert before is not None
            due_at = run.due_at
            unit.add_attempt(row, lifecycle.attempt_row(before, "failed", error, unit.now, due_at))
            saving.reopen(unit, row, culprits)
            how = ChangeKind.RETRY_SCHEDULED
        case Failed(error=error) if before is not None and lifecycle.is_to_be_undone(before, run):
            unit.add_attempt(row, lifecycle.attempt_row(before, "failed", error, unit.now))
        case Continued() if before is not None and run.continued != before.continued:
            saving.forget(unit, before)
            given = unit.payloads.rewrite(run.input, run.seq, 0)
            unit.connection.execute(CONTINUE, (given, run.seq))
        case _:
            pass
    unit.set_waits(row, ())
    return how


# --- operators -------------------------------------------------------------------------------


def cancel(unit: Unit, transition: CancelRun) -> Outcome:
    """An operator cancels a run."""
    row = operated(unit, transition)
    return cancel_row(unit, row, transition) if isinstance(row, Row) else row


def cancel_row(unit: Unit, row: Row, transition: CancelRun) -> Controlled | Refused:
    """Cancel a run that this was not asked of before; with the next flush."""
    if row.run.control is Control.RESTART:
        saving.clear(unit, row.run, row.run.generation + 1)  # laid ready for the restart
    before = copy(row.run)
    outcome = operate(unit, row, transition, "cancel", lifecycle.cancel)
    if lifecycle.begins_anew(before, row.run):
        unit.set_waits(row, ())
    return outcome


def pause(unit: Unit, transition: PauseRun) -> Outcome:
    """An operator pauses a run."""
    row = operated(unit, transition)
    if not isinstance(row, Row):
        return row
    return operate(unit, row, transition, "pause", lifecycle.pause)


def resume(unit: Unit, transition: ResumeRun) -> Outcome:
    """An operator lets a paused run go on."""
    row = operated(unit, transition)
    if not isinstance(row, Row):
        return row
    shift = lifecycle.paused_for(row.run, unit.now)
    outcome = operate(unit, row, transition, "resume", lifecycle.resume)
    if isinstance(outcome, Controlled):
        unit.connection.execute(SHIFT_WAITS, (shift, row.run.seq))
        unit.connection.execute(SHIFT_STEPS, (shift, row.run.seq, row.run.generation))
        flush(unit)
        waiting.wake_if_fulfilled(unit, row)
        arrivals.wake_if_arrived(unit, row)
        return Controlled(row.run.status)
    return outcome


def pin(unit: Unit, transition: PinRun) -> Outcome:
    """An operator pins a run to a version, or unpins it."""
    row = operated(unit, transition)
    if not isinstance(row, Row):
        return row
    run = row.run
    before = run.pin
    _audit(unit, row, transition.request_id, "pin")
    outcome = lifecycle.pin(run, transition, unit.now)
    if run.pin != before:
        number = 0 if run.pin is None else unit.names.number(run.pin)
        unit.connection.execute(PIN, (number, unit.now, run.seq))
        unit.moved_lane(run)
    return outcome


def operated(
    unit: Unit, asked: CancelRun | PauseRun | ResumeRun | RetryRun | RestartRun | PinRun
) -> Row | Missing | Controlled:
    """Return the run that an operator means, or the answer where nothing is left to do."""
    flush(unit)
    row = unit.row(asked.run_id)
    if row is None:
        return Missing(asked.run_id)
    if _is_audited(unit, row, asked.request_id):
        return Controlled(row.run.status)
    return row


def operate(
    unit: Unit,
    row: Row,
    asked: T,
    action: str,
    decide: Callable[[RunRecord, T, Micros], Controlled | Refused],
) -> Controlled | Refused:
    """Do what an operator asks of a run, and keep an audit row."""
    before = copy(row.run)
    outcome = decide(row.run, asked, unit.now)
    if isinstance(outcome, Controlled):
        _audit(unit, row, asked.request_id, action)
        is_so_still = lifecycle.standing(row.run) == lifecycle.standing(before)
        unit.change(row, None if is_so_still else how_left(before, row.run, ACTIONS[action]))
    return outcome


def retry(unit: Unit, transition: RetryRun) -> Outcome:
    """An operator tries a failed or cancelled run again."""
    row = operated(unit, transition)
    if not isinstance(row, Row):
        return row
    before = copy(row.run)
    may_retry = before.status in {Status.FAILED, Status.CANCELLED}
    taken = key_taken(unit, before) if may_retry else None
    if taken is not None:
        return taken
    outcome = operate(unit, row, transition, "retry", lifecycle.retry)
    if isinstance(outcome, Controlled):
        ended_at = unit.now if before.finished_at is None else before.finished_at
        unit.add_attempt(
            row, lifecycle.attempt_row(before, str(before.status), before.error, ended_at)
        )
        saving.reopen(unit, row, lifecycle.decode_keys(before.culprits))
        waiting.unfulfil(unit, (before.run_id,))
        keys.take_again(unit, before)
        flush(unit)  # its unique_key is taken from here on
    return outcome


def key_taken(unit: Unit, run: RunRecord) -> Refused | None:
    """Return the refusal where a live run has the unique_key of this one, which has ended."""
    if run.unique_key is None:
        return None
    taken_by = keys.holder(unit, run.definition, run.unique_key)
    if taken_by is None:
        return None
    return Refused(run.run_id, run.status, f"unique_key is held by {taken_by.run.run_id!r}")


def _is_audited(unit: Unit, row: Row, request_id: str) -> bool:
    return unit.connection.execute(AUDITED, (row.run.seq, request_id)).fetchone() is not None


def _audit(unit: Unit, row: Row, request_id: str, action: str) -> None:
    unit.connection.execute(INSERT_AUDIT, (row.run.seq, request_id, action, unit.now))
