"""The firer: fires what is due, as each schedule says, while its worker leads.

What it fires by is stored, and the store lets each instant be fired once; so a restart, another
leader or a clock that jumps repeats and swallows nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from perdure._engine.engine import Engine
from perdure._runtime.ticker import Ticker
from perdure.clock import to_datetime
from perdure.model.leader import Lead, NotLeading
from perdure.model.records import Micros
from perdure.model.schedules import (
    STARTS,
    Fire,
    Fired,
    FireOutcome,
    FireSchedule,
    Overdue,
    PutSchedule,
    ScheduleRecord,
    fired_run,
)
from perdure.telemetry import Log, ScheduleMissed, ScheduleTriggered
from perdure.timing import Missed, instants, next_instant

log = Log("perdure.firer")

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


def passed_over(record: ScheduleRecord, now: Micros) -> tuple[Micros | None, Fire | None]:
    """Return the next instant of a schedule after now, and what passed before without being fired.

    Of a cron expression at most MOST_PASSED instants are counted.
    """
    first = record.next_at
    if first is None or first > now:
        return first, None
    timing = record.schedule.timing
    if timing.every is not None:
        count = (now - first) // timing.every + 1
        last = first + (count - 1) * timing.every
        return last + timing.every, Fire(first, FireOutcome.SKIPPED, last, count)
    last, count = first, 1
    for instant in instants(timing, first):
        if instant > now or count == MOST_PASSED:
            break
        last, count = instant, count + 1
    return next_instant(timing, now), Fire(first, FireOutcome.SKIPPED, last, count)


async def put(engine: Engine, asked: PutSchedule) -> None:
    """Create a schedule, or change what it says; what is overdue under another timing is skipped.

    Raises:
        StoreError: the store cannot do it now.
    """
    answer = await engine.committer.submit(asked)
    while isinstance(answer, Overdue):
        record = answer.record
        _, skipped = passed_over(record, max(engine.store_now(), record.next_at or 0))
        answer = await engine.committer.submit(replace(asked, skipped=skipped))


class Firer:
    """Fires the schedules of an app that is connected.

    Args:
        engine: of the app.
        refused: called where the store says that another worker leads.
    """

    def __init__(self, engine: Engine, refused: Callable[[], None]) -> None:
        self._engine = engine
        self._refused = refused
        self._lead: Lead | None = None
        self._ticker = Ticker(self._turn, lambda: POLL, log, "firing schedules")

    def start(self, lead: Lead) -> None:
        """Begin to fire what is due, in this term."""
        self._lead = lead
        self._ticker.start(0.0)

    async def stop(self) -> None:
        """Fire nothing more; a firing that is under way may still be applied."""
        await self._ticker.stop()

    def drop(self) -> None:
        """Do the same without waiting for what is under way."""
        self._ticker.drop()

    def look(self) -> None:
        """Something may be due: tick now."""
        self._ticker.look()

    def heard(self, next_fire_at: Micros | None) -> None:
        """The store has said when the next instant is due; None for never.

        Each claim says it, so that an idle worker asks the store nothing more.
        """
        delay = 2 * POLL
        if next_fire_at is not None:
            delay = min(delay, max(0.0, (next_fire_at - self._engine.store_now()) / 1e6))
        self._ticker.after(delay)

    @property
    def is_ticking(self) -> bool:
        """Whether it is firing something now."""
        return self._ticker.is_ticking

    async def _turn(self) -> float:
        return 0.0 if await self.tick() else POLL  # of one that is far behind there may be more

    async def tick(self) -> int:
        """Fire what is due now; return how many schedules that were.

        Raises:
            StoreError: the store cannot do it now; nothing is lost.
        """
        engine = self._engine
        due = await engine.store.schedules(due_by=engine.store_now())
        now = engine.store_now()
        firings = [
            (record, replace(made, lead=self._lead))
            for record in due
            if (made := firing(record, now))
        ]
        answers = await asyncio.gather(
            *(engine.committer.submit(made, patient=True) for _, made in firings)
        )
        for (record, made), answer in zip(firings, answers, strict=True):
            if isinstance(answer, Fired):
                self._tell(record, made)
        if any(isinstance(answer, NotLeading) for answer in answers):
            self._refused()
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
