"""Versions: runs that end with the code with which they began, and code that is kept for them."""

import asyncio
from typing import Any

import pytest

from perdure import App, Context, sleep, step, workflow
from perdure.errors import (
    DefinitionError,
    DuplicateName,
    InvalidTransition,
    InvalidValue,
    UnknownDefinition,
)
from perdure.testing import replay
from tests.engine.places import PATIENCE, Define, Halt, Life, Place


async def note(what: str) -> str:
    """Return what was given."""
    return what


def single(version: str, halt: Halt | None = None) -> Define:
    """Declare `order` in one version; where there is a halt, its body stays there."""

    def define(app: App) -> Any:
        @app.workflow(version=version, pinned=True)
        async def order(number: int) -> str:
            packed = await step(f"pack {version}", note, f"{number} by {version}")
            if halt is not None:
                await halt()
            return await step(f"ship {version}", note, packed)

        return order

    return define


def both(app: App) -> Any:
    """Declare `order` in version 2, with the code of version 1 beside it."""
    order = single("2")(app)

    @order.earlier("1")
    async def order_1(number: int) -> str:
        packed = await step("pack 1", note, f"{number} by 1")
        return await step("ship 1", note, f"{packed}, then by both")

    return order


async def begun(place: Place, halt: Halt) -> Any:
    """Return a run that version 1 began, and whose worker was killed."""
    async with place.life(single("1", halt)) as life:
        run = await life.flow.enqueue(7)
        await asyncio.wait_for(halt.reached.wait(), PATIENCE)
        await life.kill()
    halt.is_open = True
    return run


async def ends(life: Life, run: Any) -> str:
    """Return the result of a run of another life."""
    result: str = await life.get(run).result(timeout="10s")
    return result


async def test_old_runs_end_on_old_code_beside_new_ones(place: Place):
    """After a kill, a fleet of version 2 begins new runs and leaves the old one to version 1."""
    run = await begun(place, Halt())
    async with place.life(single("2")) as new:
        assert await (await new.flow.enqueue(1)).result(timeout="10s") == "1 by 2"
        # The dead worker's run was given back before that, and is claimable all the time.
        assert await new.get(run).status() == "queued"
        found = await new.get(run).why()
        assert (found.cause, found.holder) == ("version", ("1",))
        assert new.worker is not None
        assert f"live workers have '2' ({new.worker.worker_id})" in found.sentence
        async with place.life(single("1")) as old:
            assert await ends(old, run) == "7 by 1"
        record = await new.get(run).history()
        assert (record.version, record.pinned, record.crashes) == ("1", True, 0)
        assert [one.path for one in record.steps] == ["pack 1", "ship 1"]


async def test_one_worker_has_both_codes(place: Place):
    """The code of the earlier version ends what it began, and nothing else."""
    run = await begun(place, Halt())
    async with place.life(both) as life:
        assert await (await life.flow.enqueue(1)).result(timeout="10s") == "1 by 2"
        assert await ends(life, run) == "7 by 1, then by both"
        assert life.worker is not None
        [worker] = [one for one in await life.app.workers() if one.id == life.worker.worker_id]
        assert (worker.definitions, worker.earlier) == ({"order": "2"}, {"order": ("1",)})


async def test_what_nobody_has_begun_is_nobodys(place: Place):
    """A run that was created from version 1 begins with whatever version takes it."""
    async with place.client(single("1")) as client:
        run = await client.flow.enqueue(3)
        assert ((await run.history()).version, (await run.history()).pinned) == ("1", False)
    async with place.life(single("2")) as life:
        assert await ends(life, run) == "3 by 2"
        assert (await life.get(run).history()).version == "2"


