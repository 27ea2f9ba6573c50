"""Schedules: each instant is fired once, across kills, restarts, edits and many schedulers."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from perdure import App, Context, Scheduler, Status, Worker, step
from perdure._runtime.firer import firing
from perdure.errors import (
    DefinitionError,
    InvalidSchedule,
    InvalidValue,
    RunFailed,
    ScheduleNotFound,
    UsageError,
)
from perdure.model.records import RunQuery
from perdure.model.schedules import FireSchedule, Schedule, ScheduleRecord
from perdure.telemetry import ScheduleHook, ScheduleMissed, ScheduleTriggered
from perdure.testing import Kit
from perdure.timing import Missed, Timing
from tests.engine.places import Place, eventually

SECOND = 1_000_000
MINUTE = 60 * SECOND
START = 1_799_992_800 * SECOND


def mailer(app: App) -> Any:
    """Declare a job that is scheduled by calls."""

    @app.job
    async def mail(ctx: Context[Any], to: str, subject: str = "daily") -> str:
        return f"{to} {subject} {ctx.meta.get('tenant')}"

    return mail


# --- by a call -----------------------------------------------------------------------------------


async def test_a_schedule_fires_at_its_instants():
    """With the arguments, meta and options of the call, in virtual time."""
    app = App()
    mail = mailer(app)
    async with Kit(app, start=datetime(2026, 1, 1, 12, tzinfo=UTC)) as kit:
        daily = await mail.options(meta={"tenant": "t"}, tags=("x",), priority=3).schedule(
            "0 8 * * *", "a@b.c", subject="hello"
        )
        assert await daily.next(2) == [
            datetime(2026, 1, 2, 8, tzinfo=UTC),
            datetime(2026, 1, 3, 8, tzinfo=UTC),
        ]
        await kit.advance("2d")
        runs = await kit.enqueued(mail)
        assert [await one.run.result() for one in runs] == ["a@b.c hello t"] * 2
        assert [(one.tags, one.priority) for one in runs] == [(("x",), 3)] * 2
        fires = await daily.fires()
        assert [(one.expected, one.outcome) for one in fires] == [
            (datetime(2026, 1, 3, 8, tzinfo=UTC), "on_time"),
            (datetime(2026, 1, 2, 8, tzinfo=UTC), "on_time"),
        ]
        assert [one.run for one in fires] == [runs[1].run.id, runs[0].run.id]
        cause = (await runs[0].run.history()).caused_by
        assert cause == f"schedule:{daily.key}@{fires[1].expected.timestamp() * 1e6:.0f}"


async def test_the_same_again_changes_nothing_and_another_replaces():
    """By its key: of the option, or of definition and arguments."""
    app = App()
    mail = mailer(app)
    async with Kit(app):
        first = await mail.schedule("0 8 * * *", "a@b.c")
        again = await mail.schedule("0 9 * * *", "a@b.c")
        other = await mail.schedule("0 8 * * *", "d@e.f")
        named = await mail.options(schedule_key="mine", timezone="Europe/Vienna").schedule(
            "@daily", "a@b.c"
        )
        await mail.options(schedule_key="mine").schedule(timedelta(minutes=90), "d@e.f")
        assert first.key == again.key != other.key
        assert named.key == "mine"
        entries = {one.key: one for one in await app.schedules()}
        assert set(entries) == {first.key, other.key, "mine"}
        assert (entries[first.key].when, entries["mine"].when) == ("0 9 * * *", "every 1h 30m")
        assert (entries["mine"].name, entries["mine"].missed) == ("mail", "once")


async def test_a_schedule_stays_when_its_process_goes(place: Place):
    """Another worker fires it, with real timers; the run that was started is not started again."""

    def define(app: App) -> Any:
        @app.job
        async def count(n: int) -> int:
            return n

        return count

    async with place.client(define) as client:
        every = await client.flow.schedule("1s", 5)
    for _ in range(2):
        async with place.life(define) as life:
            before = len(await life.app.schedule(every.key).fires())
            await eventually(partial(has_fired, life.app, every.key, before + 1))
            await life.kill()
    async with place.client(define) as client:
        fires = await client.app.schedule(every.key).fires()
        expected = [one.expected for one in fires]
        assert len(set(expected)) == len(expected)
        started = [one.run for one in fires if one.run is not None]
        assert len({*started}) == len(started)
        runs = await client.store.list_runs(RunQuery(limit=1000))
        assert {run.run_id for run in runs} == set(started)


async def has_fired(app: App, key: str, times: int) -> bool:
    """Tell whether a schedule has so many rows of fires."""
    return len(await app.schedule(key).fires()) >= times


async def test_many_schedulers_fire_each_instant_once(place: Place):
    """Five workers on one store: what is fired is what was expected."""

    def define(app: App) -> Any:
        @app.job
        async def count(n: int) -> int:
            return n

        return count

    lives = [place.life(define) for _ in range(5)]
    for life in lives:
        await life.__aenter__()
    every = await lives[0].flow.schedule("1s", 5)
    first = (await every.get()).next_at
    assert first is not None
    await eventually(lambda: has_fired(lives[0].app, every.key, 3))
    await every.pause()
    fires = await every.fires()
    for life in lives:
        await life.stop()
    instants: list[datetime] = []
    for fire in reversed(fires):
        instants += [fire.expected + timedelta(seconds=n) for n in range(fire.count)]
    assert instants == [first + timedelta(seconds=n) for n in range(len(instants))]
    async with place.client(define) as client:
        runs = await client.store.list_runs(RunQuery(limit=1000))
        assert len(runs) == len([fire for fire in fires if fire.run is not None])


@pytest.mark.parametrize("applied", [True, False], ids=["after", "before"])
async def test_a_kill_at_the_firing_neither_doubles_nor_loses(place: Place, applied: bool):
    """The instant is fired by the life after, unless it was recorded."""

    def define(app: App) -> Any:
        @app.job
        async def count(n: int) -> int:
            return n

        return count

    async with place.life(define) as life:
        every = await life.flow.schedule("1s", 5)
        first = (await every.get()).next_at
        life.store.doom = lambda batch: any(isinstance(one, FireSchedule) for one in batch)
        life.store.doomed_batch_is_applied = applied
        await asyncio.wait_for(life.store.died.wait(), 10)
        await life.kill()
    async with place.life(define) as life:
        handle = life.app.schedule(every.key)
        await eventually(lambda: has_fired(life.app, every.key, 1))
        await handle.pause()
        fires = await handle.fires()
        assert fires[-1].expected == first
        runs = await life.store.list_runs(RunQuery(limit=1000))
        assert len(runs) == len([one for one in fires if one.run is not None])


# --- with the definition -------------------------------------------------------------------------


def nightly(**options: Any) -> Any:
    """Return what declares a workflow with a schedule of its own."""

    def define(app: App) -> Any:
        @app.workflow(**options)
        async def report(n: int = 7) -> int:
            return n

        return report

    return define


async def test_a_definition_is_scheduled_where_a_worker_starts(place: Place):
    """It is found by the definition's name; a restart moves nothing; without it, it is gone."""
    async with place.life(nightly(cron="0 3 * * *", timezone="Europe/Vienna")) as life:
        [entry] = await life.app.schedules()
        assert (entry.key, entry.name, entry.from_code) == ("report", "report", True)
        assert entry.when == "0 3 * * * Europe/Vienna"
        await life.app.schedule("report").pause()
        other = await life.flow.options(schedule_key="by hand").schedule("@hourly")
    async with place.life(nightly(cron="0 3 * * *", timezone="Europe/Vienna")) as life:
        entries = await life.app.schedules()
        assert [one.key for one in entries] == ["by hand", "report"]
        assert (entries[1].next_at, entries[1].paused_at is None) == (entry.next_at, False)
    async with place.life(nightly(cron="0 4 * * *")) as life:
        assert (await life.app.schedule("report").get()).when == "0 4 * * *"
    async with place.life(nightly()) as life:
        assert [one.key for one in await life.app.schedules()] == [other.key]


