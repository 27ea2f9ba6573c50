"""Sleeping: deadlines that are recorded first, and that nothing afterwards moves."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Status, Worker, now, sleep, sleep_until, step
from perdure.clock import SystemClock
from perdure.errors import InvalidDuration, InvalidValue, RunFailed
from perdure.model.records import WaitKind
from perdure.store import Store
from perdure.stores.memory import MemoryStore
from perdure.stores.sqlite import SqliteStore
from tests.engine.places import Halt, Place, eventually, finished, half_way, killed_and_finished


def flow_of(body: Callable[..., Any], **options: Any) -> Any:
    """Return what declares a workflow with this body."""

    def define(app: App) -> Any:
        return app.workflow(**options)(body)

    return define


class OffsetClock(SystemClock):
    """A clock that can be set."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> int:
        """Return microseconds since the epoch."""
        return super().now() + self.offset // timedelta(microseconds=1)


@pytest.fixture(params=["memory", "sqlite"])
def set_store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, OffsetClock]:
    """A store and the clock that decides there what is due."""
    clock = OffsetClock()
    if request.param == "memory":
        return MemoryStore(clock=clock), clock
    return SqliteStore(tmp_path / "perdure.db", clock=clock), clock


# --- what is waited for --------------------------------------------------------------------------


async def test_a_sleep_leaves_its_worker_and_is_never_early(place: Place):
    """The run is `waiting` for sleep with one row, and goes on behind the recorded deadline."""

    async def flow() -> datetime:
        await sleep("150ms")
        return now()

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        history = await life.reaches(run, "waiting", "sleep")
        [record] = history.steps
        assert (record.path, record.kind, record.outcome) == ("sleep", "sleep", "pending")
        assert history.due_at == record.due_at
        assert record.due_at - record.started_at >= timedelta(milliseconds=150)
        [wait] = (await life.store.history(run.id)).waits
        assert (wait.kind, wait.key) == (WaitKind.SLEEP, "sleep")
        ended_at = await run.result(timeout="5s")
        [ended] = (await run.history()).steps
    assert ended_at == ended.ended_at >= record.due_at
    assert ended.outcome == "ok"


async def test_every_sleep_has_a_timer_of_its_own(place: Place):
    """A loop of sleeps sleeps each time, also behind a kill in the middle of it."""
    halt = Halt()

    async def flow() -> int:
        for number in range(5):
            await sleep("30ms")
            if number == 2:
                await halt()
        return 5

    began = time.monotonic()
    assert await killed_and_finished(place, flow_of(flow), halt) == 5
    assert time.monotonic() - began >= 0.15


async def test_a_kill_moves_no_deadline(place: Place):
    """What is recorded stands: neither a restart nor another length in the code changes it."""

    def version(length: str) -> Any:
        async def flow() -> str:
            await sleep(length)
            return "awake"

        return flow_of(flow)

    async with place.life(version("300ms")) as life:
        run = await life.flow.enqueue()
        before = await life.reaches(run, "waiting", "sleep")
        await life.kill()
    async with place.life(version("1h")) as life:
        assert await life.get(run).result(timeout="5s") == "awake"
        after = await life.get(run).history()
    assert after.finished_at >= before.due_at
    assert after.finished_at - before.due_at < timedelta(seconds=2)


async def test_a_deadline_that_passed_while_nobody_lived_ends_the_sleep(place: Place):
    """A run is woken at once by the first worker there is."""

    async def flow() -> str:
        await sleep("50ms")
        return "awake"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        due_at = (await life.reaches(run, "waiting", "sleep")).due_at
    await eventually(lambda: datetime.now(UTC) > due_at)
    assert await finished(place, flow_of(flow), run) == "awake"


async def test_sleep_until_an_instant(place: Place):
    """It is not over before, and one that has passed is no wait."""
    instant = datetime.now(UTC) + timedelta(milliseconds=120)

    async def flow() -> list[bool]:
        await sleep_until(datetime(2001, 1, 1, tzinfo=UTC))
        early = now() < instant
        await sleep_until(instant)
        return [early, now() >= instant]

    async with place.life(flow_of(flow)) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == [True, True]


async def test_a_hundred_years_are_recorded(place: Place):
    """The deadline of a sleep that nobody here will see ends where it should."""

    async def flow() -> None:
        await sleep(timedelta(days=36_525))

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        history = await life.reaches(run, "waiting", "sleep")
        assert history.due_at.year - history.created_at.year in {99, 100}
        assert await run.cancel() == Status.CANCELLED


async def test_the_stores_clock_decides(set_store: tuple[Store, OffsetClock]):
    """Thirty days pass when that clock says so, and not before."""
    store, clock = set_store
    app = App(store)

    @app.workflow
    async def flow() -> str:
        await sleep("30d")
        return "awake"

    async def is_waiting() -> bool:
        return await run.status() is Status.WAITING

    async with app, Worker(app, poll="20ms"):
        run = await flow.enqueue()
        await eventually(is_waiting)
        clock.offset = timedelta(days=29)
        for _ in range(3):  # the worker has looked since
            await (await flow.options(id=f"other-{clock.offset}-{_}").enqueue()).cancel()
        assert await run.status() is Status.WAITING
        clock.offset = timedelta(days=30, seconds=1)
        assert await run.result(timeout="5s") == "awake"


