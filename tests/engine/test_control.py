"""Cancel: at once where nobody executes, cooperatively where somebody does, and always kept."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from perdure import App, Status, constant, step
from perdure.errors import InvalidTransition, RunCancelled, RunNotFound
from perdure.model.transitions import Settle
from tests.engine.families import Family, one_child
from tests.engine.places import Halt, Place, eventually, half_way


@pytest.fixture
def family() -> Family:
    return Family()


def flow_of(body: Callable[[], Any], **options: Any) -> Any:
    """Return what declares a workflow with this body."""

    def define(app: App) -> Any:
        return app.workflow(**options)(body)

    return define


async def is_cancelled(run: Any) -> None:
    """Check that the run ended as cancelled, and stays so."""
    with pytest.raises(RunCancelled):
        await run.result(timeout="5s")
    history = await run.history()
    assert history.status == Status.CANCELLED
    assert history.finished_at is not None
    with pytest.raises(InvalidTransition, match="cancelled"):
        await run.cancel()


async def test_cancel_while_queued(place: Place):
    """A queued run is cancelled at once and never begins."""
    began: list[int] = []

    async def flow() -> None:
        began.append(1)

    async with place.client(flow_of(flow)) as client:
        run = await client.flow.enqueue()
        assert await run.cancel() == Status.CANCELLED
        async with place.life(flow_of(flow)) as life:
            await (await life.flow.enqueue()).result(timeout="5s")
        await is_cancelled(run)
    assert began == [1]


@pytest.mark.parametrize("waiting_for", ["delay", "retry", "child"])
async def test_cancel_while_waiting(place: Place, family: Family, waiting_for: str):
    """A waiting run is cancelled at once and is not woken any more."""

    async def fails() -> None:
        raise ConnectionError

    async def body(family: Family, child: Any) -> None:
        if waiting_for == "retry":
            await step.options(backoff=constant("1h"))("fails", fails)
        await one_child(family, child)

    async with place.life(family.of(body)) as life:
        if waiting_for == "delay":
            run = await life.flow.delay("1h")
        else:
            run = await life.flow.enqueue()
        await life.reaches(run, "waiting", waiting_for)
        passes = family.passes
        assert await run.cancel() == Status.CANCELLED
        await is_cancelled(run)
        family.let(1)
        await family.outwait(life)
        assert family.passes == passes
        assert (await life.store.history(run.id)).waits == ()


async def test_cancel_while_paused(place: Place):
    """A run paused by a mismatch is cancelled at once."""
    halt = Halt()

    async def work(number: int) -> None: ...

    def version(number: int) -> Any:
        async def flow() -> None:
            await step("work", work, number)
            await halt()

        return flow_of(flow, version=str(number))

    run = await half_way(place, version(1), halt)
    async with place.life(version(2)) as life:
        await life.reaches(run, "paused")
        assert await life.get(run).cancel() == Status.CANCELLED
        await is_cancelled(life.get(run))


async def test_cancel_while_an_async_step_executes(place: Place):
    """A running body is cancelled inside its step, which is not recorded."""
    seen: list[str] = []

    async def work() -> None:
        seen.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned")

    async def flow() -> None:
        await step("work", work)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await eventually(lambda: seen == ["began"])
        assert await run.cancel(wait=True) == Status.CANCELLED
        await is_cancelled(run)
        assert (await run.history()).steps == ()
    assert seen == ["began", "cleaned"]


async def test_cancel_from_another_process(place: Place):
    """A cancel asked for elsewhere is heard with the heartbeat."""
    began = asyncio.Event()

    async def flow() -> None:
        began.set()
        await asyncio.Event().wait()

    async with (
        place.client(flow_of(flow)) as client,
        place.life(flow_of(flow), lease="600ms", heartbeat="100ms") as life,
    ):
        run = await client.flow.enqueue()
        await asyncio.wait_for(began.wait(), 5)
        assert await run.cancel() == Status.RUNNING
        await is_cancelled(life.get(run))


async def test_cancel_from_another_process_is_heard_at_the_next_step(place: Place):
    """A body hears of a cancel with the answer to its next checkpoint; no step begins after it."""
    gate = asyncio.Event()
    effects: list[str] = []

    async def work(name: str) -> None:
        effects.append(name)
        if name == "first":
            await gate.wait()

    async def flow() -> None:
        await step("work", work, "first")
        await step("work", work, "second")

    async with place.client(flow_of(flow)) as client, place.life(flow_of(flow)):
        run = await client.flow.enqueue()
        await eventually(lambda: effects == ["first"])
        await run.cancel()
        gate.set()
        await is_cancelled(run)
        assert [record.outcome for record in (await run.history()).steps] == ["ok"]
    assert effects == ["first"]


async def test_cancel_while_a_thread_executes(place: Place):
    """A step in a thread cannot be stopped; the run is cancelled and its result is not recorded."""
    began, let_go = threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        let_go.wait(10)
        return "late"

    async def flow() -> str:
        return await step("work", work)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await asyncio.to_thread(began.wait, 5)
        await run.cancel(wait=True)
        await is_cancelled(run)
        let_go.set()
        assert (await run.history()).steps == ()


async def test_cancel_while_a_body_written_with_def_executes(place: Place):
    """A sync body leaves at its next durable call after a cancel."""
    began, let_go = threading.Event(), threading.Event()
    effects: list[str] = []

    def flow() -> None:
        began.set()
        let_go.wait(10)
        effects.append("before")
        step.sync("work", effects.append, "work")
        effects.append("after")

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await asyncio.to_thread(began.wait, 5)
        await run.cancel()
        let_go.set()
        await is_cancelled(run)
        await eventually(lambda: effects)
    assert effects == ["before"]


async def test_cancel_beats_a_completion_that_is_not_yet_written(place: Place):
    """A cancel accepted before the completion is written ends the run as cancelled."""

    async def flow() -> str:
        return "done"

    async with place.client(flow_of(flow)) as client, place.life(flow_of(flow)) as life:
        let_go = asyncio.Event()
        life.store.keeps = lambda batch: (
            let_go if any(isinstance(item, Settle) for item in batch) else None
        )
        run = await client.flow.enqueue()
        await asyncio.wait_for(life.store.kept.wait(), 5)
        assert await run.cancel() == Status.RUNNING
        let_go.set()
        await is_cancelled(run)
        await is_cancelled(life.get(run))


async def test_cancel_beats_a_body_that_swallows_it(place: Place, caplog: pytest.LogCaptureFixture):
    """A body that catches the cancellation and returns is cancelled all the same."""
    began = asyncio.Event()

    async def flow() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "no"
        return "not reached"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(began.wait(), 5)
        await run.cancel()
        await is_cancelled(run)
    assert "cancelled" in caplog.text


async def test_cancel_beats_a_failure_and_a_retry(place: Place):
    """A body that fails after the cancel was accepted is neither failed nor tried again."""
    gate, began = asyncio.Event(), asyncio.Event()

    async def flow() -> None:
        began.set()
        await gate.wait()
        raise ValueError("too late")

    define = flow_of(flow, max_attempts=3, backoff=constant("1ms"))
    async with place.client(define) as client, place.life(define):
        run = await client.flow.enqueue()
        await asyncio.wait_for(began.wait(), 5)
        await run.cancel()
        gate.set()
        await is_cancelled(run)
        assert (await run.history()).attempt == 1


async def test_a_cancel_outlives_the_worker_that_was_to_hear_it(place: Place):
    """A cancel accepted while a worker held the run is kept when that worker dies."""
    began: list[int] = []

    async def flow() -> None:
        began.append(1)
        await asyncio.Event().wait()

    async with place.client(flow_of(flow)) as client:
        async with place.life(flow_of(flow)) as life:
            run = await client.flow.enqueue()
            await eventually(lambda: began)
            await run.cancel()
            await life.kill()
        async with place.life(flow_of(flow)):
            await is_cancelled(run)
    assert began == [1]


async def test_cancel_after_the_end_is_refused(place: Place):
    """A completed or failed run cannot be cancelled, and keeps its result."""

    async def flow(fail: bool) -> str:
        if fail:
            raise ValueError
        return "done"

    async with place.life(flow_of(flow)) as life:
        completed, failed = await life.flow.enqueue(False), await life.flow.enqueue(True)
        assert await completed.result(timeout="5s") == "done"
        await life.reaches(failed, "failed")
        for run, status in ((completed, "completed"), (failed, "failed")):
            with pytest.raises(InvalidTransition, match=f"it is {status}"):
                await run.cancel()
        assert await completed.result() == "done"


async def test_cancel_of_nobody(place: Place):
    """Cancelling a run that is not there says so."""

    async def flow() -> None: ...

    async with place.client(flow_of(flow)) as client:
        with pytest.raises(RunNotFound):
            await client.app.get("nobody").cancel()


async def test_a_stop_hands_unfinished_bodies_to_the_next_worker(place: Place):
    """After its grace a stopping worker releases what is unfinished; no step is repeated."""
    effects: list[str] = []
    halt = Halt()

    async def work(name: str) -> str:
        effects.append(name)
        return name

    async def flow() -> list[str]:
        first = await step("work", work, "first")
        await halt()
        return [first, await step("work", work, "second")]

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(halt.reached.wait(), 5)
        halt.is_open = True
        await life.worker.stop("0s")
        assert await run.status() == Status.QUEUED
    async with place.life(flow_of(flow)) as life:
        assert await life.get(run).result(timeout="5s") == ["first", "second"]
        history = await life.get(run).history()
    assert effects == ["first", "second"]
    assert (history.crashes, history.attempt, history.attempts) == (0, 1, ())