async def test_an_operator_moves_a_run(place: Place):
    """To code that its record fits: it goes on there, and replays what it recorded."""
    run = await begun(place, Halt())

    def mended(app: App) -> Any:
        @app.workflow(version="3", pinned=True)
        async def order(number: int) -> str:
            packed = await step("pack 1", note, f"{number} by 1")
            return await step("ship 3", note, f"{packed}, then by 3")

        return order

    async with place.life(mended) as life:
        moved = life.get(run)
        assert [(one.version, one.pinned) for one in await life.app.versions()] == [
            ("1", 1),
            ("3", 0),
        ]
        assert await moved.pin("3") in {"queued", "running"}
        assert await ends(life, run) == "7 by 1, then by 3"
        assert (await moved.history()).version == "3"
        assert [one.pinned for one in await life.app.versions()] == [0]


async def test_many_are_moved_together(place: Place):
    """A selection by version is pinned elsewhere, or to nothing."""
    async with place.client(single("1")) as client:
        runs = [await client.flow.enqueue(number) for number in range(3)]
        for run in runs[:2]:
            await run.pin("1")
        await runs[2].pin("0")
        assert [run.id for run in await client.app.runs(version="1")] == [runs[1].id, runs[0].id]
        bulk = await client.app.select(version="1", name="order").pin("2")
        assert set(bulk.done) == {runs[0].id, runs[1].id}
        assert await client.app.select(version="2").count() == 2
        await client.app.select(version="0").pin(None)
        assert not (await runs[2].history()).pinned
    async with place.life(single("2")) as life:
        for number, run in enumerate(runs):
            assert await ends(life, run) == f"{number} by 2"


async def test_restart_and_fork_take_the_present_version(place: Place):
    """Unless they are told another."""
    run = await begun(place, Halt())
    async with place.life(single("2")) as life:
        old = life.get(run)
        forked = await old.fork()
        assert await forked.result(timeout="10s") == "7 by 2"
        elsewhere = await old.fork(pin="9")
        assert ((await elsewhere.history()).version, await elsewhere.status()) == ("9", "queued")
        assert await old.restart(pin="1") == "queued"
        assert (await old.history()).version == "1"
        await old.restart()
        assert await ends(life, run) == "7 by 2"


async def test_what_runs_is_not_restarted_on_another_version(place: Place):
    """It would lose the code that it goes on with, should a cancel come first."""
    halt = Halt()
    async with place.life(single("1", halt)) as life:
        run = await life.flow.enqueue(7)
        await asyncio.wait_for(halt.reached.wait(), PATIENCE)
        with pytest.raises(InvalidTransition, match="pause it first to choose its version"):
            await run.restart(pin="2")
        await life.kill()


async def test_a_result_is_read_as_its_version_says(place: Place):
    """The types of an earlier version are those of its own annotations."""

    def first(app: App) -> Any:
        @app.workflow(version="1", pinned=True)
        async def order(number: int) -> set[int]:
            return {number}

        return order

    def second(app: App) -> Any:
        @app.workflow(version="2", pinned=True)
        async def order(number: int) -> str:
            return str(number)

        @order.earlier("1")
        async def order_1(number: int) -> set[int]:
            return {number}

        return order

    async with place.life(first) as life:
        run = await life.flow.enqueue(7)
        assert await run.result(timeout="10s") == {7}
    async with place.life(second) as life:
        [found] = await life.app.runs()
        assert await found.result() == {7}
        pinned = await life.flow.enqueue(8)
        assert await pinned.result(timeout="10s") == "8"


async def test_an_earlier_body_may_ask_for_the_context_and_be_plain(place: Place):
    """`def` as well as `async def`, with the app's services; attempts are the definition's."""

    def define(app: App[str]) -> Any:
        @app.workflow(version="2", pinned=True, max_attempts=3, backoff=None)
        async def order(number: int) -> str:
            return "new"

        @order.earlier("1")
        def order_1(ctx: Context[str], number: int) -> str:
            if ctx.attempt == 1:
                raise ConnectionError("refused")
            return f"{number} with {ctx.services} at {ctx.attempt}"

        return order

    async with place.life(define, services="mailer") as life:
        run = await life.flow.enqueue(7)
        fork = await run.fork(pin="1")
        assert await fork.result(timeout="10s") == "7 with mailer at 2"


