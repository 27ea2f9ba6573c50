"""What becomes of the runs that a body has started when it is over: abandon, cancel, wait."""

import asyncio
from typing import Any

import pytest

from perdure import App, Status, compensate, constant, sleep, step, telemetry
from perdure.errors import NotApplied, OutcomeUnknown, RunCancelled, RunFailed, UsageError
from tests.engine.families import Family
from tests.engine.places import Halt, Place, eventually, finished, half_way


@pytest.fixture
def family() -> Family:
    return Family()


async def only_child(life: Any) -> Any:
    """Return the handle of the one child that there is."""
    [child] = await life.app.runs(name="child")
    return child


async def test_a_child_is_abandoned_by_default(place: Place, family: Family):
    """It goes on, whatever becomes of its parent."""

    async def body(_: Family, child: Any) -> None:
        await child.enqueue(1)

    async with place.life(family.of(body)) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
        family.let(1)
        assert await (await only_child(life)).result(timeout="5s") == 10


async def test_a_child_is_cancelled_with_its_parent(place: Place, family: Family):
    """In this process it hears of it at once, also while it executes."""

    async def body(family: Family, child: Any) -> None:
        await child.options(on_parent_close="cancel").enqueue(1)
        await eventually(lambda: "child 1" in family.effects)

    async with place.life(family.of(body)) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
        child = await only_child(life)
        with pytest.raises(RunCancelled):
            await child.result(timeout="2s")
        history = await child.history()
        assert history.on_parent_close == "cancel"


async def test_a_failing_parent_cancels_its_children(place: Place, family: Family):
    """A child that waits ends with it, in the same transition."""

    async def body(_: Family, child: Any) -> None:
        await child.options(on_parent_close="cancel").delay("1h", 1)
        raise ValueError("no more")

    async with place.life(family.of(body)) as life:
        with pytest.raises(RunFailed, match="no more"):
            await (await life.flow.enqueue()).result(timeout="5s")
        assert await (await only_child(life)).status() == Status.CANCELLED


async def test_an_attempt_that_is_retried_keeps_its_children(place: Place, family: Family):
    """The parent has not ended; the next attempt finds the same child."""

    async def body(family: Family, child: Any) -> int:
        kid = await child.options(on_parent_close="cancel").enqueue(1)
        if family.passes == 1:
            raise ConnectionError("once")
        family.let(1)
        return await kid.result()

    async with place.life(family.of(body, max_attempts=2)) as life:
        assert await (await life.flow.enqueue()).result(timeout="10s") == 10


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
async def test_a_parent_waits_for_its_children(place: Place, family: Family, fails: bool):
    """It is suspended meanwhile, and has its own outcome then."""

    async def body(_: Family, child: Any) -> str:
        for number in (1, 2, 3):
            await child.options(on_parent_close="wait").enqueue(number)
        if fails:
            raise ValueError("no more")
        return "done"

    family.let(2)
    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        await eventually(lambda: len(family.effects) >= 4)
        assert await run.status() in {Status.WAITING, Status.QUEUED, Status.RUNNING}
        family.let(3)
        if fails:
            with pytest.raises(RunFailed, match="no more"):
                await run.result(timeout="5s")
        else:
            assert await run.result(timeout="5s") == "done"
        statuses = [await child.status() for child in await life.app.runs(name="child")]
        assert statuses == [Status.COMPLETED] * 3


async def test_waiting_costs_one_join(place: Place, family: Family):
    """However many children there are, the body is replayed for all of them together."""

    async def body(_: Family, child: Any) -> None:
        for number in range(1, 31):
            await child.options(on_parent_close="wait").enqueue(number)

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(*range(1, 31))
        await run.result(timeout="10s")
    assert family.passes == 2


async def test_a_parent_that_waits_and_is_cancelled_takes_them_along(place: Place, family: Family):
    """What it waits for is attached to it."""

    async def body(_: Family, child: Any) -> None:
        await child.options(on_parent_close="wait").enqueue(1)

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await run.cancel()
        with pytest.raises(RunCancelled):
            await (await only_child(life)).result(timeout="10s")


async def test_a_step_may_start_what_its_body_waits_for(place: Place, family: Family):
    """A replay does not execute the step; the store knows whom it has started."""

    async def body(_: Family, child: Any) -> None:
        async def start() -> None:
            await child.options(on_parent_close="wait").enqueue(1)

        await step("start", start)

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
    async with place.life(family.of(body)) as life:
        await life.reaches(run, "waiting", "child")
        family.let(1)
        await life.get(run).result(timeout="5s")


async def test_branches_end_with_the_body_and_not_with_its_children(place: Place, family: Family):
    """What the body left behind does not go on while it waits for them."""
    gone = asyncio.Event()

    async def body(_: Family, child: Any) -> None:
        async def left_behind() -> None:
            try:
                await sleep("1h")
            finally:
                gone.set()

        await child.options(on_parent_close="wait").enqueue(1)
        family.left = asyncio.create_task(left_behind())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    async with place.life(family.of(body)) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(gone.wait(), 5)
        await life.reaches(run, "waiting", "child")
        family.let(1)
        await run.result(timeout="5s")


