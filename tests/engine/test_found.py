"""What reviews found and other suites had missed: each failed before it was mended."""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from perdure import App, Status, sleep, step
from perdure._engine.activation import Leaving
from perdure._engine.executor import Executor
from perdure._runtime import worker as workers
from perdure.model.transitions import ClaimedRun
from tests.engine.places import Halt, Place, eventually, half_way, killed_and_finished
from tests.engine.test_races import flow_of


async def test_a_body_that_is_being_given_records_is_not_idle(place: Place):
    """A replay of more than the grace of idleness beside a durable wait goes on to its end."""
    halt = Halt()

    async def work(number: int) -> int:
        return number

    async def flow() -> str:
        waiting = asyncio.create_task(sleep("1h"))
        for number in range(1500):
            await step("work", work, number)
        await halt()
        waiting.cancel()
        return "done"

    run = await half_way(place, flow_of(flow), halt)
    async with place.life(flow_of(flow)) as life:
        assert await life.get(run).result(timeout="3s") == "done"


async def test_a_mismatch_is_not_taken_again_by_a_version_that_did_not_fit(place: Place):
    """A worker that may fit, but serves another queue, does not queue it for one that cannot."""
    passes: list[str] = []
    halt = Halt()

    async def work(number: int) -> int:
        return number

    def recorded(app: App) -> Any:
        @app.workflow(version="1", queue="b")
        async def flow() -> None:
            await step("work", work, 1)
            await halt()

        return flow

    def changed(version: str) -> Callable[[App], Any]:
        def define(app: App) -> Any:
            @app.workflow(version=version, queue="b")
            async def flow() -> None:
                passes.append(version)
                await step("work", work, 2)

            return flow

        return define

    async with place.life(recorded, queues=["b"]) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(halt.reached.wait(), 5)
        await life.kill()
    async with place.life(changed("2"), queues=["b"]) as two:
        await two.reaches(run, "paused")
        async with place.life(changed("3"), queues=["a"]):
            for _ in range(5):  # newer, so each is claimed after the one that must rest
                await (await two.flow.enqueue()).result(timeout="20s")
    assert passes == ["2"] * 6  # in half a second it was some 500 on memory, 80 on SQLite


async def test_a_step_that_calls_steps_is_let_finish_by_a_pause(place: Place):
    """What executes is let finish, what it calls itself included."""
    began, gate = asyncio.Event(), asyncio.Event()

    async def inner() -> str:
        return "inner"

    async def outer() -> str:
        began.set()
        await gate.wait()
        return await step("inner", inner)

    async def flow() -> str:
        return await step("outer", outer)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await began.wait()
        await run.pause()
        gate.set()
        try:
            assert await asyncio.wait_for(run.pause(wait=True), 2) == Status.PAUSED
        finally:
            await run.cancel()  # a resume does not help: see the next


async def test_a_pause_that_was_taken_back_holds_nothing_up(place: Place):
    """A resume before the pause came about lets other branches go on at once."""
    began, gate = asyncio.Event(), asyncio.Event()
    effects: list[int] = []

    async def long() -> None:
        began.set()
        await gate.wait()

    async def short(number: int) -> None:
        effects.append(number)

    async def flow() -> None:
        async def other() -> None:
            await began.wait()
            for number in range(20):
                await asyncio.sleep(0.02)
                await step("short", short, number)

        await asyncio.gather(step("long", long), other())

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await began.wait()
        await run.pause()
        assert life.worker is not None
        activation = life.worker._executor.active[run.id]
        await eventually(lambda: activation._pausing is not None)
        assert await run.resume() == Status.RUNNING
        try:
            await eventually(lambda: len(effects) == 20, within=2)
        finally:
            gate.set()


async def test_an_answer_that_was_long_under_way_does_not_turn_the_order_round(place: Place):
    """What the order decides is the same on replay, however the store's time was heard."""
    halt = Halt()
    gates = {name: asyncio.Event() for name in "ab"}

    async def work(name: str) -> str:
        await gates[name].wait()
        return name

    async def join(names: list[str]) -> str:
        return "".join(names)

    async def flow() -> str:
        got: list[str] = []

        async def one(name: str) -> None:
            got.append(await step(name, work, name))

        await asyncio.gather(one("b"), one("a"))
        joined = await step("join", join, got)
        await halt()
        return joined

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()

        async def first_is_recorded() -> bool:
            return len((await run.history()).steps) == 1

        gates["a"].set()
        await eventually(first_is_recorded)
        engine = life.app.engine
        engine.heard_store_time(engine.store_now() - 100_000)  # 5 to 20 ms occur by themselves
        gates["b"].set()
        await asyncio.wait_for(halt.reached.wait(), 5)
        halt.is_open = True
        await life.kill()
    async with place.life(flow_of(flow)) as life:
        assert await life.get(run).result(timeout="2s") == "ab"


