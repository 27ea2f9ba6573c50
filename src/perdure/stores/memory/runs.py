"""Transitions by which runs begin, record and end a claim: create, save, settle."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from msgspec.structs import replace

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind, how_left
from perdure.model.events import FOR_GOOD
from perdure.model.progress import SetProgress
from perdure.model.records import (
    Checkpoint,
    Grant,
    Micros,
    ParentClose,
    RunRecord,
    Status,
    StepKey,
    StepOutcome,
)
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    Conflict,
    Created,
    CreateRun,
    Exists,
    Failed,
    Fenced,
    Refused,
    Retrying,
    SaveCheckpoint,
    Saved,
    Settle,
    Settled,
    Suspended,
)
from perdure.stores.memory import keys
from perdure.stores.memory.arrivals import wake_if_arrived
from perdure.stores.memory.space import Row, Space
from perdure.stores.memory.streams import StreamRow


def create(space: Space, asked: CreateRun, now: Micros) -> Created | Exists | Fenced:
    """Insert a run."""
    row = space.rows.get(asked.run_id)
    if row is not None and row.run.token == asked.token:
        return Created(asked.run_id)
    taken_by = keys.taken_by(space, asked, now)
    if taken_by is not None:
        return Exists(taken_by, same=True)
    if asked.by is not None and space.held_by(asked.by) is None:
        return Fenced(asked.by.run_id)
    if row is None and asked.unique_key is not None:
        row = keys.in_the_way(space, asked, now)
    if row is not None:
        same = row.run.definition == asked.definition and row.run.input == asked.input
        return Exists(row.run.run_id, same)
    replaced = keys.make_way(space, asked, now)
    keys.open_window(space, asked, now)
    space.seq += 1
    row = Row(lifecycle.create(asked, space.seq, now))
    space.rows[asked.run_id] = row
    space.take_unique_key(row.run)
    if asked.on_parent_close is not ParentClose.ABANDON:
        space.attach(row.run)
    space.feed.created(row.run, now)
    space.index(row, now)
    return Created(asked.run_id, replaced)


def key_taken(space: Space, run: RunRecord) -> Refused | None:
    """Return the refusal where another run holds the unique_key of this one, which has ended."""
    holder = space.holder_of_key(run.definition, run.unique_key)
    if holder is None:
        return None
    return Refused(run.run_id, run.status, f"unique_key is held by {holder.run.run_id!r}")


def save(space: Space, asked: SaveCheckpoint, now: Micros) -> Saved | Fenced | Conflict:
    """Record how one durable call of a run stands."""
    row = space.rows.get(asked.grant.run_id)
    if row is None or not is_newest(row.run, asked.grant):
        return Fenced(asked.grant.run_id)
    run = row.run
    ended = run.status is not Status.RUNNING
    recorded = row.checkpoints.get((run.generation, asked.key))
    if recorded is not None and recorded.epoch == run.epoch:  # by this very grant
        known = ended or is_final(recorded) or is_same_try(recorded, asked)
        if known:
            return Saved(run.control, recorded.due_at)
    if ended:
        return Fenced(run.run_id)
    if recorded is not None and is_final(recorded):
        return Conflict(run.run_id, asked.key.path)
    due_at = None if asked.delay is None else now + asked.delay
    record = row.checkpoints[run.generation, asked.key] = Checkpoint(
        key=asked.key,
        position=asked.position,
        kind=asked.kind,
        outcome=asked.outcome,
        value=asked.value,
        tries=asked.tries,
        log=asked.log,
        due_at=due_at,
        started_at=asked.started_at,
        ended_at=asked.ended_at,
        site=asked.site,
        text=asked.text,
        epoch=asked.grant.epoch,
        generation=run.generation,
    )
    run.updated_at = now
    space.feed.note_step(run, record, now)
    return Saved(run.control, due_at)


def write(space: Space, asked: WriteStream, now: Micros) -> Saved | Fenced:  # noqa: ARG001  # of one shape
    """Add one entry to a stream of a run."""
    row = space.rows.get(asked.grant.run_id)
    if row is None or not is_newest(row.run, asked.grant):
        return Fenced(asked.grant.run_id)
    run = row.run
    stream = row.streams.get(asked.stream)
    if stream is None or not stream.has(run.generation, asked):
        if run.status is not Status.RUNNING:
            return Fenced(run.run_id)
        stream = row.streams.setdefault(asked.stream, StreamRow())
        stream.add(run.generation, asked)
        space.hint = True
    return Saved(run.control)


def say(space: Space, asked: SetProgress, now: Micros) -> Saved | Fenced:
    """Keep how far a run says it is."""
    row = space.rows.get(asked.grant.run_id)
    if row is None or not is_newest(row.run, asked.grant):
        return Fenced(asked.grant.run_id)
    run = row.run
    if run.progress != asked.value:
        if run.status is not Status.RUNNING:
            return Fenced(run.run_id)
        run.progress = asked.value
        space.feed.note(run, ChangeKind.PROGRESS, now)
        space.hint = True
    return Saved(run.control)


def settle(space: Space, asked: Settle, now: Micros) -> Settled | Fenced:
    """End a claim with a verdict."""
    row = space.rows.get(asked.grant.run_id)
    if row is None:
        return Fenced(asked.grant.run_id)
    if not lifecycle.holds(row.run, asked.grant):
        return lifecycle.settle(row.run, asked, now)  # fenced, or settled before
    before = copy(row.run)
    lifecycle.settle(row.run, asked, now)
    space.set_waits(row, ())
    space.release(before)
    if row.run.continued != before.continued:
        _forget_record(row, before.generation)
    if row.run.waiting_for is None:
        if isinstance(asked.verdict, Failed) and lifecycle.is_to_be_undone(before, row.run):
            error = asked.verdict.error
            row.attempts.append(lifecycle.attempt_row(before, "failed", error, now))
        space.moved(row, how_left(before, row.run, ChangeKind.RELEASED), now)
        return Settled(row.run.status)
    match asked.verdict:
        case Retrying(error=error, culprits=culprits):
            row.attempts.append(lifecycle.attempt_row(before, "failed", error, now, row.run.due_at))
            reopen(row, culprits, now)
            how = ChangeKind.RETRY_SCHEDULED
        case Suspended(waits=waits):
            space.set_waits(row, waits)
            how = ChangeKind.SUSPENDED
        case _:
            raise AssertionError(f"{asked.verdict!r} left {row.run.run_id!r} waiting")
    space.moved(row, how, now)
    space.wake_if_fulfilled(row, now)
    wake_if_arrived(space, row, now)
    return Settled(row.run.status)


def _forget_record(row: Row, generation: int) -> None:
    """Forget what was recorded of a run that continues as new; what it has taken stays taken."""
    row.checkpoints.clear()
    row.attempts.clear()
    taken = {
        (FOR_GOOD, event): step
        for (number, event), step in row.taken.items()
        if number in {generation, FOR_GOOD}
    }
    row.taken = taken
    for stream in row.streams.values():
        stream.marks.clear()


def reopen(row: Row, culprits: Iterable[StepKey], now: Micros) -> None:
    """Make the steps that failed or were given up in an attempt due again at once."""
    for key in culprits:
        identity = (row.run.generation, key)
        recorded = row.checkpoints.get(identity)
        if recorded is None or recorded.outcome in {StepOutcome.OK, StepOutcome.PENDING}:
            continue
        row.checkpoints[identity] = replace(
            recorded, outcome=StepOutcome.PENDING, tries=0, due_at=now
        )


def is_newest(run: RunRecord, grant: Grant) -> bool:
    """Tell whether no claim came after the grant's and nobody took it back."""
    return run.epoch == grant.epoch and run.grant == grant.token


def is_final(recorded: Checkpoint) -> bool:
    """Tell whether nothing follows on what is recorded."""
    return recorded.outcome is not StepOutcome.PENDING


def is_same_try(recorded: Checkpoint, save: SaveCheckpoint) -> bool:
    """Tell whether a pending record is of the very attempt that is to be saved."""
    return save.outcome is StepOutcome.PENDING and save.tries == recorded.tries