async def test_declarations_keep_earlier_code_in_every_app(place: Place):
    """Whether it is given before or after the app includes them."""

    @workflow(version="3", pinned=True)
    async def order(number: int) -> str:
        return "3"

    @order.earlier("1")
    async def order_1(number: int) -> str:
        return "1"

    def define(app: App) -> Any:
        app.include(order)
        return order.on(app)

    async with place.life(define) as life:

        @order.earlier("2")
        async def order_2(number: int) -> str:
            return "2"

        assert (await order_1(1), await order_2(1)) == ("1", "2")
        run = await life.flow.enqueue(7)
        assert await (await run.fork(pin="1")).result(timeout="10s") == "1"
    async with place.life(define) as life:
        assert await (await life.get(run).fork(pin="2")).result(timeout="10s") == "2"


async def test_a_body_pins_a_run_once(place: Place):
    """As a durable call: a replay does not do it again."""
    passes: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def operator(run_id: str) -> None:
            passes.append(await app.get(run_id).pin("2"))
            await sleep("100ms")

        single("1")(app)
        return operator

    async with place.client(single("1")) as client:
        run = await client.flow.enqueue(1)
        await run.pin("9")
    async with place.life(define) as life:
        operator = await life.flow.enqueue(run.id)
        await operator.result(timeout="10s")
        assert [one.path for one in (await operator.history()).steps] == ["pin", "sleep"]
        history = await life.store.history(run.id)
        assert [entry.action for entry in history.audit] == ["pin", "pin"]
        assert (history.run.pin, passes) == ("2", ["queued", "queued"])


# --- mistakes ------------------------------------------------------------------------------------


def test_a_version_is_given_once():
    """The message says where the other one is."""
    app = App()
    order = both(app)
    for version in ("1", "2"):
        with pytest.raises(DuplicateName, match=f"version '{version}' already: .*test_versions.py"):

            @order.earlier(version)
            async def again(number: int) -> str: ...


def test_pinned_needs_a_version():
    """A digest of the code changes with every edit, which would leave runs behind."""
    with pytest.raises(DefinitionError, match=r"pinned=True of 'order' needs version=…"):

        @App().workflow(pinned=True)
        async def order() -> None: ...


@pytest.mark.parametrize("given", [7, print, None, Halt])
def test_an_earlier_version_is_a_function(given: Any):
    """A class, a definition or nothing is none."""
    app = App()
    order = single("2")(app)
    if given is print:
        given = order
    with pytest.raises(DefinitionError, match="an earlier version is made of a"):
        order.earlier("1")(given)


@pytest.mark.parametrize("version", ["", 7, None])
def test_a_version_is_a_text(version: Any):
    """As everywhere that one is named."""
    with pytest.raises(InvalidValue, match="version"):
        single("2")(App()).earlier(version)


async def test_an_earlier_version_asks_for_no_more_than_there_is(place: Place):
    """Of services when the app connects, of arguments for on_cancel when a worker starts."""

    def asking(app: App) -> Any:
        order = single("2")(app)

        @order.earlier("1")
        async def order_1(ctx: Context[str], number: int) -> str: ...

        return order

    with pytest.raises(DefinitionError, match=r"'order' at .*test_versions.py:\d+ asks for"):
        async with place.client(asking):
            pass

    def cleaning(app: App) -> Any:
        async def undo(number: int) -> None: ...

        @app.workflow(version="2", on_cancel=undo)
        async def order(number: int) -> None: ...

        @order.earlier("1")
        async def order_1() -> None: ...

        return order

    with pytest.raises(DefinitionError, match="asks for number, which the body has no argument"):
        async with place.life(cleaning):
            pass


async def test_an_app_without_the_version_cannot_replay_it(place: Place):
    """`check` and the test kit say which versions there are."""
    run = await begun(place, Halt())
    store = place.store()
    await store.open()
    history = await store.history(run.id)
    await store.close()
    other = App()
    single("2")(other)
    with pytest.raises(UnknownDefinition, match=r"not here in version '1'.*; there is '2'"):
        await replay(history, other)
    kept = App()
    both(kept)
    report = await replay(history, kept)
    assert report.asked == ("ship 1",)
