"""Failures of the engines that this one learned from: none of them can happen here."""

import asyncio
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure import App, Status, step
from perdure.model.records import StepOutcome
from tests.engine.places import Halt, Place, eventually, finished, half_way, killed_and_finished

ONCE = step.options(max_attempts=1)


async def test_a_loop_of_250_steps_with_kills(place: Place):
    """`notify-{i}` in a loop, killed every 60 steps: each notification is sent once, in order."""
    sent: list[int] = []
    kill_at = [30, 90, 150, 210]
    cut_off: list[int] = []

    async def notify(number: int) -> int:
        if kill_at and number == kill_at[0]:
            cut_off.append(number)  # before anything is sent
            await asyncio.Event().wait()
        sent.append(number)
        return number

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> int:
            return sum([await step(f"notify-{i}", notify, i) for i in range(250)])

        return flow

    async with place.client(define) as client:
        run = await client.flow.enqueue()
        while kill_at:
            async with place.life(define) as life:
                await eventually(lambda: kill_at[0] in cut_off)
                await life.kill()
            del kill_at[0]
        assert await finished(place, define, run) == sum(range(250))
        assert len((await run.history()).steps) == 250
    assert sent == list(range(250))


async def test_a_caught_error_followed_by_another_step(place: Place):
    """An error is recorded as an error: a replay raises it again and never returns it."""
    halt = Halt()
    effects: list[str] = []

    async def charge() -> str:
        effects.append("charge")
        raise ConnectionError("declined")

    async def invoice(reason: str) -> str:
        effects.append("invoice")
        return f"invoice, since {reason}"

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            try:
                await ONCE("charge", charge)
                reason = "charged"
            except ConnectionError as error:
                reason = str(error)
            sent = await step("invoice", invoice, reason)
            await halt()
            return sent

        return flow

    result = await killed_and_finished(place, define, halt)
    assert result == "invoice, since declined"
    assert effects == ["charge", "invoice"]


async def test_a_step_name_used_three_times_gives_three_results(place: Place):
    """One name, three calls, three results, before and after a kill."""
    halt = Halt()
    calls: list[int] = []

    async def draw() -> int:
        calls.append(len(calls))
        return calls[-1]

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> list[int]:
            drawn = [await step("draw", draw) for _ in range(3)]
            await halt()
            return drawn

        return flow

    assert await killed_and_finished(place, define, halt) == [0, 1, 2]
    assert calls == [0, 1, 2]


async def test_parallel_steps_killed_midway(place: Place):
    """Of ten parallel steps the finished ones keep their results; the others alone run again."""
    effects: Counter[int] = Counter()
    let_go = asyncio.Event()

    async def fetch(number: int) -> str:
        effects[number] += 1
        if number % 3:
            await let_go.wait()
        return f"page {number}"

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> list[str]:
            return list(await asyncio.gather(*(step("fetch", fetch, n) for n in range(10))))

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()

        async def some() -> bool:
            return len((await run.history()).steps) == 4 and len(effects) == 10

        await eventually(some)
        await life.kill()
    let_go.set()
    assert await finished(place, define, run) == [f"page {n}" for n in range(10)]
    assert effects == {n: 2 if n % 3 else 1 for n in range(10)}


async def test_workflows_whose_names_are_prefixes_of_one_another(place: Place):
    """`sync`, `sync-users` and `sync-users-all` each run their own body; so do such steps."""

    def define(app: App) -> Any:
        def declare(name: str) -> Any:
            async def body() -> list[str]:
                async def act(part: str) -> str:
                    return f"{name}:{part}"

                return [await step(part, act, part) for part in ("a", "a-b", "a-b-c", "ab")]

            return app.workflow(name=name)(body)

        return {name: declare(name) for name in ("sync-users-all", "sync", "sync-users", "s")}

    async with place.life(define) as life:
        runs = {name: await flow.enqueue() for name, flow in life.flow.items()}
        for name, run in runs.items():
            parts = [f"{name}:{part}" for part in ("a", "a-b", "a-b-c", "ab")]
            assert await run.result(timeout="5s") == parts
        found = {name: await life.app.runs(name=name) for name in runs}
    assert {name: [run.id for run in some] for name, some in found.items()} == {
        name: [run.id] for name, run in runs.items()
    }


