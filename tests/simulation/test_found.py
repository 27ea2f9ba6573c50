"""What the simulation found, each as a small test of its own."""

import asyncio
import gc
import logging
import weakref
from datetime import datetime

import pytest

from perdure import App, Status, Worker, now, sleep, step, wait_for_event
from perdure.errors import EventTimeout, OutcomeUnknown, StoreBusy
from perdure.model.events import TakeEvent
from perdure.model.records import Grant, StepOutcome
from perdure.model.transitions import (
    Claim,
    CreateRun,
    PauseRun,
    RegisterWorker,
    SaveCheckpoint,
)
from perdure.stores.memory import MemoryStore
from perdure.testing.contract.desk import pending
from tests.simulation.alone import Alone


def _ignore(task: asyncio.Task) -> None:
    task.exception()


class BusyStore(MemoryStore):
    """A store that takes its time, and refuses so many batches from some moment on."""

    refusals = 0

    async def apply(self, batch):
        await asyncio.sleep(0.1)
        if self.refusals:
            self.refusals -= 1
            raise StoreBusy("another writer holds the store")
        return await super().apply(batch)


def test_a_run_claimed_again_while_its_body_unwinds_is_not_forgotten():
    """The old activation's end does not strike the new one from what the worker holds."""

    async def main(app: App) -> int:
        @app.workflow
        async def child() -> None:
            await asyncio.sleep(0.1)

        @app.workflow
        async def parent() -> None:
            run = await child.enqueue()
            try:
                await run.result()
            finally:
                await asyncio.sleep(0.5)
            await asyncio.sleep(30.0)

        async with app, Worker(app):
            run = await parent.enqueue()
            await run.result()
            record = await app.engine.store.get(run.id)
            return record.epoch

    assert Alone().run(main) == 2


def test_what_a_failed_attempt_gave_up_is_tried_again():
    """A step cancelled because its sibling failed does not keep the next attempt waiting."""

    async def main(app: App) -> list[str]:
        attempts: list[str] = []

        async def fails_once() -> None:
            attempts.append("fails")
            if len(attempts) == 1:
                raise ValueError("once")

        async def takes_long() -> str:
            await asyncio.sleep(1.0)
            return "slow"

        @app.workflow(max_attempts=2)
        async def both() -> list[str]:
            async with asyncio.TaskGroup() as group:
                slow = group.create_task(step("slow", takes_long))
                await step.options(max_attempts=1)("fails", fails_once)
            return [slow.result()]

        async with app, Worker(app):
            return await (await both.enqueue()).result(timeout="1m")

    assert Alone().run(main) == ["slow"]


def test_all_that_failed_in_a_gather_is_tried_again():
    """gather raises the first error; the second does not end the next attempt by itself."""

    async def main(app: App) -> list[str]:
        failures: list[str] = []

        async def fails_once(name: str) -> str:
            if name not in failures:
                failures.append(name)
                raise ValueError(name)
            return name

        @app.workflow(max_attempts=2)
        async def both() -> list[str]:
            once = step.options(max_attempts=1)
            return await asyncio.gather(once("a", fails_once, "a"), once("b", fails_once, "b"))

        async with app, Worker(app):
            return await (await both.enqueue()).result(timeout="1m")

    assert Alone().run(main) == ["a", "b"]


def test_a_step_that_failed_unseen_is_tried_again():
    """Its failure is being written when the body fails of something else: nobody saw it."""
    alone = Alone()

    async def main(app: App) -> list[str]:
        attempts: list[int] = []
        failures: list[str] = []

        async def fails_once() -> str:
            if not failures:
                failures.append("failed")
                raise ValueError("unseen")
            return "done"

        async def refuse_once() -> str:
            await asyncio.sleep(0.05)
            if len(attempts) == 1:
                raise ValueError("not yet")
            return "allowed"

        @app.workflow(max_attempts=2)
        async def both() -> list[str]:
            attempts.append(1)
            once = step.options(max_attempts=1)("fails", fails_once)
            return await asyncio.gather(refuse_once(), once)

        async with app, Worker(app):
            return await (await both.enqueue()).result(timeout="1m")

    assert alone.run(main, BusyStore(clock=alone.clock)) == ["allowed", "done"]


