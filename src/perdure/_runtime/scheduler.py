"""The scheduler: fires what is due, as each schedule says.

Every worker has one; a process of its own may have one, too. Any number of them may run: the store
lets each instant be fired once. What they fire by is stored, so a restart, another leader or a
clock that jumps repeats and swallows nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self

from perdure._engine.engine import Engine
from perdure.clock import to_datetime
from perdure.errors import StoreError, UsageError, shown
from perdure.model.records import Micros
from perdure.model.schedules import (
    STARTS,
    Fire,
    Fired,
    FireOutcome,
    FireSchedule,
    ScheduleRecord,
    fired_run,
)
from perdure.telemetry import Log, ScheduleMissed, ScheduleTriggered
from perdure.timing import Missed, instants

log = Log("perdure.scheduler")

PUNCTUAL: Final[Micros] = 60_000_000
"""An instant that is fired within this is on time; later, the policy ``skip`` leaves it out."""

MOST_CAUGHT_UP: Final = 100
"""Runs that the policy ``all`` starts for one schedule at once; older instants are missed."""

MOST_PASSED: Final = 10_000
"""Instants that are looked at for one firing: of a schedule of seconds after months of silence."""

POLL: Final = 1.0
"""Seconds after which it looks by itself, where no claim has told what is due."""


def firing(record: ScheduleRecord, now: Micros, most: int = MOST_PASSED) -> FireSchedule | None:
    """Return the transition that fires what is due of a schedule; None where nothing is.

    Where more instants have passed than are looked at, it decides on the oldest and fires none:
    the next firing goes on from there.
    """
    if record.next_at is None or record.next_at > now or record.paused_at is not None:
        return None
    passed = [record.next_at]
    next_at = None
    for instant in instants(record.schedule.timing, record.next_at):
        if instant > now or len(passed) == most:
            next_at = instant
            break
        passed.append(instant)
    is_behind = next_at is not None and next_at <= now
    fires = _fates(record.schedule.missed, passed, now, is_behind=is_behind)
    return FireSchedule(record.schedule.key, record.revision, record.next_at, next_at, tuple(fires))


def _fates(policy: Missed, passed: Sequence[Micros], now: Micros, *, is_behind: bool) -> list[Fire]:
    """Return what becomes of instants that have passed, by the policy of their schedule."""
    backlog = list(passed) if is_behind else list(passed[:-1])
    newest = [] if is_behind else [passed[-1]]
    caught_up: list[Micros] = []
    if policy is Missed.ALL and not is_behind:
        caught_up = backlog[-(MOST_CAUGHT_UP - 1) :]
        backlog = backlog[: len(backlog) - len(caught_up)]
    if policy is Missed.SKIP:
        late = [instant for instant in newest if now - instant > PUNCTUAL]
        backlog, newest = [*backlog, *late], [one for one in newest if one not in late]
    fate = FireOutcome.SKIPPED if policy is Missed.SKIP else FireOutcome.MISSED
    fires = [Fire(backlog[0], fate, backlog[-1], len(backlog))] if backlog else []
    fires += [Fire(instant, FireOutcome.CAUGHT_UP, instant) for instant in caught_up]
    for instant in newest:
        is_late = now - instant > PUNCTUAL
        fires.append(Fire(instant, FireOutcome.LATE if is_late else FireOutcome.ON_TIME, instant))
    return fires


class HasEngine(Protocol):
    """An app, as far as a worker or a scheduler needs it."""

    @property
    def engine(self) -> Engine:
        """The machinery that workers and handles share."""
        ...

    async def connect(self) -> None:
        """Open the store."""
        ...

    async def close(self) -> None:
        """Close the store when its last user leaves."""
        ...


class Scheduler:
    """Fires schedules, of whatever definitions, without executing their runs.

    Every worker has one, unless it is ``Worker(scheduler=False)``; this one is for a process that
    does nothing else. It needs none of the workflows' code.

    Args:
        app: whose store has the schedules.

    Raises:
        UsageError: it is no app.

    Example::

        async with Scheduler(app):
            await stopped.wait()
    """

    def __init__(self, app: HasEngine) -> None:
        if not isinstance(getattr(app, "engine", None), Engine):
            raise UsageError(f"Scheduler takes an App, got {shown(app)}")
        self._app = app
        self._engine = app.engine
        self._unlisten: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._ticking: asyncio.Task[int] | None = None
        self._again = False
        self._closed = True

    async def __aenter__(self) -> Self:
        await self._app.connect()
        self.start()
        self._unlisten = self._engine.store.listen(self.look)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        await self.stop()
        await self._app.close()

    def start(self) -> None:
        """Begin to fire what is due, of an app that is connected."""
        self._closed = False
        self._schedule(0.0)

    async def stop(self) -> None:
        """Fire nothing more; a firing that is under way may still be applied."""
        ticking = self._ticking
        self.drop()
        if ticking is not None:
            await asyncio.wait([ticking])

    def drop(self) -> None:
        """Do the same without waiting for what is under way."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticking is not None:
            self._ticking.cancel()

    def heard(self, next_fire_at: Micros | None) -> None:
        """The store has said when the next instant is due; None for never.

        Each claim says it, so that an idle worker asks the store nothing more.
        """
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        delay = 2 * POLL
        if next_fire_at is not None:
            delay = min(delay, max(0.0, (next_fire_at - self._engine.store_now()) / 1e6))
        self._schedule(delay)

    @property
    def is_ticking(self) -> bool:
        """Whether it is firing something now."""
        return self._ticking is not None

    async def tick(self) -> int:
        """Fire what is due now; return how many schedules that were.

        Raises:
            StoreError: the store cannot do it now; nothing is lost.
        """
        engine = self._engine
        due = await engine.store.schedules(due_by=engine.store_now())
        now = engine.store_now()
        firings = [(record, made) for record in due if (made := firing(record, now))]
        answers = await asyncio.gather(
            *(engine.committer.submit(made, patient=True) for _, made in firings)
        )
        for (record, made), answer in zip(firings, answers, strict=True):
            if isinstance(answer, Fired):
                self._tell(record, made)
        return len(firings)

    def _tell(self, record: ScheduleRecord, made: FireSchedule) -> None:
        """Tell what became of the instants, now that it is recorded."""
        hooks = self._engine.hooks
        at = to_datetime(self._engine.store_now())
        key, name = record.schedule.key, record.schedule.definition
        last = None if record.last_at is None else to_datetime(record.last_at)
        for fire in made.fires:
            expected = to_datetime(fire.expected)
            if fire.outcome in STARTS:
                if ScheduleTriggered in hooks.kinds:
                    hooks.tell(
                        ScheduleTriggered(
                            at=at,
                            key=key,
                            name=name,
                            expected=expected,
                            run_id=fired_run(key, fire.expected)[0],
                            is_missed=fire.outcome is not FireOutcome.ON_TIME,
                        )
                    )
            elif ScheduleMissed in hooks.kinds:
                hooks.tell(
                    ScheduleMissed(
                        at=at,
                        key=key,
                        name=name,
                        expected=expected,
                        until=to_datetime(fire.until),
                        count=fire.count,
                        last_fired_at=last,
                        triggered_at=at,
                    )
                )

    def look(self) -> None:
        """Something may be due: tick now."""
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticking is not None:
            self._again = True
            return
        self._ticking = asyncio.Task(self.tick(), loop=asyncio.get_running_loop())
        self._ticking.add_done_callback(self._ticked)

    def _ticked(self, done: asyncio.Task[int]) -> None:
        self._ticking = None
        again, self._again = self._again, False
        if done.cancelled() or self._closed:
            return
        error = done.exception()
        if isinstance(error, StoreError):
            log.warning("cannot fire schedules yet", error=error)
        elif error is not None:
            log.error("schedules could not be fired", error=error)
        elif again or done.result():  # of one that is far behind there may be more
            self.look()
            return
        self._schedule(POLL)

    def _schedule(self, delay: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.look()