@pytest.mark.parametrize("made_before", [True, False])
async def test_a_branch_that_is_long_in_asking_is_still_given_its_record_first(
    place: Place, made_before: bool
):
    """Neither a call made early and awaited late nor a second of other work changes the order."""
    halt = Halt()
    early_is_done = asyncio.Event()
    order: list[str] = []

    async def early() -> str:
        return "early"

    async def late() -> str:
        await early_is_done.wait()
        return "late"

    async def flow() -> None:
        async def one(call: Any) -> None:
            await asyncio.to_thread(time.sleep, 0.05 if made_before else 1.3)
            order.append(await (call if made_before else step("early", early)))
            early_is_done.set()

        async def other() -> None:
            order.append(await step("late", late))

        await asyncio.gather(other(), one(step("early", early) if made_before else None))
        await halt()

    await killed_and_finished(place, flow_of(flow), halt)
    assert order == ["early", "late"] * 2


async def test_a_winner_deep_in_tasks_wins_the_replay(place: Place):
    """A race between a flat and a deep racer has the same winner, how deep that is."""
    halt = Halt()
    winners: list[str] = []
    has_won = asyncio.Event()

    async def work(name: str) -> str:
        if name == "flat":
            await has_won.wait()
        return name

    async def deep(name: str, levels: int) -> str:
        if not levels:
            return await step("work", work, name)
        return await asyncio.create_task(deep(name, levels - 1))

    async def flow() -> None:
        racers = [asyncio.create_task(deep("deep", 8)), asyncio.create_task(deep("flat", 0))]
        done, _ = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        winners.append(" ".join(sorted(task.result() for task in done)))
        has_won.set()
        await asyncio.gather(*racers)
        await halt()

    await killed_and_finished(place, flow_of(flow), halt)
    assert winners == ["deep", "deep"]


async def test_a_suspect_does_not_keep_a_worker_from_work(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """A worker that executes something long goes on to claim, however long suspects wait."""
    monkeypatch.setattr(workers, "SUSPECT_PATIENCE", 0.2)
    monkeypatch.setattr(workers, "SUSPECT_DRAIN", 0.2)
    began, gate, crashing = asyncio.Event(), asyncio.Event(), asyncio.Event()
    done: list[int] = []

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int) -> None:
            if number == -2:
                crashing.set()
                await asyncio.get_running_loop().create_future()
            if number == -1:
                began.set()
                await gate.wait()
            done.append(number)

        return flow

    for _ in range(2):
        crashing.clear()
        async with place.life(define) as life:
            await life.flow.options(id="culprit").enqueue(-2)
            await asyncio.wait_for(crashing.wait(), 5)
            await life.kill()
    async with place.client(define) as client:
        await client.flow.enqueue(-1)
    async with place.life(define, concurrency=10, grace="0s") as life:
        await asyncio.wait_for(began.wait(), 5)
        assert life.worker is not None
        await eventually(life.worker._overdue_suspects)
        for number in range(5):
            await life.flow.enqueue(number)
        try:
            await eventually(lambda: len(done) == 5, within=2)
        finally:
            gate.set()


async def test_a_body_that_is_told_to_leave_before_it_begins(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """It does not begin at all, and leaves no coroutine behind that nobody awaits."""
    start = Executor.start
    begun: list[int] = []

    def start_and_leave(executor: Executor, claimed: ClaimedRun) -> None:
        start(executor, claimed)
        if claimed.run.epoch == 1:
            executor.active[claimed.run.run_id].leave(Leaving.RELEASED)

    monkeypatch.setattr(Executor, "start", start_and_leave)

    def define(app: App) -> Any:
        async def flow() -> int:
            begun.append(1)
            return len(begun)

        return app.workflow(flow)

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == 1
    gc.collect()