def test_now_is_equal_on_replay_after_a_child():
    """What a body is told of the time behind a child's result does not change."""

    async def main(app: App) -> list[datetime]:
        seen: list[datetime] = []

        @app.workflow
        async def child(seconds: float) -> None:
            await asyncio.sleep(seconds)

        @app.workflow
        async def parent() -> None:
            first = await child.enqueue(0.01)
            await first.result()
            seen.append(now())
            second = await child.enqueue(5.0)
            seen.append(now())
            await second.result()

        async with app, Worker(app):
            await (await parent.enqueue()).result()
        return seen

    first, second, *replayed = Alone().run(main)
    assert replayed == [first, second]


@pytest.mark.parametrize("refusals", range(5, 10))
def test_a_stop_during_an_outage_fails_no_run(refusals: int, caplog: pytest.LogCaptureFixture):
    """A verdict that could not be written is not replaced by the reason why it could not."""
    caplog.set_level(logging.CRITICAL, "perdure")
    alone = Alone()
    store = BusyStore(clock=alone.clock)

    async def main(app: App) -> Status:
        @app.workflow
        async def work() -> None:
            await asyncio.sleep(1.0)
            store.refusals = refusals

        async def ask_for_more() -> None:
            for _ in range(100):
                asyncio.create_task(work.enqueue()).add_done_callback(_ignore)
                await asyncio.sleep(0.03)

        async with app:
            worker = Worker(app)
            await worker.start()
            run = await work.enqueue()
            await asyncio.sleep(1.0)
            await worker.stop()
            others = asyncio.create_task(ask_for_more())
        others.cancel()
        store.refusals = 0
        await store.open()
        record = await store.get(run.id)
        assert record is not None
        return record.status

    assert alone.run(main, store) is not Status.FAILED


def test_a_function_made_in_a_body_is_let_go():
    """A closure that was a step is not kept when the run has ended."""
    made: list[weakref.ref] = []

    async def main(app: App) -> None:
        @app.workflow
        async def work() -> None:
            async def closure() -> None:
                await asyncio.sleep(0.0)

            made.append(weakref.ref(closure))
            await step("closure", closure)

        async with app, Worker(app):
            await (await work.enqueue()).result()

    Alone().run(main)
    gc.collect()
    assert [reference() for reference in made] == [None]


def test_a_body_awaits_a_run_of_another_also_while_the_store_is_away():
    """That the store cannot say whether there is such a run is no error of the body."""
    alone = Alone()

    class Away(MemoryStore):
        times = 7

        async def get(self, run_id):
            if self.times and asyncio.current_task().get_coro().__name__ != "main":
                self.times -= 1
                raise OutcomeUnknown("no answer")
            return await super().get(run_id)

    async def main(app: App) -> str:
        @app.workflow
        async def other() -> str:
            return "done"

        @app.workflow
        async def work(run_id: str) -> str:
            return await other.get(run_id).result()

        async with app, Worker(app):
            run = await other.enqueue()
            return await (await work.enqueue(run.id)).result(timeout="1m")

    store = Away(clock=alone.clock)
    assert alone.run(main, store) == "done"
    assert store.times == 0


def test_a_wait_for_an_event_does_not_ask_in_circles():
    """Where the store's clock was set back, its deadline has come here and not yet there."""
    alone = Alone()
    back = 0

    class SetBack:
        def now(self) -> int:
            return alone.clock.now() - back

    class Counting(MemoryStore):
        asked = 0

        async def apply(self, batch):
            self.asked += sum(isinstance(one, TakeEvent) for one in batch)
            return await super().apply(batch)

    async def main(app: App) -> None:
        nonlocal back

        @app.workflow
        async def work() -> None:
            busy = asyncio.create_task(asyncio.sleep(10.0))  # keeps it in memory
            with pytest.raises(EventTimeout):
                await wait_for_event("never", timeout="3s")
            await busy

        async with app, Worker(app):
            run = await work.enqueue()
            await asyncio.sleep(2.9)
            back = 100_000
            await run.result(timeout="1m")

    store = Counting(clock=SetBack())
    alone.run(main, store)
    assert store.asked < 200


