"""Definitions: names, apps that share a store, what bodies are handed, what a call may choose."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from perdure import App, Context, Status, Worker
from perdure.errors import (
    DefinitionError,
    DuplicateName,
    InvalidValue,
    RunFailed,
    UnknownDefinition,
    UsageError,
)
from tests.engine.places import Place

# --- names --------------------------------------------------------------------------------------


def test_two_definitions_of_one_name_are_refused_naming_both_places():
    """A second definition of a name is an error that names the file and line of each."""
    app = App()

    @app.workflow
    async def order() -> None: ...

    with pytest.raises(DuplicateName) as caught:

        @app.job(name="order")
        async def other() -> None: ...

    places = [word for word in str(caught.value).split() if "test_definitions.py:" in word]
    assert len({place.rstrip(";") for place in places}) == 2
    assert "'order'" in str(caught.value)


def test_two_steps_of_one_name_are_refused_naming_both_places():
    """A second decorated step of a name is an error that names both places."""
    app = App()

    @app.step
    async def charge() -> None: ...

    with pytest.raises(DuplicateName, match=r"'charge': .*test_definitions.py:\d+ and .*:\d+"):

        @app.step(name="charge")
        async def other() -> None: ...


def test_a_definition_needs_a_name():
    """A lambda has no name to be found by after a restart."""
    app = App()
    with pytest.raises(DefinitionError, match="name="):
        app.workflow(lambda: None)
    assert app.workflow(name="named")(lambda: None).name == "named"


def test_calling_a_definition_says_what_could_be_meant():
    """`order()` could mean two things: the error names both."""
    app = App()

    @app.workflow
    async def order() -> None: ...

    with pytest.raises(UsageError, match=r"order\.run\(…\).*order\.enqueue\(…\)"):
        order()


async def test_a_worker_for_an_unknown_definition_does_not_start(place: Place):
    """`only` must name definitions of the app; a mistyped name gets a suggestion."""

    def define(app: App) -> Any:
        @app.workflow
        async def checkout() -> None: ...

        return checkout

    async with place.client(define) as client:
        with pytest.raises(UnknownDefinition, match="did you mean 'checkout'"):
            await Worker(client.app, only=["chekout"]).start()


async def test_a_run_of_an_unknown_name_stays_queued(place: Place):
    """A worker leaves alone what it has no definition of, until one comes that has."""

    def knows(*names: str) -> Any:
        def define(app: App) -> Any:
            async def body() -> str:
                return "done"

            return {name: app.workflow(name=name)(body) for name in names}

        return define

    async with place.client(knows("new")) as client:
        run = await client.flow["new"].enqueue()
    async with place.life(knows("old")) as life:
        await (await life.flow["old"].enqueue()).result(timeout="5s")
        assert await life.get(run).status() == Status.QUEUED
        assert (await life.store.get(run.id)).epoch == 0
    async with place.life(knows("old", "new")) as life:
        assert await life.get(run).result(timeout="5s") == "done"


async def test_two_apps_on_one_store_each_execute_their_own(place: Place):
    """Apps with different definitions share a store, and each finishes what it knows."""

    def with_flow(name: str) -> Any:
        def define(app: App) -> Any:
            @app.workflow(name=name)
            async def flow(number: int) -> str:
                return f"{name} {number}"

            return flow

        return define

    async with place.life(with_flow("red")) as red, place.life(with_flow("blue")) as blue:
        reds = [await red.flow.enqueue(n) for n in range(5)]
        blues = [await blue.flow.enqueue(n) for n in range(5)]
        assert [await run.result(timeout="5s") for run in reds] == [f"red {n}" for n in range(5)]
        assert [await run.result(timeout="5s") for run in blues] == [f"blue {n}" for n in range(5)]
        for life, run in ((red, reds[0]), (blue, blues[0])):
            assert (await life.store.get(run.id)).worker_id == life.worker.worker_id
        seen_by_blue = await blue.get(reds[0]).result(timeout="5s")
        assert seen_by_blue == "red 0"


async def test_a_parent_may_await_a_run_that_another_app_executes(place: Place):
    """Two apps with a definition of one name each: a child is executed by whoever has its body."""

    def front(app: App) -> Any:
        @app.workflow
        async def resize(path: str) -> str:
            raise NotImplementedError  # declared here to be started, executed by the other app

        @app.workflow
        async def upload(path: str) -> str:
            return await (await resize.enqueue(path)).result()

        return upload

    def back(app: App) -> Any:
        @app.workflow
        async def resize(path: str) -> str:
            return f"small {path}"

        return resize

    async with place.life(front, only=["upload"]) as life, place.life(back):
        run = await life.flow.enqueue("cat")
        assert await run.result(timeout="5s") == "small cat"


# --- what a body is handed ----------------------------------------------------------------------


@dataclass
class Services:
    """What the app of these tests offers its bodies."""

    name: str


@pytest.mark.parametrize("how", ["object", "function", "async function"])
async def test_services_reach_the_body(place: Place, how: str):
    """The app's services are an object, or what a function makes for each run."""
    made: list[Services] = []

    def make() -> Services:
        made.append(Services("mailer"))
        return made[-1]

    async def make_async() -> Services:
        await asyncio.sleep(0)
        return make()

    services: Any = {
        "object": Services("mailer"),
        "function": make,
        "async function": make_async,
    }[how]

    def define(app: App) -> Any:
        @app.workflow
        async def send(ctx: Context[Services], to: str) -> str:
            return f"{ctx.services.name} {to}"

        return send

    async with place.life(define, services=services) as life:
        runs = [await life.flow.enqueue(to) for to in "ab"]
        got = [await run.result(timeout="5s") for run in runs]
    assert got == ["mailer a", "mailer b"]
    assert len(made) == (2 if "function" in how else 0)


