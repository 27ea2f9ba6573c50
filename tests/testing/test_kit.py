"""The kit: virtual time, what it fails a test for, and what it leaves behind."""

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from perdure import App, Worker, constant, step
from perdure.errors import AppNotReady, RunFailed, RunNotFound, UnknownDefinition, UsageError
from perdure.testing import Hung, Kit, Orphaned, Swallowed, WorkLeft
from tests.testing import shop
from tests.testing.shop import Order

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def fresh_ledger(tmp_path):
    """The shop's ledger begins empty."""
    shop.ledger.keep_in(tmp_path / "ledger")
    yield
    shop.ledger.keep_in(None)


# --- time ---------------------------------------------------------------------------------------


async def test_a_back_off_of_thirty_days_takes_no_time():
    """Three attempts ninety days apart are over before a second has passed, at the right time."""
    began = time.monotonic()
    async with Kit(shop.app) as kit:
        kit.fail(shop.charge, ConnectionError("away"), times=2)
        started = kit.now
        run = await shop.fulfil.enqueue(Order("o1", 5))
        await kit.advance("30d")
        assert await run.status() == "waiting"
        await kit.advance("59d")
        assert await run.status() == "waiting"
        await kit.advance("1d")
        assert await run.result() == "paid 5, reserved, 2 boxes"
        (charge, *_) = (await run.history()).steps
        assert charge.ended_at == started + timedelta(days=90)
    assert time.monotonic() - began < 5


async def test_advancing_stops_at_everything_that_is_due():
    """What becomes due on the way happens at its own time, not at the end of the way."""
    async with Kit(shop.app, services="bank") as kit:
        run = await shop.refund.enqueue("o1")
        started = kit.now
        await kit.advance("10 days")
        history = await run.history()
        assert [attempt.ended_at - started for attempt in history.attempts] == [
            timedelta(0),
            timedelta(days=3),
        ]
        assert history.finished_at == started + timedelta(days=6)
        assert kit.now == started + timedelta(days=10)
        assert await run.result() == "refunded by bank"


async def test_run_skips_every_wait():
    """`kit.run` returns the result, whatever had to be waited for, and raises like `result`."""
    async with Kit(shop.app, services="bank") as kit:
        assert await kit.run(shop.refund, "o1") == "refunded by bank"
        assert await kit.run(shop.pack.options(priority=3), "o2", boxes=4) == "4 boxes"
        with pytest.raises(RunFailed):
            await kit.run(shop.refuse, "o3")


async def test_waits_can_be_skipped_unasked():
    """With skip_waits the test simply awaits its results."""
    async with Kit(shop.app, services="bank", skip_waits=True):
        run = await shop.refund.enqueue("o1")
        delayed = await shop.pack.delay("365d", "o2")
        assert await run.result() == "refunded by bank"
        assert await delayed.result() == "1 boxes"


async def test_finish_without_runs_finishes_all():
    """Everything that the worker serves has ended then."""
    async with Kit(shop.app, services="bank") as kit:
        runs = [await shop.refund.enqueue("o1"), await shop.pack.delay("2d", "o2")]
        await kit.finish()
        assert [await run.status() for run in runs] == ["completed", "completed"]


async def test_a_back_off_inside_of_a_step_moves_with_time():
    """It keeps its step in memory, and ends all the same when time comes to it."""
    async with Kit(shop.app) as kit:
        kit.fail(shop.charge, ConnectionError("away"), times=1)
        run = await shop.nested.enqueue("o1")
        await kit.settle()
        assert await run.status() == "running"
        await kit.advance("30d")
        assert await run.result() == "paid 7"


async def test_a_hanging_step_times_out_when_time_comes_to_it():
    """Its timeout is virtual; it is believed to hang after the patience."""
    async with Kit(shop.app, patience="200ms") as kit:
        run = await shop.hanging_step.enqueue()
        await kit.advance("1m")
        assert await run.result() == "gave up"


async def test_bodies_in_threads_settle():
    """`def` bodies, and threads that a body starts, are waited for."""
    async with Kit(shop.app) as kit:
        assert await kit.run(shop.in_a_thread, "o1") == "reserved"
        assert await kit.run(shop.carried) == "reserved"


