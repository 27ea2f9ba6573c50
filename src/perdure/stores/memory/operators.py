"""What an operator does to a run: cancel, pause, resume, pin, retry."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from msgspec.structs import replace

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind
from perdure.model.records import TERMINAL, Audit, Micros, Status
from perdure.model.transitions import (
    CancelRun,
    Controlled,
    Missing,
    PauseRun,
    Refused,
    ResumeRun,
    RetryRun,
)
from perdure.model.versions import PinRun
from perdure.stores.memory.arrivals import wake_if_arrived
from perdure.stores.memory.runs import key_taken, reopen
from perdure.stores.memory.space import Row, Space, clear_ready


def cancel(space: Space, asked: CancelRun, now: Micros) -> Controlled | Refused | Missing:
    """An operator cancels a run."""

    def decide(row: Row) -> Controlled | Refused:
        before = copy(row.run)
        outcome = lifecycle.cancel(row.run, asked, now)
        if isinstance(outcome, Controlled):
            clear_ready(row, row.run.generation)
        if lifecycle.begins_anew(before, row.run):
            space.set_waits(row, ())
        return outcome

    return _operate(space, "cancel", asked, decide, now)


def pause(space: Space, asked: PauseRun, now: Micros) -> Controlled | Refused | Missing:
    """An operator pauses a run."""
    return _operate(space, "pause", asked, lambda row: lifecycle.pause(row.run, asked, now), now)


def resume(space: Space, asked: ResumeRun, now: Micros) -> Controlled | Refused | Missing:
    """An operator lets a paused run go on."""

    def decide(row: Row) -> Controlled | Refused:
        shift = lifecycle.paused_for(row.run, now)
        outcome = lifecycle.resume(row.run, asked, now)
        if isinstance(outcome, Controlled):
            _shift(row, shift)
        return outcome

    return _operate(space, "resume", asked, decide, now)


def pin(space: Space, asked: PinRun, now: Micros) -> Controlled | Refused | Missing:
    """An operator pins a run to a version, or unpins it."""
    row = space.rows.get(asked.run_id)
    if row is None:
        return Missing(asked.run_id)
    if asked.request_id not in row.audit:
        lifecycle.pin(row.run, asked, now)
        row.audit[asked.request_id] = Audit(asked.request_id, asked.run_id, "pin", now)
        if row.run.status not in TERMINAL:
            space.index(row, now)
            space.hint = True
    return Controlled(row.run.status)


def retry(space: Space, asked: RetryRun, now: Micros) -> Controlled | Refused | Missing:
    """An operator tries a failed or cancelled run again."""
    row = space.rows.get(asked.run_id)
    if row is None:
        return Missing(asked.run_id)
    if asked.request_id in row.audit:
        return Controlled(row.run.status)
    before = copy(row.run)
    may_retry = before.status in {Status.FAILED, Status.CANCELLED}
    taken = key_taken(space, before) if may_retry else None
    if taken is not None:
        return taken
    outcome = lifecycle.retry(row.run, asked, now)
    if isinstance(outcome, Controlled):
        space.strike_ended(before)
        ended_at = now if before.finished_at is None else before.finished_at
        row.attempts.append(
            lifecycle.attempt_row(before, str(before.status), before.error, ended_at)
        )
        reopen(row, lifecycle.decode_keys(before.culprits), now)
        row.audit[asked.request_id] = Audit(asked.request_id, asked.run_id, "retry", now)
        space.take_unique_key(row.run)
        space.unfulfil(asked.run_id)
        space.moved(row, ChangeKind.RETRIED, now)
    return outcome


def _operate(
    space: Space,
    action: str,
    asked: CancelRun | PauseRun | ResumeRun,
    decide: Callable[[Row], Controlled | Refused],
    now: Micros,
) -> Controlled | Refused | Missing:
    """Do what an operator asks of a run, unless it was done, and keep an audit row."""
    row = space.rows.get(asked.run_id)
    if row is None:
        return Missing(asked.run_id)
    if asked.request_id in row.audit:
        return Controlled(row.run.status)
    before = copy(row.run)
    outcome = decide(row)
    if isinstance(outcome, Controlled):
        row.audit[asked.request_id] = Audit(asked.request_id, asked.run_id, action, now)
        space.controlled(row, before, ChangeKind.RESUMED, now)
        space.wake_if_fulfilled(row, now)
        wake_if_arrived(space, row, now)
        return Controlled(row.run.status)
    return outcome


def _shift(row: Row, shift: Micros) -> None:
    """Move everything that is due by so much."""
    row.waits = tuple(
        wait if wait.due_at is None else replace(wait, due_at=wait.due_at + shift)
        for wait in row.waits
    )
    for identity, recorded in row.checkpoints.items():
        if identity[0] == row.run.generation and recorded.due_at is not None:
            row.checkpoints[identity] = replace(recorded, due_at=recorded.due_at + shift)