async def test_the_context_tells_the_run_its_attempt_and_meta(place: Place):
    """ctx has the call's meta, the run's id and its attempt; a sync body gets it, too."""

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=lambda *_: "2ms")
        async def flow(ctx: Context[None], *, fail: bool) -> list[Any]:
            if fail and ctx.attempt == 1:
                raise ConnectionError
            return [ctx.run_id, ctx.attempt, dict(ctx.meta), ctx.services]

        @app.workflow
        def sync_flow(ctx: Context[None]) -> Any:
            return ctx.meta["request_id"]

        return flow, sync_flow

    async with place.life(define) as life:
        flow, sync_flow = life.flow
        meta = {"request_id": "r1", "tenant": {"id": 7}}
        run = await flow.options(meta=meta).enqueue(fail=True)
        assert await run.result(timeout="5s") == [run.id, 2, meta, None]
        plain = await flow.enqueue(fail=False)
        assert await plain.result(timeout="5s") == [plain.id, 1, {}, None]
        run = await sync_flow.options(meta=meta).enqueue()
        assert await run.result(timeout="5s") == "r1"


async def test_meta_is_the_same_after_a_kill(place: Place):
    """Meta is stored with the run, and reaches whoever continues it."""
    seen: list[Any] = []
    kill_me = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[None]) -> None:
            seen.append(dict(ctx.meta))
            if len(seen) == 1:
                kill_me.set()
                await asyncio.Event().wait()

        return flow

    async with place.life(define) as life:
        run = await life.flow.options(meta={"request_id": "r1"}).enqueue()
        await asyncio.wait_for(kill_me.wait(), 5)
        await life.kill()
    async with place.life(define) as life:
        await life.get(run).result(timeout="5s")
    assert seen == [{"request_id": "r1"}] * 2


async def test_a_failing_service_fails_the_attempt(place: Place):
    """Services that cannot be made are an error of the attempt, tried again like any other."""
    tries: list[int] = []

    def make() -> Services:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("no database")
        return Services("made")

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=lambda *_: "2ms")
        async def flow(ctx: Context[Services]) -> str:
            return ctx.services.name

        return flow

    async with place.life(define, services=make) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "made"
        [failed] = (await run.history()).attempts
    assert failed.error == "ConnectionError: no database"


