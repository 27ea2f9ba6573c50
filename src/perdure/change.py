"""Reading the change feed: what happened to runs, in order, from where one was.

A change is read from the store, whichever process brought it about; hooks are told in the process
in which something happens, once, and are not kept. What the feed promises stands in
:mod:`perdure.model.changes`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime
from typing import Final

import msgspec

from perdure._engine.engine import Engine
from perdure._runtime.queries import check_known, check_one_of, several
from perdure.clock import to_datetime
from perdure.errors import StoreError, UsageError, shown
from perdure.ids import check_id
from perdure.model import changes as stored
from perdure.model.changes import (
    ChangeKind,
    MoveSubscriber,
    RemoveSubscriber,
    Subscribed,
)
from perdure.model.records import Micros, RunQuery, Status, StepKind, StepOutcome, WaitKind

PAGE: Final = 100
"""Changes that are read at once, and the most that a subscriber is given again after a crash."""

KEEP_AFTER: Final = 1.0
"""Seconds after which what a subscriber has done is kept, though its page is not over."""


class StepChange(msgspec.Struct, frozen=True):
    """What was recorded of a step.

    Attributes:
        path: its name, behind those of the steps that it is nested in: ``parent/child``.
        kind: ``step``, ``child``, ``sleep``, ``wait_for_event`` and so on.
        outcome: ``ok``, ``error``, ``timeout``, ``cancelled``; ``pending`` while another attempt,
            or what it waits for, is due.
        tries: attempts made so far.
        due_at: for ``pending``, when the next attempt is due.
    """

    path: str
    kind: StepKind
    outcome: StepOutcome
    tries: int
    due_at: datetime | None


class Change(msgspec.Struct, frozen=True):
    """One thing that happened, with how its run stood then.

    Attributes:
        position: names the change, for whoever must not do a thing twice, and is the cursor from
            which ``app.changes(after=…)`` reads on. Only the store reads it.
        kind: what happened: ``created``, ``claimed``, ``suspended``, ``retry_scheduled``,
            ``woken``, ``released``, ``rescued``, ``paused``, ``resumed``, ``retried``,
            ``restarted``, ``continued``, ``undoing``, ``completed``, ``failed``, ``cancelled``;
            ``step``, or ``progress``: it has said how far it is.
        at: when, aware UTC, by the store's clock.
        run_id, name, queue: of which run.
        status: of the run after it.
        attempt: of the run, counted from 1.
        epoch: how many times the run was claimed.
        waiting_for, due_at: what it waits for, and until when at most.
        reason: why it is paused or failed: ``operator``, ``mismatch``, ``error``, ``crash`` …
        step: what was recorded, for the kind ``step``.
    """

    position: str
    kind: ChangeKind
    at: datetime
    run_id: str
    name: str
    queue: str
    status: Status
    attempt: int
    epoch: int
    waiting_for: WaitKind | None
    due_at: datetime | None
    reason: str | None
    step: StepChange | None


class SubscriberEntry(msgspec.Struct, frozen=True):
    """A named subscriber as the store has it.

    Attributes:
        name: under which it is kept.
        position: up to which everything was acknowledged.
        created_at: since when it is there.
        moved_at: when something was acknowledged last.
    """

    name: str
    position: str
    created_at: datetime
    moved_at: datetime


class Wanted(msgspec.Struct, frozen=True):
    """Which changes somebody wants; nothing in a field: all of them."""

    names: frozenset[str]
    kinds: frozenset[str]
    run_id: str | None

    @classmethod
    def of(cls, name: object, kind: object, run_id: str | None) -> Wanted:
        """Return what is wanted, checked.

        Raises:
            UsageError: there is no such kind.
            InvalidValue: what is given is no name.
        """
        kinds = several(kind)
        for one in kinds:
            check_one_of("kind", one, tuple(ChangeKind))
        names = frozenset(check_id(one, "name") for one in several(name))
        return cls(names, frozenset(str(one) for one in kinds), run_id)

    async def check_known(self, engine: Engine) -> None:
        """Raise for a definition's name that nobody knows, with one that is written alike.

        Raises:
            UnknownDefinition: neither has this app a definition of that name, nor is there a run.
        """
        query = RunQuery(definitions=tuple(sorted(self.names)))
        await check_known(query, engine.registry, engine.store)

    def has(self, change: stored.Change) -> bool:
        """Tell whether it is one of these."""
        return (
            (self.run_id is None or change.run_id == self.run_id)
            and (not self.kinds or change.kind in self.kinds)
            and (not self.names or change.definition in self.names)
        )


def position_of(given: object) -> str | None:
    """Return the position of a change, or the text itself.

    Raises:
        UsageError: it is neither.
        InvalidValue: the text is no position.
    """
    if isinstance(given, Change):
        return given.position
    if given is not None:
        if not isinstance(given, str):
            raise UsageError(f"after= takes a change or its position, got {shown(given)}")
        stored.read_cursor(given)
    return given


async def read(
    engine: Engine, wanted: Wanted, after: str | None, *, follow: bool
) -> AsyncGenerator[Change, None]:
    """Yield the changes that follow on a position; with ``follow`` also those yet to come."""
    engine.check_loop()
    await wanted.check_known(engine)
    with engine.news.following():
        while True:
            heard = engine.news.heard
            page = await engine.store.changes(after, PAGE)
            for change in page.changes:
                if wanted.has(change):
                    yield change_of(change)
            after = page.position
            if len(page.changes) < PAGE:
                if not follow:
                    return
                await engine.news.after(heard)


async def subscribe(
    engine: Engine, name: str, wanted: Wanted, after: str | None
) -> AsyncGenerator[Change, None]:
    """Yield changes to a subscriber, and keep how far it has come.

    A change is acknowledged when the next one is asked for. What is acknowledged is kept at the end
    of each page and once a second.
    """
    engine.check_loop()
    await wanted.check_known(engine)
    with engine.news.following():
        subscriber = await Subscriber.begin(engine, name, after)
        try:
            while True:
                heard = engine.news.heard
                page = await engine.store.changes(subscriber.position, PAGE)
                for change in page.changes:
                    if wanted.has(change):
                        yield change_of(change)
                    if not await subscriber.acknowledge(change.position):
                        break
                else:
                    await subscriber.keep(page.position)
                    if len(page.changes) < PAGE:
                        await engine.news.after(heard)
        finally:
            await subscriber.leave()


class Subscriber:
    """How far a named subscriber has come: here, and as far as the store knows."""

    def __init__(self, engine: Engine, name: str, position: str | None) -> None:
        self._engine = engine
        self._name = name
        self.position: str | None = position
        self._kept: str | None = position
        self._kept_at = engine.clock.monotonic()

    @classmethod
    async def begin(cls, engine: Engine, name: str, after: str | None) -> Subscriber:
        """Go on where the subscriber of that name is, or begin a new one after a position.

        From the oldest change on there is nothing to keep until the first is acknowledged.
        """
        for record in await engine.store.subscribers():
            if record.name == name:
                return cls(engine, name, record.position)
        if after is not None:
            answer = await engine.committer.submit(MoveSubscriber(name, None, after))
            after = None if answer.record is None else answer.record.position
        return cls(engine, name, after)

    async def acknowledge(self, position: str) -> bool:
        """Everything up to a position is done; return whether to go on from there."""
        self.position = position
        if self._engine.clock.monotonic() - self._kept_at < KEEP_AFTER:
            return True
        return await self.keep(position)

    async def keep(self, position: str) -> bool:
        """Have the store know it. Where another reader was quicker, go on from where that is.

        Raises:
            UsageError: the subscriber was removed.
        """
        self._kept_at = self._engine.clock.monotonic()
        if position == self._kept:
            return True
        move = MoveSubscriber(self._name, self._kept, position)
        answer: Subscribed = await self._engine.committer.submit(move)
        if answer.record is None:
            raise UsageError(f"subscriber {self._name!r} was removed while it was read")
        self.position = self._kept = answer.record.position
        return answer.moved

    async def leave(self) -> None:
        """Keep what was acknowledged, if that is possible: what is not is given again."""
        position = self.position
        if position is not None and self._engine.is_open:
            with suppress(StoreError, UsageError):
                await self.keep(position)


async def subscribers(engine: Engine) -> list[SubscriberEntry]:
    """Return the subscribers, in the order of their names."""
    engine.check_loop()
    return [
        SubscriberEntry(
            one.name, one.position, to_datetime(one.created_at), to_datetime(one.moved_at)
        )
        for one in await engine.store.subscribers()
    ]


async def unsubscribe(engine: Engine, name: str) -> bool:
    """Forget a subscriber; return whether there was one."""
    engine.check_loop()
    answer: Subscribed = await engine.committer.submit(RemoveSubscriber(name))
    return answer.record is not None


def change_of(change: stored.Change) -> Change:
    """Return a change as users see it."""
    step = change.step
    return Change(
        change.position,
        change.kind,
        to_datetime(change.at),
        change.run_id,
        change.definition,
        change.queue,
        change.status,
        change.attempt,
        change.epoch,
        change.waiting_for,
        _instant(change.due_at),
        change.reason,
        None
        if step is None
        else StepChange(step.path, step.kind, step.outcome, step.tries, _instant(step.due_at)),
    )


def _instant(micros: Micros | None) -> datetime | None:
    return None if micros is None else to_datetime(micros)
