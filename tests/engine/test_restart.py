"""Restart and fork: a run begins again, or another goes on from what it has recorded."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from perdure import App, Status, now, sleep, step, uuid, wait_for_event
from perdure.errors import InvalidTransition, InvalidValue, RunConflict, RunFailed, UsageError
from tests.engine.places import Place, eventually


class Shop:
    """A workflow of four steps whose first argument is drawn, and what was done of them.

    Attributes:
        done: how often each step was executed.
        breaks: the steps that raise.
        drawn: what the body drew in each pass.
        held: what keeps the last step from ending, where it is to be kept.
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.breaks: set[str] = set()
        self.drawn: list[str] = []
        self.held: asyncio.Event | None = None

    def define(self, app: App) -> Any:
        async def work(name: str, key: str) -> str:
            self.done[name] += 1
            if name in self.breaks:
                raise ValueError(name)
            if name == "ship" and self.held is not None:
                await self.held.wait()
            return f"{name} {self.done[name]}"

        async def flow(order: str, count: int = 2) -> list[str]:
            key = f"{uuid()} {now()}"
            self.drawn.append(key)
            results = [await step("charge", work, "charge", key)]
            results += [await step("pack", work, f"pack {box}", order) for box in range(count)]
            return [*results, await step.options(max_attempts=1)("ship", work, "ship", key)]

        return app.workflow(flow)


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_a_restart_from_the_start_does_everything_again(place: Place, shop: Shop):
    """Also of a run that had completed: with other drawn values, and its old result in history."""
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        assert (await run.result(timeout="5s"))[0] == "charge 1"
        assert await run.restart() == Status.QUEUED
        assert (await run.result(timeout="5s"))[0] == "charge 2"
        history = await run.history()
    assert shop.done == {"charge": 2, "pack 0": 2, "pack 1": 2, "ship": 2}
    assert len(set(shop.drawn)) == 2
    assert (history.generation, history.attempt) == (1, 1)
    assert [attempt.outcome for attempt in history.attempts] == ["completed"]
    assert [one.path for one in history.steps] == ["charge", "pack", "pack", "ship"]
    assert [one.path for one in history.earlier] == ["charge", "pack", "pack", "ship"]


async def test_a_restart_from_a_step_does_what_came_before_it_no_more(place: Place, shop: Shop):
    """What the body drew is what it drew before, or the records would not be found."""
    shop.breaks.add("ship")
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        with pytest.raises(RunFailed):
            await run.result(timeout="5s")
        shop.breaks.clear()
        await run.restart(from_step="pack", occurrence=2)
        assert await run.result(timeout="5s") == ["charge 1", "pack 0 1", "pack 1 2", "ship 2"]
        await run.restart(from_step="ship")
        assert (await run.result(timeout="5s"))[-1] == "ship 3"
    assert shop.done == {"charge": 1, "pack 0": 1, "pack 1": 2, "ship": 3}
    assert len(set(shop.drawn)) == 1


async def test_a_restart_finds_a_body_that_executes(place: Place, shop: Shop):
    """The body leaves, and the run begins again with what was recorded before the step."""
    shop.held = asyncio.Event()
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        await eventually(lambda: shop.done["ship"] == 1)
        assert await run.restart(from_step="pack") == Status.RUNNING
        await eventually(lambda: shop.done["ship"] == 2)
        shop.held.set()
        result = await run.result(timeout="5s")
    assert result == ["charge 1", "pack 0 2", "pack 1 2", "ship 2"]


async def test_a_restart_voids_timers_and_waits(place: Place):
    """The sleep begins anew."""
    passes: list[int] = []

    def define(app: App) -> Any:
        async def flow() -> str:
            passes.append(1)
            if len(passes) < 3:
                await sleep("1h")
            return "slept"

        return app.workflow(flow)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "sleep")
        await run.restart()
        await life.reaches(run, "waiting", "sleep")
        assert [one.outcome for one in (await run.history()).steps] == ["pending"]
        await run.restart()
        assert await run.result(timeout="5s") == "slept"


async def test_a_restarted_run_takes_its_events_again(place: Place):
    """From the start all of them; from a step what no wait before it had taken."""

    def define(app: App) -> Any:
        async def flow() -> list[int]:
            return [
                await wait_for_event("paid", timeout="5s", name="first"),
                await wait_for_event("paid", timeout="5s", name="second"),
            ]

        return app.workflow(flow)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        for number in (1, 2):
            await run.send_event(number, type="paid")
        assert await run.result(timeout="5s") == [1, 2]
        await run.restart()
        assert await run.result(timeout="5s") == [1, 2]
        await run.restart(from_step="second")
        assert await run.result(timeout="5s") == [1, 2]


async def test_a_restart_of_a_step_that_is_not_recorded(place: Place, shop: Shop):
    """The message helps; nothing is changed."""
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        await run.result(timeout="5s")
        with pytest.raises(UsageError, match="did you mean 'pack'"):
            await run.restart(from_step="pakc")
        with pytest.raises(UsageError, match=r"recorded 2 times in run .*, not 3"):
            await run.restart(from_step="pack", occurrence=3)
        with pytest.raises(UsageError, match="from 1"):
            await run.restart(from_step="pack", occurrence=0)
        assert await run.status() == Status.COMPLETED