async def test_ids_that_are_prefixes_of_one_another(place: Place):
    """Runs `order-1` and `order-10` do not see each other's records."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int) -> int:
            async def same() -> int:
                return number

            return await step("same", same)

        return flow

    async with place.life(define) as life:
        runs = {n: await life.flow.options(id=f"order-{n}").enqueue(n) for n in (1, 10, 100)}
        assert [await run.result(timeout="5s") for run in runs.values()] == [1, 10, 100]
        for run in runs.values():
            assert len((await run.history()).steps) == 1


async def test_a_second_worker_started_during_work(place: Place):
    """A worker that starts while another works takes nothing of what that one holds."""
    executions: Counter[int] = Counter()
    let_go = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int) -> int:
            async def work() -> int:
                executions[number] += 1
                await let_go.wait()
                return number

            return await step("work", work)

        return flow

    async with place.life(define) as first:
        runs = [await first.flow.enqueue(n) for n in range(20)]
        await eventually(lambda: len(executions) == 20)
        async with place.life(define) as second:
            more = [await second.flow.enqueue(n) for n in range(20, 30)]
            await eventually(lambda: len(executions) == 30)
            let_go.set()
            results = [await run.result(timeout="5s") for run in [*runs, *more]]
            epochs = [(await first.store.get(run.id)).epoch for run in runs]
    assert results == list(range(30))
    assert set(executions.values()) == {1}
    assert set(epochs) == {1}


async def test_an_unknown_name_harms_nobody(place: Place):
    """A run whose definition this code does not have stays queued, and everything else goes on."""

    def define(app: App) -> Any:
        @app.workflow
        async def known() -> str:
            return "done"

        return known

    def elsewhere(app: App) -> Any:
        @app.workflow
        async def unknown() -> None: ...

        return unknown

    async with place.client(elsewhere) as client:
        strange = [await client.flow.enqueue() for _ in range(5)]
        async with place.life(define, concurrency=1) as life:
            for _ in range(5):
                assert await (await life.flow.enqueue()).result(timeout="5s") == "done"
        assert {await run.status() for run in strange} == {Status.QUEUED}


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_concurrency_is_a_limit(place: Place, kind: str):
    """A worker of concurrency 3 never executes more than three bodies."""
    lock = threading.Lock()
    now: set[int] = set()
    most: list[int] = []

    def enter(number: int) -> None:
        with lock:
            now.add(number)
            most.append(len(now))

    def leave(number: int) -> None:
        with lock:
            now.remove(number)

    def define(app: App) -> Any:
        async def flow(number: int) -> None:
            enter(number)
            await asyncio.sleep(0.002)
            leave(number)

        def sync_flow(number: int) -> None:
            enter(number)
            threading.Event().wait(0.002)
            leave(number)

        return app.workflow(name="flow")(flow if kind == "async" else sync_flow)

    async with place.life(define, concurrency=3) as life:
        runs = await life.flow.enqueue_many([((n,), {}) for n in range(40)])
        for run in runs:
            await run.result(timeout="10s")
    assert max(most) <= 3


@pytest.mark.parametrize("slots", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ["async", "def"])
async def test_concurrency_is_used_to_the_full(place: Place, slots: int, kind: str):
    """Bodies that wait for one another fill a worker's slots without waiting for its poll."""
    meeting, sync_meeting = asyncio.Barrier(slots), threading.Barrier(slots)

    def define(app: App) -> Any:
        async def flow(number: int) -> int:
            await meeting.wait()
            return number

        def sync_flow(number: int) -> int:
            sync_meeting.wait(10)
            return number

        return app.workflow(name="flow")(flow if kind == "async" else sync_flow)

    async with place.life(define, concurrency=slots, poll="10m") as life:
        runs = [await life.flow.enqueue(n) for n in range(slots)]
        assert [await run.result(timeout="5s") for run in runs] == list(range(slots))
        many = await life.flow.enqueue_many([((n,), {}) for n in range(slots * 3)])
        assert [await run.result(timeout="5s") for run in many] == list(range(slots * 3))


async def test_one_slow_run_beside_a_thousand_fast_ones(place: Place):
    """A run that takes long holds up nobody behind it."""
    let_go = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int) -> int:
            if number < 0:
                await let_go.wait()
            return number

        return flow

    async with place.life(define, concurrency=4) as life:
        slow = await life.flow.enqueue(-1)
        runs = await life.flow.enqueue_many([((n,), {}) for n in range(1000)])
        assert [await run.result(timeout="20s") for run in runs] == list(range(1000))
        assert await slow.status() == Status.RUNNING
        let_go.set()
        assert await slow.result(timeout="5s") == -1


async def test_a_slow_step_beside_fast_ones_loses_nothing(place: Place):
    """A kill while one step of a body is slow repeats that one alone."""
    effects: Counter[str] = Counter()
    let_go = asyncio.Event()

    async def work(name: str) -> str:
        effects[name] += 1
        if name == "slow":
            await let_go.wait()
        return name

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> int:
            names = ["slow", *(f"fast {n}" for n in range(100))]
            return len(await asyncio.gather(*(step("work", work, name) for name in names)))

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()

        async def all_fast() -> bool:
            return len((await life.store.history(run.id)).checkpoints) == 100

        await eventually(all_fast)
        await life.kill()
    let_go.set()
    assert await finished(place, define, run) == 101
    assert effects.pop("slow") == 2
    assert set(effects.values()) == {1}


@pytest.mark.parametrize(
    "value",
    [datetime(2026, 3, 1, 12, 30, tzinfo=UTC), None, (1, "two", None), False, ""],
    ids=["datetime", "None", "tuple", "False", "empty"],
)
async def test_a_value_that_json_would_change(place: Place, value: Any):
    """A datetime, None and a tuple come back as they were, and None is a result like any other."""
    halt = Halt()
    calls: list[int] = []
    seen: list[Any] = []

    async def produce() -> Any:
        calls.append(1)
        return value

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> Any:
            result = await step("produce", produce)
            seen.append((type(result), result))
            await halt()
            return result

        return flow

    run = await half_way(place, define, halt)
    async with place.life(define) as life:
        result = await life.get(run).result(timeout="5s")
        [record] = (await life.store.history(run.id)).checkpoints
    assert (type(result), result) == (type(value), value)
    assert seen == [(type(value), value)] * 2
    assert calls == [1]
    assert record.outcome is StepOutcome.OK