async def test_time_that_stands_still_can_begin_anywhere():
    """The start of virtual time is the test's choice, and bodies see it."""
    app = App()

    @app.workflow
    async def flow() -> None:
        await step("a", asyncio.sleep, 0)

    async with Kit(app) as kit:
        run = await flow.enqueue()
        await kit.settle()
        history = await run.history()
        assert history.created_at == history.finished_at == kit.now
        assert kit.now.year == 2030


# --- what fails a test --------------------------------------------------------------------------


async def test_a_body_that_hangs_is_named():
    """The failure names definition, run, file and line."""
    with pytest.raises(Hung, match=r"'hangs' \(run .*shop\.py:\d+ in hangs"):
        async with Kit(shop.app, patience="200ms"):
            await shop.hangs.enqueue()


async def test_a_test_that_waits_for_a_body_that_hangs_fails():
    """Nothing of the kit is being awaited then, and the test is ended all the same."""
    with pytest.raises(Hung, match=r"(?s)of 'hangs' is running at .*shop\.py:\d+ in hangs"):
        async with Kit(shop.app, patience="200ms"):
            run = await shop.hangs.enqueue()
            await run.result()


async def test_a_test_that_waits_for_time_that_stands_still_fails():
    """The message says what to do."""
    with pytest.raises(Hung, match=r"(?s)'refund' is waiting for retry until 2030-.*kit\.advance"):
        async with Kit(shop.app, services="bank", patience="200ms"):
            run = await shop.refund.enqueue("o1")
            await run.result()


async def test_a_body_in_a_thread_that_hangs_is_named():
    """The place is the thread's."""
    app, gate = App(), threading.Event()

    @app.workflow
    def blocks() -> None:
        gate.wait()

    try:
        with pytest.raises(Hung, match=r"'blocks' \(run .*test_kit\.py:\d+ in blocks"):
            async with Kit(app, patience="200ms"):
                await blocks.enqueue()
    finally:
        gate.set()


async def test_a_body_that_cannot_be_cancelled_does_not_hang_the_test():
    """Its coroutine is closed over its head."""
    app = App()

    @app.workflow
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    with pytest.raises(Hung, match="stubborn"):
        async with Kit(app, patience="100ms"):
            await stubborn.enqueue()


async def test_work_that_never_comes_to_rest_is_named():
    """A body that makes one step after the other, for ever, and time never moves."""
    app = App()

    @app.workflow
    async def endless() -> None:
        while True:
            await step("again", asyncio.sleep, 0)

    with pytest.raises(Hung, match=r"has not come to rest .*\n.* of 'endless' is running"):
        async with Kit(app, patience="50ms"):
            await endless.enqueue()


async def test_a_swallowed_suspension_fails():
    """The message names definition and run."""
    with pytest.raises(Swallowed, match=r"the body of 'swallows' \(run .*went on"):
        async with Kit(shop.app) as kit:
            run = await shop.swallows.enqueue()
            kit.expect_pending(run)
            await kit.settle()


async def test_work_left_fails():
    """Each run is named, with what it waits for."""
    with pytest.raises(
        WorkLeft, match=r"(?s)2 runs .*'pack' is waiting for delay.*'refund'.*retry"
    ):
        async with Kit(shop.app):
            await shop.pack.delay("1d", "o1")
            await shop.refund.enqueue("o2")


async def test_work_that_is_expected_to_be_left_does_not():
    """So does none that the worker does not serve."""
    async with Kit(shop.app, only=[shop.refund]) as kit:
        kit.expect_pending(await shop.refund.enqueue("o2"))
        await shop.pack.enqueue("o1")


async def test_an_orphaned_step_fails():
    """A body that does something else in a replay leaves a record that it does not ask for."""
    app, passes = App(), [0]

    @app.job
    async def child() -> None: ...

    @app.workflow
    async def unsteady() -> None:
        passes[0] += 1
        await step(f"pass-{passes[0]}", asyncio.sleep, 0)
        run = await child.delay("1d")
        await run.result()

    with pytest.raises(Orphaned, match=r"'unsteady' completed without .*pass-1"):
        async with Kit(app) as kit:
            await unsteady.enqueue()
            await kit.finish()


async def test_an_error_of_the_test_is_not_covered_up():
    """What the test itself raised comes out, whatever work is left."""
    with pytest.raises(ZeroDivisionError):
        async with Kit(shop.app):
            await shop.pack.delay("1d", "o1")
            raise ZeroDivisionError