# --- beside others -------------------------------------------------------------------------------


async def test_a_sleep_beside_a_step_keeps_the_order(place: Place):
    """Sleeps and steps of several branches end in the same order on a replay."""
    halt = Halt()
    orders: list[list[str]] = []

    async def work() -> str:
        return "work"

    async def flow() -> list[str]:
        order: list[str] = []

        async def sleeper(length: str) -> None:
            await sleep(length, name=f"sleep-{length}")
            order.append(length)

        async def worker() -> None:
            order.append(await step("work", work))

        await asyncio.gather(sleeper("60ms"), sleeper("30ms"), worker())
        orders.append(order)
        await halt()
        return order

    assert await killed_and_finished(place, flow_of(flow), halt) == ["work", "30ms", "60ms"]
    assert orders == [["work", "30ms", "60ms"]] * 2


async def test_a_race_against_a_sleep_replays(place: Place):
    """A time-out made of a sleep is given up when the step wins, and again on a replay."""
    halt = Halt()

    async def work() -> str:
        return "done"

    async def flow() -> str:
        racers = [asyncio.create_task(step("work", work)), asyncio.create_task(sleep("1h"))]
        done, left = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await halt()
        return next(iter(done)).result()

    run = await half_way(place, flow_of(flow), halt, given_up="sleep")
    assert await finished(place, flow_of(flow), run) == "done"


async def test_a_sleep_given_up_by_a_failed_attempt_is_slept_by_the_next(place: Place):
    """The next attempt of the run waits for its own length, counted from then."""
    attempts: list[float] = []

    async def flow() -> str:
        attempts.append(time.monotonic())
        task = asyncio.create_task(sleep("80ms"))
        if len(attempts) == 1:
            await asyncio.sleep(0.01)
            raise LookupError("first")
        await task
        return "slept"

    async with place.life(flow_of(flow, max_attempts=2)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="10s") == "slept"
        finished_at = time.monotonic()
    assert finished_at - attempts[1] >= 0.08


async def test_a_sleeping_run_can_be_cancelled(place: Place):
    """Cancelling needs nobody to wake up."""

    async def flow() -> None:
        await sleep("1h")

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "sleep")
        assert await run.cancel() == Status.CANCELLED


async def test_a_slot_is_free_while_a_run_sleeps(place: Place):
    """A worker of one slot executes another run meanwhile."""

    def define(app: App) -> Any:
        @app.workflow
        async def sleeper() -> str:
            await sleep("1h")
            return "awake"

        @app.job
        async def quick() -> str:
            return "quick"

        return sleeper, quick

    async with place.life(define, concurrency=1) as life:
        sleeper, quick = life.flow
        run = await sleeper.enqueue()
        assert await (await quick.enqueue()).result(timeout="5s") == "quick"
        assert await run.status() in {Status.RUNNING, Status.WAITING}
        await run.cancel()


# --- where it is called --------------------------------------------------------------------------


async def test_a_body_written_with_def_sleeps_by_blocking(place: Place):
    """There it returns when the time has come, and is recorded all the same."""

    def flow() -> str:
        sleep("40ms")
        return "awake"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "awake"
        [record] = (await run.history()).steps
    assert (record.kind, record.outcome) == ("sleep", "ok")


async def test_outside_of_a_run_it_is_an_ordinary_sleep():
    """So a body can be run here and now."""
    began = time.monotonic()
    await sleep("20ms")
    await sleep_until(datetime.now(UTC) - timedelta(days=1))
    assert 0.02 <= time.monotonic() - began < 2


async def test_a_body_written_with_def_sleeps_here_and_now():
    """It blocks its own thread, as it does on a worker."""
    app = App("memory://")

    @app.workflow
    def flow() -> float:
        began = time.monotonic()
        sleep("20ms")
        return time.monotonic() - began

    assert await flow.run() >= 0.02


async def test_a_sleep_inside_asyncio_timeout_is_refused(place: Place):
    """Its clock would start afresh with every replay."""

    async def flow() -> None:
        async with asyncio.timeout(60):
            await sleep("1h")

    async with place.life(flow_of(flow)) as life:
        with pytest.raises(RunFailed, match=r"asyncio\.timeout"):
            await (await life.flow.enqueue()).result(timeout="5s")


async def test_what_is_no_time_is_refused():
    """A bad duration and a naive datetime are errors where they are given."""
    with pytest.raises(InvalidDuration):
        sleep("soon")
    with pytest.raises(InvalidDuration):
        sleep("-1s")
    with pytest.raises(InvalidValue, match="naive"):
        sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001 -- what is tested