async def test_the_definition_says_it_unless_the_call_does(place: Place):
    """Outside of a body its word means nothing, and the call's is a mistake."""

    def define(app: App) -> Any:
        @app.workflow(on_parent_close="cancel")
        async def child() -> None:
            await sleep("1h")

        @app.workflow
        async def parent() -> None:
            await child.enqueue()
            await child.options(on_parent_close="abandon").enqueue()

        define.child = child  # type: ignore[attr-defined]
        return parent

    async with place.life(define) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
        children = [await run.history() for run in await life.app.runs(name="child")]
        assert sorted(one.on_parent_close for one in children) == ["abandon", "cancel"]
        alone = await define.child.enqueue()  # type: ignore[attr-defined]
        assert (await alone.history()).on_parent_close == "abandon"
        with pytest.raises(UsageError, match="no such body here"):
            await define.child.options(on_parent_close="wait").enqueue()  # type: ignore[attr-defined]


async def test_children_are_gone_before_their_parent_undoes_anything(place: Place, family: Family):
    """And undo what they did themselves."""
    done: list[str] = []

    async def note(what: str) -> None:
        done.append(what)

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None:
            compensate("undo child", note, "child undone")
            await step("work", note, "child worked")
            await sleep("1h")

        @app.workflow
        async def parent() -> None:
            compensate("undo parent", note, "parent undone")
            kid = await child.options(on_parent_close="cancel").enqueue()
            await eventually(lambda: "child worked" in done)
            raise ValueError(kid.id)

        return parent

    async with place.life(define) as life:
        with pytest.raises(RunFailed):
            await (await life.flow.enqueue()).result(timeout="10s")
        with pytest.raises(RunCancelled):
            await (await only_child(life)).result(timeout="10s")
    assert sorted(done) == ["child undone", "child worked", "parent undone"]


async def test_a_kill_at_the_end_of_the_parent(place: Place, family: Family):
    """The end and what it cancels are one transition: neither is ever seen without the other."""
    halt = Halt()

    async def body(_: Family, child: Any) -> None:
        await child.options(on_parent_close="cancel").delay("1h", 1)
        await halt()

    run = await half_way(place, family.of(body), halt)
    await finished(place, family.of(body), run)
    async with place.client(family.of(body)) as client:
        assert await (await only_child(client)).status() == Status.CANCELLED


async def test_hooks_tell_of_each_end(place: Place, family: Family):
    """Of the parent's, and of those that were cancelled with it."""
    told: list[str] = []

    async def body(_: Family, child: Any) -> None:
        await child.options(on_parent_close="cancel").delay("1h", 1)

    async with place.life(family.of(body)) as life:

        @life.app.on(telemetry.RunCancelled)
        def cancelled(ended: telemetry.RunCancelled) -> None:
            told.append(ended.run_id)

        await (await life.flow.enqueue()).result(timeout="5s")
        child = await only_child(life)
        await eventually(lambda: told == [child.id])


@pytest.mark.parametrize("alone", [False, True], ids=["raises", "task nobody awaits"])
async def test_an_attempt_that_is_retried_waits_for_no_child(
    place: Place, family: Family, alone: bool
):
    """It is not the end of the run: the next attempt may be what lets the child go on."""
    tasks: list[asyncio.Task[None]] = []

    async def fail() -> None:
        raise ConnectionError("once")

    async def body(family: Family, child: Any) -> str:
        await child.options(on_parent_close="wait").enqueue(1)
        if family.passes == 1:
            tasks.append(asyncio.create_task(fail()))
            await asyncio.wait(tasks) if alone else await tasks[0]
            return "too early"
        family.let(1)
        return "done"

    define = family.of(body, max_attempts=2, backoff=constant("1ms"))
    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == "done"


async def test_a_retry_policy_is_asked_once_of_each_error(place: Place, family: Family):
    """Also where the body's end waits for children first."""
    asked: list[str] = []

    def worth_it(error: BaseException) -> bool:
        asked.append(str(error))
        return True

    async def body(family: Family, child: Any) -> None:
        await child.options(on_parent_close="wait").delay("1h", 1)
        raise ConnectionError(f"attempt {family.passes}")

    define = family.of(body, max_attempts=2, backoff=constant("1ms"), retry_on=worth_it)
    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
    assert asked == ["attempt 1"]


@pytest.mark.parametrize("fails", [True, False], ids=["raises", "returns"])
async def test_a_store_that_is_away_at_the_end_is_no_error_of_the_body(
    place: Place, family: Family, fails: bool
):
    """Which children it waits for is asked again until the store can say."""

    async def body(_: Family, child: Any) -> str:
        await child.options(on_parent_close="wait").enqueue(1)
        if fails:
            raise ValueError("its own")
        return "done"

    async with place.life(family.of(body)) as life:
        away = [OutcomeUnknown("away"), NotApplied("away")]
        inner = life.store.list_runs

        async def list_runs(query: Any) -> Any:
            if away:
                raise away.pop()
            return await inner(query)

        life.store.list_runs = list_runs
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        family.let(1)
        if fails:
            with pytest.raises(RunFailed, match="its own"):
                await run.result(timeout="5s")
        else:
            assert await run.result(timeout="5s") == "done"
    assert not away
