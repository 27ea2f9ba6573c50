"""Changes: what happened to the runs of a namespace, in an order that can be read on from.

A store notes one change for each status that a transition gives a run, and one for each outcome of
a step that it records, in the same transaction as the thing itself: a change is there if and only
if what it tells is. What was refused, fenced or had been applied before notes nothing.

- *Order.* The changes of one run stand in the order in which they happened. Of different runs no
  order is promised but that of their positions, which is the same for every reader.
- *Nothing is skipped.* A reader never gets a position before all that come before it are settled:
  whatever is committed later gets a later one. Where writers are serialised that is so by itself;
  a store in which transactions overlap must hold back what stands behind an open one.
- *Cursors.* A position is a text that only the store reads; it names its change and is the cursor
  to go on from. One whose change is not followed any more is answered with CursorExpired: what
  came after it was removed, it is of another database, or the database has been put back to a time
  before it.
- *Retention.* A store keeps each change for :data:`KEPT`, unless there are more than
  :data:`MOST`, and removes the oldest some time later, as it goes, a few at a time: some kinds may
  be kept longer than others, but what comes after a position that is followed is whole. It stays
  so when a run begins anew, and when it is removed: what has happened to it is told as before.

A *subscriber* is a cursor that the store keeps under a name. It is moved by comparing and setting,
so that of two readers with one name one is told that the other was quicker.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from perdure import defaults
from perdure.duration import to_micros
from perdure.errors import CursorExpired, InvalidValue, shown
from perdure.model.records import (
    Checkpoint,
    Micros,
    RunRecord,
    Status,
    StepKind,
    StepOutcome,
    Undoing,
    WaitKind,
)

KEPT: Final[Micros] = to_micros(defaults.CHANGES_KEPT)
MOST: Final = defaults.MOST_CHANGES


class ChangeKind(StrEnum):
    """What has happened. All but two gave a run another status, or another reason for it.

    ``step`` tells what was recorded, ``progress`` that a running run has said how far it is.

    A run with a delay is ``created`` and then ``suspended``, like any other that waits. One that
    was cancelled or has failed, and undoes what it did before it ends, is ``undoing``.
    """

    CREATED = "created"
    CLAIMED = "claimed"
    SUSPENDED = "suspended"
    RETRY_SCHEDULED = "retry_scheduled"
    WOKEN = "woken"
    RELEASED = "released"
    RESCUED = "rescued"
    PAUSED = "paused"
    RESUMED = "resumed"
    RETRIED = "retried"
    RESTARTED = "restarted"
    CONTINUED = "continued"
    UNDOING = "undoing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STEP = "step"
    PROGRESS = "progress"


class StepNote(msgspec.Struct, frozen=True, gc=False):
    """What was recorded of a step.

    Args:
        path: its path in the body.
        k: it is the k-th (from 0) of that path with those arguments.
        kind: what was called.
        outcome: how it stands.
        tries: attempts made so far, counted from 1.
        due_at: for ``pending``, when it is tried again.
    """

    path: str
    k: int
    kind: StepKind
    outcome: StepOutcome
    tries: int
    due_at: Micros | None = None


class Change(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened, with how the run stood then.

    Args:
        position: names it, and is the cursor after it; two changes never share one.
        kind: what happened. A later version may know kinds that are of no run; those have an empty
            ``run_id``.
        at: the store's time of the transaction.
        run_id, definition, queue: of which run.
        status: of the run after it.
        attempt: of the run.
        epoch: of the run's newest claim.
        waiting_for, due_at: what it waits for then, and until when at most.
        reason: why it is paused or failed; ``declined`` for a completed one.
        step: what was recorded, for the kind ``step``.
    """

    position: str
    kind: ChangeKind
    at: Micros
    run_id: str
    definition: str
    queue: str
    status: Status
    attempt: int
    epoch: int
    waiting_for: WaitKind | None = None
    due_at: Micros | None = None
    reason: str | None = None
    step: StepNote | None = None


class ChangePage(msgspec.Struct, frozen=True, gc=False):
    """Some changes in order, and where to go on: the position of the last, or the one asked for.

    Fewer than were asked for: there were no more.
    """

    changes: tuple[Change, ...]
    position: str


