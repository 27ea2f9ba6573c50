"""An operator's verbs in a body: asked once, however often it replays."""

import asyncio
from typing import Any

import pytest

from perdure import App, Status, sleep, step
from perdure.errors import InvalidTransition, RunFailed
from perdure.model.transitions import CancelRun
from tests.engine.places import Halt, Place, eventually, finished, half_way


async def test_a_body_cancels_its_child_once(place: Place):
    """A replay meets the answer that is recorded, and not a run that is cancelled already."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None:
            await sleep("1d")

        @app.workflow
        async def parent() -> list[Status]:
            kid = await child.enqueue()
            before = await kid.status()
            cancelled = await kid.cancel(wait=True)
            await halt()
            return [before, cancelled, await kid.status()]

        return parent

    run = await half_way(place, define, halt)
    before, cancelled, after = await finished(place, define, run)
    assert before in {Status.QUEUED, Status.RUNNING, Status.WAITING}
    assert (cancelled, after) == (Status.CANCELLED, Status.CANCELLED)


@pytest.mark.parametrize("applied", [True, False], ids=["after", "before"])
async def test_a_kill_at_the_verb_does_not_ask_for_something_else(place: Place, applied: bool):
    """The request has the same id when the step is tried again: it is answered as the first."""

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None: ...

        @app.workflow
        async def parent(kid: str) -> Status:
            return await app.get(kid).cancel()

        app.child = child  # type: ignore[attr-defined]
        return parent

    async with place.client(define) as client:
        kid = await client.app.child.delay("1d")
        run = await client.flow.enqueue(kid.id)
    async with place.life(define) as life:
        life.store.doom = lambda batch: any(isinstance(one, CancelRun) for one in batch)
        life.store.doomed_batch_is_applied = applied
        await asyncio.wait_for(life.store.died.wait(), 5)
        await life.kill()
    assert await finished(place, define, run) is Status.CANCELLED


async def test_pause_resume_and_retry_in_a_body(place: Place):
    """Each is a step; what is refused is raised, and meets every replay."""
    halt = Halt()
    met: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None:
            await sleep("1d")

        @app.workflow
        async def parent() -> list[Status]:
            kid = await child.enqueue()
            found = [await kid.pause(), await kid.resume()]
            try:
                await kid.retry()
            except InvalidTransition as error:
                met.append(str(error))
            await halt()
            return found

        return parent

    run = await half_way(place, define, halt)
    async with place.life(define) as life:
        paused, resumed = await life.get(run).result("5s")
        steps = [each.path for each in (await life.get(run).history()).steps]
    assert (paused in Status, resumed in Status) == (True, True)
    assert steps == ["child", "pause", "resume", "retry"]
    assert met == [met[0]] * 2


async def test_looking_belongs_into_a_step(place: Place):
    """A replay would find another history."""

    def define(app: App) -> Any:
        async def look(run_id: str) -> str:
            return (await app.get(run_id).history()).name

        @app.workflow
        async def flow(run_id: str, inside: bool) -> str:
            if inside:
                return await step("look", look, run_id)
            return (await app.get(run_id).history()).name

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue("x", True)
        await eventually(lambda: is_over(run))
        assert await (await life.flow.enqueue(run.id, True)).result("5s") == "flow"
        with pytest.raises(RunFailed, match="whose replay would find something else"):
            await (await life.flow.enqueue(run.id, False)).result("5s")


async def is_over(run: Any) -> bool:
    """Tell whether the run has ended."""
    return await run.status() in {Status.COMPLETED, Status.FAILED}