def test_a_sleep_given_up_as_it_begins_is_not_left_open():
    """Its beginning is being written when the body cancels it."""
    alone = Alone()

    async def main(app: App) -> list[StepOutcome]:
        @app.workflow
        async def work() -> None:
            rival = asyncio.ensure_future(sleep("1h"))
            await asyncio.sleep(0.05)
            rival.cancel()
            await step("quick", asyncio.sleep, 0.0)

        async with app, Worker(app):
            run = await work.enqueue()
            await run.result(timeout="1m")
            history = await app.engine.store.history(run.id)
            return [record.outcome for record in history.checkpoints if record.key.path == "sleep"]

    assert alone.run(main, BusyStore(clock=alone.clock)) == [StepOutcome.CANCELLED]


def test_an_older_answer_does_not_take_a_pause_back():
    """The answer to a step's record comes after the heartbeat that has told of the pause."""
    alone = Alone()
    begun: list[str] = []

    class Slow(MemoryStore):
        async def apply(self, batch):
            outcomes = await super().apply(batch)
            if any(isinstance(one, SaveCheckpoint) for one in batch):
                await asyncio.sleep(8.0)
            return outcomes

    async def main(app: App) -> Status:
        async def begin(name: str) -> None:
            begun.append(name)

        @app.workflow
        async def work() -> None:
            for name in ("first", "second"):
                await step(name, begin, name)

        async with app, Worker(app):
            run = await work.enqueue()
            await asyncio.sleep(1.0)
            await data.apply([PauseRun(run.id, "q")])  # by another process
            await asyncio.sleep(20.0)
            return await run.status()

    store = Slow(clock=alone.clock)
    data = store.side()
    asyncio.run(data.open())
    assert alone.run(main, store) is Status.PAUSED
    assert begun == ["first"]


def test_a_restart_from_the_winner_of_a_race_lets_the_loser_run_again():
    """The deadline was first recorded before the answer, and given up because of it."""

    async def main(app: App) -> str:
        takes = [1.0, 60.0]

        async def ask() -> None:
            await asyncio.sleep(takes.pop(0))

        @app.workflow
        async def work() -> str:
            deadline = asyncio.ensure_future(sleep("5s", name="deadline"))
            answer = asyncio.ensure_future(step("ask", ask))
            done, late = await asyncio.wait({deadline, answer}, return_when=asyncio.FIRST_COMPLETED)
            for one in late:
                one.cancel()
            return "answered" if answer in done else "late"

        async with app, Worker(app):
            run = await work.enqueue()
            assert await run.result() == "answered"
            await run.restart(from_step="ask")
            return await run.result(timeout="10m")

    assert Alone().run(main) == "late"


@pytest.mark.xfail(
    strict=True,
    reason="a pending try is recognised by its number alone, and only while it is the newest; a "
    "network store whose requests outlive their answers needs an order among the tries of a claim",
)
async def test_a_late_duplicate_of_a_try_changes_nothing():
    """An earlier pending try that arrives once more does not put the tries back."""
    store = MemoryStore()
    await store.open()
    await store.apply([RegisterWorker("w", "host", 1, {"job": "1"}, ("default",), 1)])
    await store.apply([CreateRun("r", "job", b"{}", token=1)])
    (claimed,) = await store.apply([Claim("w", 7, ("job",), ("default",), 1)])
    run = claimed.runs[0].run
    grant = Grant(run.run_id, run.epoch, run.grant)
    tries = [pending(grant, tries=number) for number in (1, 2)]
    await store.apply(tries)
    await store.apply(tries[:1])
    history = await store.history("r")
    assert [(c.outcome, c.tries) for c in history.checkpoints] == [(StepOutcome.PENDING, 2)]
