"""The change feed and its subscribers."""

from __future__ import annotations

import secrets
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from perdure.model.changes import (
    KEPT,
    MOST,
    Change,
    ChangeKind,
    ChangePage,
    Cursor,
    MoveSubscriber,
    RemoveSubscriber,
    StepNote,
    Subscribed,
    SubscriberRecord,
    expired,
    read_cursor,
    reason_of,
)
from perdure.model.records import Checkpoint, Micros, RunRecord, Status

if TYPE_CHECKING:
    from perdure.stores.memory.space import Space

_AT_ONCE: Final = 2  # old changes that go for each new one


class Feed:
    """The changes of one namespace, oldest first."""

    def __init__(self) -> None:
        self._changes: deque[Change] = deque()
        self._epoch = secrets.token_hex(6)
        self._removed = 0
        self._start = self._position(0, 0)  # before the oldest that is kept

    def _position(self, number: int, at: Micros) -> str:
        return str(Cursor(self._epoch, (number, at)))

    def note(
        self, run: RunRecord, kind: ChangeKind, now: Micros, step: StepNote | None = None
    ) -> None:
        """Add a change of a run as it is now."""
        number = self._removed + len(self._changes) + 1
        self._changes.append(
            Change(
                self._position(number, now),
                kind,
                now,
                run.run_id,
                run.definition,
                run.queue,
                run.status,
                run.attempt,
                run.epoch,
                None if step else run.waiting_for,
                None if step else run.due_at,
                None if step else reason_of(run),
                step,
            )
        )
        for _ in range(_AT_ONCE):
            self._forget_oldest(now)

    def created(self, run: RunRecord, now: Micros) -> None:
        """Add what there is to say of a new run: one with a delay is suspended at once."""
        self.note(
            replace(run, status=Status.QUEUED, waiting_for=None, due_at=None),
            ChangeKind.CREATED,
            now,
        )
        if run.status is Status.WAITING:
            self.note(run, ChangeKind.SUSPENDED, now)

    def note_step(self, run: RunRecord, record: Checkpoint, now: Micros) -> None:
        """Add a change that tells how a step stands."""
        key = record.key
        step = StepNote(key.path, key.k, record.kind, record.outcome, record.tries, record.due_at)
        self.note(run, ChangeKind.STEP, now, step)

    def _forget_oldest(self, now: Micros) -> None:
        oldest = self._changes[0]
        if len(self._changes) > MOST or (len(self._changes) > 1 and oldest.at < now - KEPT):
            self._start = self._changes.popleft().position
            self._removed += 1

    def page(self, after: str | None, limit: int) -> ChangePage:
        """Return the changes that follow on a position."""
        skipped = 0 if after is None else self._skipped(after)
        changes = tuple(islice(self._changes, skipped, skipped + limit))
        return ChangePage(changes, changes[-1].position if changes else self._at(skipped))

    def position(self, back: int) -> str:
        """Return a position on which the newest ``back`` changes follow."""
        return self._at(max(0, len(self._changes) - back))

    def _skipped(self, after: str) -> int:
        """Return how many of the changes that are kept come before a position."""
        epoch, numbers = read_cursor(after)
        skipped = numbers[0] - self._removed
        is_kept = epoch == self._epoch and 0 <= skipped <= len(self._changes)
        if not is_kept or after != self._at(skipped):
            raise expired(after)
        return skipped

    def _at(self, skipped: int) -> str:
        return self._changes[skipped - 1].position if skipped else self._start


def move(space: Space, asked: MoveSubscriber, now: Micros) -> Subscribed:
    """Keep a cursor under a name, in the place of the one that the caller knows."""
    kept = space.subscribers.get(asked.name)
    position = None if kept is None else kept.position
    if position == asked.position:
        return Subscribed(kept)
    if position != asked.before:
        return Subscribed(kept, moved=False)
    created_at = now if kept is None else kept.created_at
    record = SubscriberRecord(asked.name, asked.position, created_at, now)
    space.subscribers[asked.name] = record
    return Subscribed(record)


def remove(space: Space, asked: RemoveSubscriber, now: Micros) -> Subscribed:  # noqa: ARG001  # of one shape
    """Forget a subscriber."""
    return Subscribed(space.subscribers.pop(asked.name, None))


def subscribers(space: Space) -> list[SubscriberRecord]:
    """Return the subscribers, in the order of their names."""
    return [space.subscribers[name] for name in sorted(space.subscribers)]