class SubscriberRecord(msgspec.Struct, frozen=True, gc=False):
    """A cursor under a name.

    Args:
        name: of the subscriber.
        position: up to which everything was acknowledged.
        created_at, moved_at: since when it is there, and when it was moved last.
    """

    name: str
    position: str
    created_at: Micros
    moved_at: Micros


# --- transitions ---------------------------------------------------------------------------------


class MoveSubscriber(msgspec.Struct, frozen=True, gc=False):
    """Keep a cursor under a name, in the place of the one that the caller knows.

    Key: (``name``, ``position``): where that is kept already, nothing changes.
    Guard: what is kept is ``before``; None: there is no subscriber of that name.
    Answers: Subscribed, with what is kept now and whether that is ``position``; whoever lost goes
    on from there. ``record`` is None where ``before`` was given and nothing is kept: the
    subscriber was removed. The position itself is not looked at: reading on from it does that.
    """

    name: str
    before: str | None
    position: str


class RemoveSubscriber(msgspec.Struct, frozen=True, gc=False):
    """Forget a subscriber. Idempotent as it is. Answers: Subscribed, with what was kept."""

    name: str


class Subscribed(msgspec.Struct, frozen=True, gc=False):
    """A subscriber, None where there is none; ``moved``: as it was asked for."""

    record: SubscriberRecord | None
    moved: bool = True


# --- what any store does the same ----------------------------------------------------------------

_WITH_REASON: Final = frozenset({Status.PAUSED, Status.FAILED, Status.COMPLETED})

_OWN_KIND: Final = {
    Status.RUNNING: ChangeKind.CLAIMED,
    Status.PAUSED: ChangeKind.PAUSED,
    Status.COMPLETED: ChangeKind.COMPLETED,
    Status.FAILED: ChangeKind.FAILED,
    Status.CANCELLED: ChangeKind.CANCELLED,
}


def reason_of(run: RunRecord) -> str | None:
    """Return why a run is paused or ended; of one that undoes a failure it is told at its end."""
    return run.reason if run.status in _WITH_REASON else None


def kind_after(run: RunRecord, how: ChangeKind) -> ChangeKind:
    """Return what happened to a run that has just got its status.

    Args:
        run: as it is now.
        how: what it is where the run is queued or waiting now; the other statuses say it all.
    """
    return _OWN_KIND.get(run.status, how)


def says_more(before: Checkpoint, after: Checkpoint) -> bool:
    """Tell whether a record of a wait that was asked for again says something new."""
    return (before.outcome, before.tries) != (after.outcome, after.tries)


def how_left(before: RunRecord, run: RunRecord, how: ChangeKind) -> ChangeKind:
    """Return what happened to a run that was left by whoever held it, or that an operator moved.

    Args:
        before: the run as it was.
        run: as it is now.
        how: what it is where it did not begin anew and does not begin to undo what it did.
    """
    if run.continued != before.continued:
        return ChangeKind.CONTINUED
    if run.generation != before.generation:
        return ChangeKind.RESTARTED
    if run.undoing is not before.undoing and run.undoing is not Undoing.NONE:
        return ChangeKind.UNDOING
    return how


class Cursor(NamedTuple):
    """What a position says: of which database it is, and numbers that its store understands.

    A database has a random ``epoch``. What else tells it from one that was put back and has gone
    another way since, such as the time of the change, is among the numbers.
    """

    epoch: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return "-".join((self.epoch, *map(str, self.numbers)))


def read_cursor(position: str) -> Cursor:
    """Return what a position says.

    Raises:
        InvalidValue: it is none.
    """
    if _POSITION.fullmatch(position) is None:
        raise InvalidValue(
            f"{shown(position)} is no position of a change; give what a change or a page said"
        )
    epoch, *numbers = position.split("-")
    return Cursor(epoch, tuple(map(int, numbers)))


_POSITION: Final = re.compile("[0-9a-f]{1,32}(-[0-9]{1,18}){1,4}")  # what 64 bits hold


def expired(position: str) -> CursorExpired:
    """Return the error for a cursor from which nobody can read on."""
    return CursorExpired(
        f"what followed on position {position!r} is gone: it was removed by age or number, or the "
        "database is another one or was put back to an earlier time; read from the beginning, and "
        "look at the runs themselves for what was missed"
    )