async def test_run_here_and_now_needs_no_store():
    """`run` executes the body without store and worker, with services, and checks the values."""
    app = App(services=SimpleNamespace(factor=3))

    @app.step
    async def double(number: int) -> int:
        return number * 2

    @app.workflow
    async def flow(ctx: Context[Any], number: int) -> int:
        return await double(number) * ctx.services.factor

    assert await flow.run(7) == 42
    wrong: Any = "seven"
    with pytest.raises(InvalidValue):
        await flow.run(wrong)


# --- input --------------------------------------------------------------------------------------


async def test_a_definition_gives_handles_of_its_runs(place: Place):
    """flow.get(id) decodes the result as the body's annotation says; app.get(id) cannot."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> Services:
            return Services("typed")

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await life.flow.get(run.id).result(timeout="5s") == Services("typed")
        assert await life.app.get(run.id).result(timeout="5s") == {"name": "typed"}
        with pytest.raises(InvalidValue, match="run id"):
            life.flow.get("")


async def test_wrong_arguments_are_refused_before_anything_is_stored(place: Place):
    """Arguments that do not fit the annotations never become a run."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int) -> None: ...

        return flow

    async with place.client(define) as client:
        for args, kwargs in ((("x",), {}), ((), {}), ((1, 2), {}), ((1,), {"more": 1})):
            with pytest.raises(InvalidValue):
                await client.flow.enqueue(*args, **kwargs)
        assert await client.app.runs() == []


async def test_stored_input_that_no_longer_fits_fails_the_run(place: Place):
    """An input stored under an older signature ends its run as failed for `invalid_input`."""

    def version(annotation: type) -> Any:
        def define(app: App) -> Any:
            async def flow(value: Any) -> None: ...

            flow.__annotations__["value"] = annotation
            return app.workflow(flow)

        return define

    async with place.client(version(str)) as client:
        run = await client.flow.enqueue("text")
    async with place.life(version(int)) as life:
        with pytest.raises(RunFailed) as caught:
            await life.get(run).result(timeout="5s")
    assert caught.value.reason == "invalid_input"


async def test_priority_decides_who_is_claimed_first(place: Place):
    """Of queued runs the smaller priority begins first, then the older one."""
    order: list[str] = []

    def define(app: App) -> Any:
        @app.workflow(priority=5)
        async def flow(name: str) -> None:
            order.append(name)

        return flow

    async with place.client(define) as client:
        runs = [
            await client.flow.enqueue("c"),
            await client.flow.options(priority=-1).enqueue("a"),
            await client.flow.enqueue("d"),
            await client.flow.options(priority=0).enqueue("b"),
        ]
        async with place.life(define, concurrency=1):
            for run in runs:
                await run.result(timeout="5s")
    assert order == ["a", "b", "c", "d"]


async def test_a_worker_serves_its_queues_alone(place: Place):
    """A run on a queue that no worker serves stays queued; one that does takes it."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            return "done"

        return flow

    async with place.life(define) as life:
        other = await life.flow.options(queue="slow").enqueue()
        await (await life.flow.enqueue()).result(timeout="5s")
        assert await other.status() == Status.QUEUED
        async with place.life(define, queues=["slow"]):
            assert await other.result(timeout="5s") == "done"


async def test_run_once_works_off_what_there_is(place: Place):
    """Worker.run_once executes what can be claimed now, then stops."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int) -> int:
            return number

        return flow

    async with place.client(define) as client:
        runs = [await client.flow.enqueue(n) for n in range(5)]
        assert await Worker(client.app, concurrency=2).run_once() == 5
        assert [await run.result(timeout="5s") for run in runs] == list(range(5))
        assert await client.store.workers() == []