async def test_a_cancelled_run_is_restarted_and_a_run_being_cancelled_is_not(
    place: Place, shop: Shop
):
    """A cancel that was accepted is kept."""
    shop.held = asyncio.Event()
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        await eventually(lambda: shop.done["ship"] == 1)
        async with place.client(shop.define) as client:
            # Another process asks, so that this one has not heard of it yet.
            await client.app.get(run.id).cancel()
            with pytest.raises(InvalidTransition, match="about to be cancelled"):
                await client.app.get(run.id).restart()
        await run.cancel(wait=True)
        shop.held.set()
        await run.restart(from_step="pack", occurrence=2)
        assert (await run.result(timeout="5s"))[0] == "charge 1"


# --- fork ----------------------------------------------------------------------------------------


async def test_a_fork_keeps_what_came_before_a_step(place: Place, shop: Shop):
    """The source stays as it is, and each knows of the other."""
    shop.breaks.add("ship")
    async with place.life(shop.define) as life:
        run = await life.flow.options(tags=("vip",)).enqueue("o1")
        with pytest.raises(RunFailed):
            await run.result(timeout="5s")
        shop.breaks.clear()
        before = await run.history()
        forked = await run.fork(from_step="ship")
        assert await forked.result(timeout="5s") == ["charge 1", "pack 0 1", "pack 1 1", "ship 2"]
        history = await forked.history()
        assert await run.history() == before
    assert (history.caused_by, history.tags, history.parent) == (f"fork:{run.id}", ("vip",), None)
    assert len(set(shop.drawn)) == 1
    assert history.generation == 0


async def test_a_fork_with_other_results(place: Place, shop: Shop):
    """A step that had failed is given what it should have returned; everything before is kept."""
    shop.breaks.add("ship")
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        with pytest.raises(RunFailed):
            await run.result(timeout="5s")
        forked = await run.fork(results={"charge": "by hand", "ship": "on foot"})
        assert await forked.result(timeout="5s") == ["by hand", "pack 0 1", "pack 1 1", "on foot"]
        only_first = await run.fork(results={"charge": "by hand"})
        shop.breaks.clear()
        assert (await only_first.result(timeout="5s"))[:2] == ["by hand", "pack 0 2"]
    assert shop.done["charge"] == 1


async def test_a_fork_with_other_arguments(place: Place, shop: Shop):
    """What is not named stays; without a step it begins at the start."""
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        await run.result(timeout="5s")
        forked = await run.fork(input={"count": 1}, id="again")
        assert await forked.result(timeout="5s") == ["charge 2", "pack 0 2", "ship 2"]
        assert (await forked.history()).input == {"order": "o1", "count": 1}
        assert forked.id == "again"
        with pytest.raises(InvalidValue, match="count"):
            await run.fork(input={"count": "many"})
        with pytest.raises(InvalidValue, match="no parameter 'cuont'"):
            await run.fork(input={"cuont": 1})
        with pytest.raises(RunConflict):
            await run.fork(id="again")


async def test_forks_that_cannot_be(place: Place, shop: Shop):
    """Each says why, and makes nothing."""
    async with place.life(shop.define) as life:
        run = await life.flow.enqueue("o1")
        await run.result(timeout="5s")
        with pytest.raises(UsageError, match="not kept"):
            await run.fork(from_step="pack", results={"ship": "x"})
        with pytest.raises(UsageError, match="recorded 2 times"):
            await run.fork(results={"pack": "x"})
        with pytest.raises(UsageError, match="no step 'shop'"):
            await run.fork(results={"shop": "x"})
        with pytest.raises(InvalidValue, match="name the step itself"):
            await run.fork(results={"charge": (1, 2)})
        assert len(await life.app.runs()) == 1


async def test_a_decorated_step_says_how_its_result_is_written(place: Place):
    """Its annotation does; by its path a tuple could not be told from a list."""

    @step
    async def pair() -> tuple[int, int]:
        return 1, 2

    def define(app: App) -> Any:
        async def flow() -> tuple[int, int]:
            return await pair()

        return app.workflow(flow)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result(timeout="5s")
        forked = await run.fork(results={pair: (3, 4)})
        assert await forked.result(timeout="5s") == (3, 4)
        with pytest.raises(InvalidValue):
            await run.fork(results={pair: "x"})


async def test_a_body_forks_in_a_step_only(place: Place, shop: Shop):
    """A replay would fork again."""

    def define(app: App) -> Any:
        async def flow(id: str) -> str:
            with pytest.raises(UsageError, match="in a step"):
                await app.get(id).fork()

            async def again() -> str:
                return (await app.get(id).fork(id="forked")).id

            return await step("again", again)

        return app.workflow(flow)

    async with place.life(define) as life:
        first = await life.flow.delay("1h", "none")
        run = await life.flow.enqueue(first.id)
        assert await run.result(timeout="5s") == "forked"