async def test_a_renamed_definition_keeps_its_schedule(place: Place):
    """By its key: the next instant is where it was, and the new name is started."""
    async with place.life(nightly(every="1h")) as life:
        before = await life.app.schedule("report").get()

    def renamed(app: App) -> Any:
        @app.workflow(every="1h", schedule_key="report")
        async def summary() -> None: ...

        return summary

    async with place.life(renamed) as life:
        [after] = await life.app.schedules()
    assert (after.name, after.next_at) == ("summary", before.next_at)


async def test_a_worker_may_leave_schedules_to_others(place: Place):
    """It starts the runs that others fire."""
    async with place.life(nightly(every="1s"), scheduler=False) as life:
        assert life.worker is not None
        assert life.worker.leader is None
        assert len(await life.app.schedules()) == 1
        async with Worker(App(place.store())):
            await eventually(lambda: has_fired(life.app, "report", 1))
        [fire, *_] = await life.app.schedule("report").fires()
        assert await life.app.get(fire.run).result("5s") == 7


async def test_a_scheduler_alone_fires_and_executes_nothing(place: Place):
    """Also what is put while it runs, and without the definition's code."""

    def define(app: App) -> Any:
        @app.job
        async def count() -> None: ...

        return count

    alone = App(place.store())
    async with place.client(define) as client, Scheduler(alone):
        every = await client.flow.schedule("1s")
        await eventually(lambda: has_fired(client.app, every.key, 2))
        await every.pause()
        runs = await client.store.list_runs(RunQuery())
        assert {run.status for run in runs} == {Status.QUEUED}
    assert not alone.engine.is_open
    with pytest.raises(UsageError, match="Scheduler takes an App"):
        Scheduler("shop")  # type: ignore[arg-type]


