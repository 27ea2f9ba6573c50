"""The handle of a schedule: how it stands, what became of its instants, and the verbs on it."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from perdure._engine import late
from perdure._engine.engine import Engine
from perdure._runtime import late as late_services
from perdure.clock import to_datetime, to_micros_instant
from perdure.duration import Duration
from perdure.errors import ScheduleNotFound, UsageError, shown
from perdure.handle import Run, run_of
from perdure.ids import check_id
from perdure.model.records import Micros
from perdure.timing import Timing, instants, next_instant, text_of, timing_of

if TYPE_CHECKING:
    from perdure._runtime.why_schedule import ScheduleWhy
    from perdure.model.schedules import Fire, Schedule, ScheduleRecord
    from perdure.model.transitions import CreateRun

MOST_BACKFILLED = 10_000
"""Instants that one backfill takes."""


class ScheduleEntry(msgspec.Struct, frozen=True):
    """A schedule as the store keeps it.

    Attributes:
        name: of the definition that it starts.
        when: its cron expression and time zone, or its interval, for people.
        missed: ``skip``, ``once`` or ``all``.
        next_at: the next instant; while it is paused, the first that was not fired.
        last_at: the newest instant that something became of.
        paused_at: since when it is paused.
        from_code: it is declared with its definition.
    """

    key: str
    name: str
    when: str
    missed: str
    next_at: datetime | None
    last_at: datetime | None
    paused_at: datetime | None
    created_at: datetime
    from_code: bool


class FireEntry(msgspec.Struct, frozen=True):
    """What became of an expected instant, or of several in a row.

    Attributes:
        expected, until: the first and the last of them.
        count: how many they are.
        outcome: ``on_time``, ``late``, ``caught_up``, ``missed`` or ``skipped``.
        at: when that was noted.
        run: the id of the run that was started.
    """

    expected: datetime
    until: datetime
    count: int
    outcome: str
    at: datetime
    run: str | None


def timing_given(when: str | Duration, timezone: str | None) -> Timing:
    """Return when a schedule has its instants: a text is a cron expression or an interval.

    Raises:
        InvalidSchedule, InvalidDuration: it is neither.
    """
    if isinstance(when, str) and (when.startswith("@") or len(when.split()) in {5, 6}):
        return timing_of(when, None, timezone)
    return timing_of(None, when, timezone)


async def put_schedule(engine: Engine, schedule: Schedule) -> None:
    """Store a schedule, whose first instant is the next from now on."""
    engine.check_loop()
    next_at = next_instant(schedule.timing, engine.store_now())
    await late_services.firer.put(engine, late.schedules.PutSchedule(schedule, next_at))


class ScheduleHandle:
    """A schedule, whoever fires it. Handles are cheap and hold nothing open."""

    __slots__ = ("_engine", "key")

    def __init__(self, key: str, engine: Engine) -> None:
        self.key = check_id(key, "a schedule's key")
        self._engine = engine

    def __repr__(self) -> str:
        return f"<schedule {self.key!r}>"

    async def get(self) -> ScheduleEntry:
        """Return how it stands.

        Raises:
            ScheduleNotFound: there is none of this key.
        """
        return schedule_entry(await self._record())

    async def fires(self, limit: int = 100) -> list[FireEntry]:
        """Return what became of its instants, newest first.

        Args:
            limit: 1 to 1,000; so many are kept.

        Raises:
            UsageError: the limit is none.
        """
        _check_count("limit", limit, 1_000)
        self._engine.check_loop()
        return [_fire_entry(one) for one in await self._engine.store.fires(self.key, limit)]

    async def why(self) -> ScheduleWhy:
        """Return why it does not fire, or nothing comes of it: a sentence, and the facts in it.

        Raises:
            ScheduleNotFound: there is none of this key.
        """
        self._engine.check_loop()
        found = await late_services.why_schedule.why(self._engine.store, self.key)
        if found is None:
            raise self._missing()
        return found

    async def next(self, count: int = 5) -> list[datetime]:
        """Return its next instants, as if it were not paused.

        Args:
            count: 1 to 1,000.

        Raises:
            ScheduleNotFound: there is none of this key.
            UsageError: the count is none.
        """
        _check_count("count", count, 1_000)
        record = await self._record()
        if record.next_at is None:
            return []
        behind = islice(instants(record.schedule.timing, record.next_at), count - 1)
        return [to_datetime(record.next_at), *map(to_datetime, behind)]

    async def pause(self) -> None:
        """Fire nothing until it is resumed.

        Raises:
            ScheduleNotFound: there is none of this key.
        """
        self._engine.check_loop()
        self._check(await self._engine.committer.submit(late.schedules.PauseSchedule(self.key)))

    async def resume(self) -> None:
        """Fire again, from the next instant on; those that passed meanwhile are skipped.

        Raises:
            ScheduleNotFound: there is none of this key.
        """
        record = await self._record()
        now = self._engine.store_now()
        next_at, skipped = late_services.firer.passed_over(record, now)
        resume = late.schedules.ResumeSchedule(self.key, record.next_at, next_at, skipped)
        self._check(await self._engine.committer.submit(resume))

    async def remove(self) -> None:
        """Forget it, if it is there; the runs that it has started stand.

        One that is declared with its definition comes back with the next worker that starts.
        """
        self._engine.check_loop()
        await self._engine.committer.submit(late.schedules.RemoveSchedule(self.key))

    async def trigger(self) -> Run[Any]:
        """Start a run of it now, beside its instants.

        Raises:
            ScheduleNotFound: there is none of this key.
        """
        record = await self._record()
        now, ids = self._engine.store_now(), self._engine.ids
        create = late.transitions.start_of(record.schedule, now)
        cause = late.schedules.cause_of_firing(self.key, now)
        return await self._started(create, ids.run_id(), ids.token(), cause)

    async def backfill(self, start: datetime, end: datetime) -> list[Run[Any]]:
        """Start the runs of instants that were not fired; those that were are left alone.

        Args:
            start: an aware datetime, inclusive.
            end: an aware datetime, exclusive.

        Returns:
            The runs of all instants in between, oldest first.

        Raises:
            ScheduleNotFound: there is none of this key.
            UsageError: there are more than 10,000 instants, or they are not over yet.
            InvalidValue: a datetime is naive.
        """
        first, last = to_micros_instant(start), to_micros_instant(end)
        record = await self._record()
        if last > self._engine.store_now():
            raise UsageError("backfill(…) is for instants that have passed; end is not over yet")
        found: list[Micros] = []
        for instant in instants(record.schedule.timing, first - 1):
            if instant >= last:
                break
            if len(found) == MOST_BACKFILLED:
                raise UsageError(f"there are more than {MOST_BACKFILLED:,} instants; take a part")
            found.append(instant)
        starts = [late.transitions.start_of(record.schedule, instant) for instant in found]
        return [await self._started(one, one.run_id, one.token, one.caused_by) for one in starts]

    async def _started(
        self, create: CreateRun, run_id: str, token: int, cause: str | None
    ) -> Run[Any]:
        made = late.transitions.CreateRun(
            run_id,
            create.definition,
            create.input,
            token,
            create.version,
            create.queue,
            create.priority,
            meta=create.meta,
            options=create.options,
            tags=create.tags,
            caused_by=cause,
            limit_key=create.limit_key,
            retention=create.retention,
        )
        await self._engine.committer.submit(made)
        found = await self._engine.store.get(run_id)
        assert found is not None, "it was created just now"
        return run_of(found, self._engine)

    async def _record(self) -> ScheduleRecord:
        self._engine.check_loop()
        for record in await self._engine.store.schedules():
            if record.schedule.key == self.key:
                return record
        raise self._missing()

    def _check(self, answer: object) -> None:
        if isinstance(answer, late.schedules.Unscheduled):
            raise self._missing()

    def _missing(self) -> ScheduleNotFound:
        return ScheduleNotFound(f"there is no schedule {self.key!r} here")


def schedule_entry(record: ScheduleRecord) -> ScheduleEntry:
    """Return a schedule for people."""
    schedule = record.schedule
    return ScheduleEntry(
        schedule.key,
        schedule.definition,
        text_of(schedule.timing),
        str(schedule.missed),
        _instant(record.next_at),
        _instant(record.last_at),
        _instant(record.paused_at),
        to_datetime(record.created_at),
        schedule.from_code,
    )


def _fire_entry(fire: Fire) -> FireEntry:
    return FireEntry(
        to_datetime(fire.expected),
        to_datetime(fire.until),
        fire.count,
        str(fire.outcome),
        to_datetime(fire.at),
        fire.run_id,
    )


def _instant(micros: Micros | None) -> datetime | None:
    return None if micros is None else to_datetime(micros)


def _check_count(what: str, given: object, most: int) -> None:
    if type(given) is not int or not 1 <= given <= most:
        raise UsageError(f"{what} must be a whole number from 1 to {most:,}, got {shown(given)}")