async def test_a_run_that_time_does_not_bring_is_named():
    """A child that nobody serves holds its parent."""
    with pytest.raises(Hung, match=r"'fulfil' is waiting for child"):
        async with Kit(shop.app, only=["fulfil"]) as kit:
            await kit.run(shop.fulfil, Order("o1", 5))


# --- looking ------------------------------------------------------------------------------------


async def test_what_was_enqueued():
    """Runs with their arguments decoded, and the options of their call."""
    async with Kit(shop.app, only=[shop.refund]) as kit:
        await shop.fulfil.options(meta={"tenant": "a"}, tags=("x",), priority=-1).enqueue(
            Order("o1", 5)
        )
        await shop.pack.delay("10m", "o2")
        (first,) = await kit.enqueued(shop.fulfil)
        assert first.arguments == {"order": Order("o1", 5)}
        assert (first.meta, first.tags, first.priority) == ({"tenant": "a"}, ("x",), -1)
        (second,) = await kit.enqueued("pack")
        assert second.arguments == {"order_id": "o2", "boxes": 1}
        assert second.delay == timedelta(minutes=10)
        assert [each.name for each in await kit.enqueued()] == ["fulfil", "pack"]
        with pytest.raises(UnknownDefinition):
            await kit.enqueued("packs")


async def test_children_know_their_parent():
    """What a body enqueued is found like anything else."""
    async with Kit(shop.app) as kit:
        run = await shop.fulfil.enqueue(Order("o1", 5))
        await kit.finish()
        (child,) = await kit.enqueued(shop.pack)
        assert (child.parent_id, child.arguments) == (run.id, {"order_id": "o1", "boxes": 2})
        assert await child.run.result() == "2 boxes"


async def test_the_history_of_no_run():
    """A handle of elsewhere names no run of the kit's store."""
    async with Kit(shop.app) as kit:
        with pytest.raises(RunNotFound):
            await kit.history(shop.app.get("nothing"))


# --- what is left behind ------------------------------------------------------------------------


async def test_the_app_is_as_it_was():
    """Store, ports, stand-ins, and no task of the kit."""
    engine = shop.app.engine
    before = engine.configured, engine.ports, engine.clock, engine.stand_in
    tasks = asyncio.all_tasks()
    with pytest.raises(Hung):
        async with Kit(shop.app, patience="100ms"):
            await shop.hangs.enqueue()
    async with Kit(shop.app) as kit:
        await kit.run(shop.pack, "o1")
    assert (engine.configured, engine.ports, engine.clock, engine.stand_in) == before
    assert asyncio.all_tasks() == tasks
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_no_thread_is_started():
    """A kit whose bodies start none has none, not even for the heartbeat."""
    before = set(threading.enumerate())
    async with Kit(shop.app) as kit:
        await kit.run(shop.pack, "o1")
        assert set(threading.enumerate()) == before


async def test_a_connected_app_cannot_be_tested():
    """What runs keeps its store; the error is typed and the app goes on."""
    app = App("memory://")

    @app.job
    async def job() -> int:
        return 1

    async with app, Worker(app):
        with pytest.raises(AppNotReady, match="the app is connected"):
            async with Kit(app):
                pass
        assert await (await job.enqueue()).result() == 1


async def test_definitions_that_do_not_exist_are_refused():
    """`only` names what the app has; otherwise nothing was swapped."""
    engine = shop.app.engine
    before = engine.configured, engine.ports
    with pytest.raises(UnknownDefinition, match="did you mean 'fulfil'"):
        async with Kit(shop.app, only=["fulfill"]) as kit:
            pass
    assert (engine.configured, engine.ports) == before
    async with Kit(shop.app) as kit:
        assert await kit.run(shop.pack, "o1")


async def test_jitter_is_left_out():
    """A back-off takes its full length, so a test can say to the second when an attempt comes."""
    app = App()

    @app.job(max_attempts=2, backoff=constant("1h", jitter=1.0))
    async def flaky() -> None:
        raise ConnectionError

    async with Kit(app) as kit:
        run = await flaky.enqueue()
        await kit.advance("59m")
        assert await run.status() == "waiting"
        await kit.advance("1m")
        assert await run.status() == "failed"


async def test_a_kit_in_an_async_test_does_not_crash_workflows():
    """The message names what does."""
    with pytest.raises(UsageError, match=r"await perdure\.testing\.crash_everywhere"):
        Kit(shop.app).crash_everywhere(shop.pack, "o1")