async def test_a_body_that_needs_arguments_is_refused(place: Place):
    """Where a worker starts it, before anything is registered."""

    def define(app: App) -> Any:
        @app.workflow(cron="@daily")
        async def report(n: int) -> None: ...

    life = place.life(define)
    await life.app.connect()
    with pytest.raises(DefinitionError, match="its body needs no arguments"):
        await life.worker.start()  # type: ignore[union-attr]
    assert await life.app.schedules() == []
    await life.app.close()


# --- what was missed -----------------------------------------------------------------------------


def overdue(missed: Missed, minutes: int, every: int = MINUTE) -> FireSchedule:
    """Return the firing of a schedule whose next instant passed some minutes ago."""
    schedule = Schedule("k", Timing(every=every), "d", b"{}", missed=missed)
    record = ScheduleRecord(schedule, 0, START, START, START)
    made = firing(record, START + minutes * MINUTE)
    assert made is not None
    return made


def told(made: FireSchedule) -> list[tuple[int, str, int]]:
    """Return each fire as minutes after the start, outcome and count."""
    return [((one.expected - START) // MINUTE, str(one.outcome), one.count) for one in made.fires]


@pytest.mark.parametrize("missed", Missed)
def test_an_instant_in_time_is_fired_by_every_policy(missed: Missed):
    """Nothing else had passed."""
    made = overdue(missed, 0)
    assert told(made) == [(0, "on_time", 1)]
    assert made.next_at == START + MINUTE


def test_once_starts_the_newest():
    """The others are missed."""
    made = overdue(Missed.ONCE, 5)
    assert told(made) == [(0, "missed", 5), (5, "on_time", 1)]
    assert made.next_at == START + 6 * MINUTE
    late = overdue(Missed.ONCE, 300, 180 * MINUTE)
    assert told(late) == [(0, "missed", 1), (180, "late", 1)]


def test_skip_starts_what_is_in_time():
    """Late ones are left out."""
    assert told(overdue(Missed.SKIP, 5)) == [(0, "skipped", 5), (5, "on_time", 1)]
    assert told(overdue(Missed.SKIP, 5, 180 * MINUTE)) == [(0, "skipped", 1)]


def test_all_catches_up_to_a_cap():
    """Each has a run of its own; those older than the cap are missed."""
    assert told(overdue(Missed.ALL, 3)) == [
        (0, "caught_up", 1),
        (1, "caught_up", 1),
        (2, "caught_up", 1),
        (3, "on_time", 1),
    ]
    made = overdue(Missed.ALL, 250)
    assert told(made)[0] == (0, "missed", 151)
    assert len(made.fires) == 101


@pytest.mark.parametrize("missed", Missed)
def test_one_that_is_far_behind_is_brought_up_in_parts(missed: Missed):
    """Only the last part starts anything; together they have each instant once."""
    schedule = Schedule("k", Timing(every=SECOND), "d", b"{}", missed=missed)
    record = ScheduleRecord(schedule, 0, START, START, START)
    now, parts, counted = START + 95 * SECOND, 0, 0
    while (made := firing(record, now, most=30)) is not None:
        parts += 1
        counted += sum(one.count for one in made.fires)
        starts = [one for one in made.fires if str(one.outcome) not in {"missed", "skipped"}]
        assert bool(starts) is (parts == 4)
        record = ScheduleRecord(schedule, 0, START, START, made.next_at)
    assert (parts, counted) == (4, 96)


async def test_an_overdue_firing_survives_a_restart():
    """It is late, and fired once."""
    app = App()
    mail = mailer(app)
    async with Kit(app, start=datetime(2026, 1, 1, tzinfo=UTC)) as kit:
        daily = await mail.schedule("0 8 * * *", "a@b.c")
        kit.clock.move_to(kit.clock.now() + 50 * 3600 * SECOND)
        await kit.advance("1s")
        fires = [(one.outcome, one.count) for one in await daily.fires()]
        assert fires == [("late", 1), ("missed", 1)]
        assert len(await kit.enqueued(mail)) == 1


async def test_what_is_overdue_when_the_timing_changes_is_skipped():
    """By a call, and where a worker starts with another cron=; it is in the record."""
    app = App()
    mail = mailer(app)
    async with Kit(app, start=datetime(2026, 1, 1, tzinfo=UTC)) as kit:
        daily = await mail.schedule("0 8 * * *", "a@b.c")
        await daily.pause()
        kit.clock.move_to(kit.clock.now() + 56 * 3600 * SECOND)
        await mail.schedule("0 9 * * *", "a@b.c")
        await daily.resume()
        assert await daily.next(1) == [datetime(2026, 1, 3, 9, tzinfo=UTC)]
        [skipped] = await daily.fires()
        assert (skipped.outcome, skipped.count, skipped.run) == ("skipped", 3, None)
        assert skipped.expected == datetime(2026, 1, 1, 8, tzinfo=UTC)
        assert skipped.until == datetime(2026, 1, 3, 8, tzinfo=UTC)


async def test_what_became_of_an_instant_is_told():
    """Once it is recorded, by the process that fired it, with what the seeds' events carry."""
    app = App()
    mail = mailer(app)
    told: list[ScheduleHook] = []
    app.on(ScheduleHook)(told.append)
    async with Kit(app, start=datetime(2026, 1, 1, tzinfo=UTC)) as kit:
        daily = await mail.schedule("0 8 * * *", "a@b.c")
        await kit.advance("1d")
        kit.clock.move_to(kit.clock.now() + 72 * 3600 * SECOND)
        await kit.advance("1s")
        await eventually(lambda: len(told) == 3)
        runs = [one.run.id for one in await kit.enqueued(mail)]
    first, missed, late = told
    assert isinstance(first, ScheduleTriggered)
    assert isinstance(missed, ScheduleMissed)
    assert isinstance(late, ScheduleTriggered)
    assert {(one.key, one.name) for one in told} == {(daily.key, "mail")}
    assert (first.is_missed, late.is_missed) == (False, True)
    assert [first.run_id, late.run_id] == runs
    assert (missed.count, missed.last_fired_at) == (2, first.expected)
    assert missed.until == datetime(2026, 1, 3, 8, tzinfo=UTC)
    assert missed.triggered_at == missed.at


# --- the operator's verbs ------------------------------------------------------------------------


async def test_pause_resume_trigger_and_remove():
    """What passes while it is paused is skipped, and noted."""
    app = App()
    mail = mailer(app)
    async with Kit(app, start=datetime(2026, 1, 1, tzinfo=UTC)) as kit:
        daily = await mail.schedule("0 8 * * *", "a@b.c")
        await daily.pause()
        await kit.advance("3d")
        assert await kit.enqueued(mail) == []
        assert (await daily.get()).paused_at == datetime(2026, 1, 1, tzinfo=UTC)
        await daily.resume()
        [skipped] = await daily.fires()
        assert (skipped.outcome, skipped.count, skipped.run) == ("skipped", 3, None)
        assert (await daily.get()).next_at == datetime(2026, 1, 4, 8, tzinfo=UTC)
        run = await daily.trigger()
        await kit.finish(run)
        assert await run.result() == "a@b.c daily None"
        await daily.remove()
        await daily.remove()
        await kit.advance("3d")
        assert len(await kit.enqueued(mail)) == 1
        for verb in (daily.get, daily.pause, daily.resume, daily.trigger, daily.next):
            with pytest.raises(ScheduleNotFound, match="there is no schedule"):
                await verb()


async def test_a_backfill_starts_what_was_not_fired():
    """Runs that are there are left alone; again, it changes nothing."""
    app = App()
    mail = mailer(app)
    async with Kit(app, start=datetime(2026, 1, 5, tzinfo=UTC)) as kit:
        daily = await mail.schedule("0 8 * * *", "a@b.c")
        await kit.advance("1d")
        start, end = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC)
        runs = await daily.backfill(start, end)
        assert len(runs) == 4
        assert {one.id for one in await daily.backfill(start, end)} == {one.id for one in runs}
        await kit.settle()
        assert len(await kit.enqueued(mail)) == 4
        with pytest.raises(UsageError, match="end is not over yet"):
            await daily.backfill(start, datetime(2027, 1, 1, tzinfo=UTC))
        every = await mail.options(schedule_key="x").schedule("6h", "a@b.c")
        assert len(await every.backfill(start, start + timedelta(days=1))) == 4


# --- mistakes ------------------------------------------------------------------------------------


async def test_wrong_timings_store_nothing():
    """Each is refused where it is given, and says what to write."""
    app = App()
    mail = mailer(app)
    async with Kit(app):
        for when, error, says in (
            ("0 8 * *", InvalidSchedule, "no interval"),
            ("61 * * * *", InvalidSchedule, "Bad minute"),
            ("0 0 31 2 *", InvalidSchedule, "is no cron expression"),
            ("@often", InvalidSchedule, "there are @yearly"),
            ("0s", InvalidSchedule, "shorter than a second"),
            (5, InvalidSchedule, "needs a unit"),
        ):
            with pytest.raises(error, match=says):
                await mail.schedule(when, "a@b.c")
        with pytest.raises(InvalidSchedule, match="no time zone 'Mars/Base'"):
            await mail.options(timezone="Mars/Base").schedule("@daily", "a@b.c")
        with pytest.raises(InvalidSchedule, match="the same in every time zone"):
            await mail.options(timezone="Europe/Vienna").schedule("1h", "a@b.c")
        with pytest.raises(InvalidValue):
            await mail.schedule("@daily", 42)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="name one run, not many"):
            await mail.options(id="x").schedule("@daily", "a@b.c")
        with pytest.raises(UsageError, match="missed is 'skip', 'once' or 'all'"):
            mail.options(missed="never")  # type: ignore[arg-type]
        with pytest.raises(InvalidSchedule, match="either cron=… or every=…"):
            app.workflow(cron="@daily", every="1h")(len)
        with pytest.raises(DefinitionError, match="belong to a schedule"):
            app.workflow(name="x", timezone="Europe/Vienna")(mailer)
        assert await app.schedules() == []


async def test_a_body_schedules_in_a_step(place: Place):
    """It is idempotent, and no durable call."""

    def define(app: App) -> Any:
        mail = mailer(app)

        async def put() -> str:
            return (await mail.schedule("@daily", "a@b.c")).key

        @app.workflow
        async def flow(inside: bool) -> str:
            if inside:
                return await step("put", put)
            return (await mail.schedule("@daily", "a@b.c")).key

        return flow

    async with place.life(define) as life:
        key = await (await life.flow.enqueue(True)).result("5s")
        assert [one.key for one in await life.app.schedules()] == [key]
        with pytest.raises(RunFailed, match="no durable call"):
            await (await life.flow.enqueue(False)).result("5s")
