"""app.select: many runs counted, looped over, and asked something together."""

import asyncio
from typing import Any

import pytest

from perdure import App, Status, step
from perdure.errors import UnknownDefinition, UsageError
from tests.engine.places import Place


def define(app: App) -> Any:
    @app.job(max_attempts=1)
    async def bad(n: int) -> int:
        if n >= 0:
            raise ValueError(n)
        return n

    return bad


async def failed(flow: Any, count: int) -> list[Any]:
    """Start runs that fail; return them when they have."""
    runs = await asyncio.gather(*(flow.enqueue(n) for n in range(count)))
    await asyncio.gather(*(run.result(timeout="10s") for run in runs), return_exceptions=True)
    return list(runs)


async def test_a_selection_counts_and_loops(place: Place):
    """Each time anew, over more than one page, newest first."""
    async with place.client(define) as client:
        everything = client.app.select(name="bad")
        assert await everything.count() == 0
        runs = await asyncio.gather(*(client.flow.enqueue(n) for n in range(1_203)))
        assert await everything.count() == 1_203
        seen = [run.id async for run in everything]
        assert len(set(seen)) == 1_203
        assert set(seen) == {run.id for run in runs}
        assert await client.app.select(status="failed").count() == 0


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry", "restart"])
async def test_a_verb_is_asked_of_each(place: Place, verb: str):
    """It is accepted where the status allows it; the audit has one request for all."""
    async with place.life(define) as life:
        broken = await failed(life.flow, 2)
        waiting = [await life.flow.delay("1h", n) for n in range(3)]
        paused = await life.flow.delay("1h", 9)
        await paused.pause()
        selection = life.app.select(name="bad", created_after=None)
        bulk = await getattr(selection, verb)()
        allowed = {
            "cancel": [*waiting, paused],
            "pause": [*waiting, paused],
            "resume": [paused],
            "retry": broken,
            "restart": [*broken, *waiting, paused],
        }[verb]
        everyone = {run.id for run in (*broken, *waiting, paused)}
        assert set(bulk.done) == {run.id for run in allowed}
        assert set(bulk.refused) == everyone - set(bulk.done)
        requests = set()
        for run in allowed:
            history = await life.app.engine.store.history(run.id)
            requests.add([one.request_id for one in history.audit if one.action == verb][-1])
        assert len(requests) == 1
        statuses = {await run.status() for run in allowed} if verb == "cancel" else set()
        assert statuses <= {Status.CANCELLED}


async def test_a_selection_narrows(place: Place):
    """By the filters of app.runs, the parent among them."""

    def define_tree(app: App) -> Any:
        child = define(app)

        async def flow(count: int) -> None:
            for n in range(count):
                await child.options(tags=("small",) if n < 2 else ()).delay("1h", n)

        return app.workflow(flow)

    async with place.life(define_tree) as life:
        one, other = await life.flow.enqueue(3), await life.flow.enqueue(1)
        await asyncio.gather(one.result(timeout="5s"), other.result(timeout="5s"))
        assert await life.app.select(parent=one).count() == 3
        assert await life.app.select(parent=one, tag="small").count() == 2
        bulk = await life.app.select(parent=one, tag="small").cancel()
        assert len(bulk.done) == 2
        assert await life.app.select(status="cancelled").count() == 2


async def test_what_there_is_not(place: Place):
    """Unknown filters and definitions are refused before anything is asked."""
    async with place.client(define) as client:
        with pytest.raises(UsageError, match="did you mean status="):
            client.app.select(statsu="failed")
        with pytest.raises(UsageError, match="there is no status"):
            client.app.select(status="broken")
        with pytest.raises(UnknownDefinition):
            await client.app.select(name="bda").count()
        with pytest.raises(UnknownDefinition):
            await client.app.select(name="bda").cancel()


async def test_a_body_selects_in_a_step_only(place: Place):
    """A replay would find others."""

    def define_flow(app: App) -> Any:
        async def flow() -> int:
            with pytest.raises(UsageError, match="in a step"):
                await app.select().count()
            with pytest.raises(UsageError, match="in a step"):
                await app.select().cancel()
            return await step("count", app.select().count)

        return app.workflow(flow)

    async with place.life(define_flow) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == 1
