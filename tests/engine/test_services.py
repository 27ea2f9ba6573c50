"""Services: made once a run or once a process, cleaned up whatever becomes of the body."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from perdure import App, Context, Status, step, telemetry
from perdure._engine import services as held
from perdure._engine.activation import Leaving
from perdure.errors import DefinitionError, RunFailed, UsageError
from tests.engine.places import Halt, Place, eventually


class Journal(list[str]):
    """What happened to services, in order, and factories that write it.

    Attributes:
        ended_by: the class of what each clean-up was told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended_by: list[str] = []

    async def generator(self) -> AsyncIterator[str]:
        """Lend a service."""
        self.append("made")
        try:
            yield "service"
        except BaseException as error:
            self.ended_by.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0)
            self.append("cleaned up")

    def plain_generator(self) -> Iterator[str]:
        """Lend a service without the loop."""
        self.append("made")
        yield "service"
        self.append("cleaned up")

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[str]:
        """Lend a service from a context manager."""
        async for service in self.generator():
            yield service

    @contextmanager
    def plain_manager(self) -> Iterator[str]:
        """Lend a service from one without the loop."""
        yield from self.plain_generator()


FACTORIES: dict[str, Callable[[Journal], Any]] = {
    "async generator": lambda journal: journal.generator,
    "generator": lambda journal: journal.plain_generator,
    "async context manager": lambda journal: journal.manager,
    "context manager": lambda journal: journal.plain_manager,
}


@pytest.mark.parametrize("kind", FACTORIES)
async def test_services_are_made_and_cleaned_up_for_each_run(place: Place, kind: str):
    """A factory with clean-up lends its service to one run, and is over when the run has ended."""
    journal = Journal()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[str]) -> str:
            journal.append("body")
            return ctx.services

        return flow

    async with place.life(define, services=FACTORIES[kind](journal)) as life:
        for _ in range(2):
            assert await (await life.flow.enqueue()).result(timeout="5s") == "service"
        assert journal == ["made", "body", "cleaned up"] * 2


@pytest.mark.parametrize("kind", FACTORIES)
async def test_services_for_the_process_are_made_once(place: Place, kind: str):
    """With services_scope="process" they are made by connect and cleaned up by the last close."""
    journal = Journal()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[str]) -> str:
            return ctx.services

        return flow

    of_app = {"services": FACTORIES[kind](journal), "services_scope": "process"}
    life = place.life(define, of_app=of_app)
    assert journal == []
    async with life:
        assert journal == ["made"]
        runs = [await life.flow.enqueue() for _ in range(3)]
        assert [await run.result(timeout="5s") for run in runs] == ["service"] * 3
        assert await life.flow.run() == "service"
        assert journal == ["made"]
    assert journal == ["made", "cleaned up"]


async def test_a_class_is_a_factory(place: Place):
    """What can be called is called, a class too: each run has an instance of its own."""

    class Service:
        pass

    seen: list[Any] = []

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[Service]) -> None:
            seen.append(ctx.services)

        return flow

    async with place.life(define, services=Service) as life:
        for _ in range(2):
            await (await life.flow.enqueue()).result(timeout="5s")
    assert [type(service) for service in seen] == [Service, Service]
    assert seen[0] is not seen[1]


async def test_a_suspended_body_gives_its_services_back(place: Place):
    """They are cleaned up when the body leaves its worker, and made again when it returns."""
    journal = Journal()
    let_go = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None:
            await let_go.wait()

        @app.workflow
        async def flow(ctx: Context[str]) -> str:
            await (await child.enqueue()).result()
            return ctx.services

        return flow

    async with place.life(define, services=journal.generator) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await eventually(lambda: journal == ["made", "cleaned up"])
        assert journal.ended_by == ["CancelledError"]
        let_go.set()
        assert await run.result(timeout="5s") == "service"
    assert journal == ["made", "cleaned up"] * 2


async def test_a_failed_body_tells_the_clean_up(place: Place):
    """A clean-up sees what the body raised, and cannot make it good."""
    told: list[str] = []

    @asynccontextmanager
    async def forgiving() -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            told.append(str(error))

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[Any]) -> None:
            raise ValueError("no such order")

        return flow

    async with place.life(define, services=forgiving) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="no such order"):
            await run.result(timeout="5s")
    assert told == ["no such order"]


@pytest.mark.parametrize("end", ["cancel", "timeout", "stop", "loss"])
async def test_services_are_cleaned_up_however_the_body_is_ended(place: Place, end: str):
    """A cancelled body, one that takes too long and one that a worker gives up or loses."""
    journal = Journal()
    begun = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow(timeout="50ms" if end == "timeout" else None)
        async def flow(ctx: Context[str]) -> None:
            begun.set()
            while True:
                await step("tick", asyncio.sleep, 0.001)

        return flow

    life = place.life(define, services=journal.generator, grace="10ms")
    async with life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(begun.wait(), 5)
        if end == "cancel":
            assert await run.cancel(wait=True) == Status.CANCELLED
        elif end == "loss":
            life.worker._executor.active[run.id].leave(Leaving.LOST)
            await eventually(lambda: journal[:2] == ["made", "cleaned up"])
        elif end == "timeout":
            with pytest.raises(RunFailed, match=r"timeout of 0\.05 s"):
                await run.result(timeout="5s")
    # A run that was lost is claimed again.
    assert journal == ["made", "cleaned up"] * (len(journal) // 2 if end == "loss" else 1)
    assert set(journal.ended_by) == {"CancelledError"}


async def test_services_outlive_the_branches_of_the_body(place: Place):
    """A task that the body left behind still has its services while it is being cancelled."""
    journal = Journal()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[str]) -> None:
            async def branch() -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0.01)
                    journal.append("branch")

            left = asyncio.create_task(branch())
            await asyncio.sleep(0)
            assert not left.done()

        return flow

    async with place.life(define, services=journal.generator) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
    assert journal == ["made", "branch", "cleaned up"]


async def test_a_factory_is_left_by_the_task_that_entered_it(place: Place):
    """A task group and a timeout, which must be left where they were entered, can be services."""

    @asynccontextmanager
    async def group() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            yield tasks

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[asyncio.TaskGroup]) -> str:
            return type(ctx.services).__name__

        return flow

    async with place.life(define, services=group) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == "TaskGroup"


async def test_a_clean_up_that_fails_is_logged(place: Place, caplog: pytest.LogCaptureFixture):
    """What a clean-up raises is logged and changes nothing of the run."""

    async def careless() -> AsyncIterator[int]:
        yield 7
        raise ConnectionError("already closed")

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[int]) -> int:
            return ctx.services

        return flow

    async with place.life(define, services=careless) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == 7
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(record)["fact"] == "clean-up of services failed"
    assert vars(record)["services_of"] == f"run {run.id} of 'flow'"
    assert record.exc_info is not None
    assert "already closed" in str(record.exc_info[1])


async def test_a_clean_up_that_hangs_is_given_up(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A clean-up that takes too long is cancelled and logged; the run ends."""
    monkeypatch.setattr(held, "CLEAN_UP_LIMIT", 0.02)
    given_up = asyncio.Event()

    async def slow() -> AsyncIterator[int]:
        yield 7
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[int]) -> int:
            return ctx.services

        return flow

    async with place.life(define, services=slow) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == 7
        await asyncio.wait_for(given_up.wait(), 5)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(record)["fact"] == "clean-up of services took too long and was cancelled"
    assert vars(record)["seconds"] == 0.02


@pytest.mark.parametrize("kind", ["function", "generator", "context manager"])
async def test_a_factory_that_fails_fails_the_attempt(place: Place, kind: str):
    """What a factory raises is what the body's attempt raises, and is tried again."""
    tries: list[int] = []

    def fail_first() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("no database")
        return "made"

    async def generator() -> AsyncIterator[str]:
        yield fail_first()

    factory = {
        "function": fail_first,
        "generator": generator,
        "context manager": asynccontextmanager(generator),
    }[kind]

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=lambda *_: "2ms")
        async def flow(ctx: Context[str]) -> str:
            return ctx.services

        return flow

    async with place.life(define, services=factory) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "made"
        [failed] = (await run.history()).attempts
    assert failed.error == "ConnectionError: no database"


async def test_a_factory_that_fails_for_the_process_fails_connect(place: Place):
    """connect raises what it raised, leaves nothing open and tells of no app that is ready."""
    down = True

    async def make() -> str:
        if down:
            raise ConnectionError("no database")
        return "made"

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[str]) -> str:
            return ctx.services

        return flow

    life = place.life(define, of_app={"services": make, "services_scope": "process"})
    told: list[telemetry.AppReady] = []
    life.app.on(telemetry.AppReady)(told.append)
    with pytest.raises(ConnectionError, match="no database"):
        await life.app.connect()
    assert not life.app.engine.is_open
    assert told == []
    down = False
    async with life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == "made"


async def test_a_body_that_is_cancelled_before_it_has_services(place: Place):
    """A factory that is still making them is cancelled with its body."""
    making = asyncio.Event()
    stopped = asyncio.Event()

    async def slow() -> AsyncIterator[int]:
        making.set()
        try:
            await asyncio.Event().wait()
            yield 7
        finally:
            stopped.set()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[int]) -> None: ...

        return flow

    async with place.life(define, services=slow, grace="10ms") as life:
        await life.flow.enqueue()
        await asyncio.wait_for(making.wait(), 5)
    await asyncio.wait_for(stopped.wait(), 5)


async def test_a_factory_is_no_part_of_the_run(place: Place):
    """A step called in a factory just runs: what it does is not recorded, and not replayed."""
    halt = Halt()

    @step
    async def ask() -> str:
        return "asked"

    async def make() -> str:
        return await ask()

    def define(app: App) -> Any:
        @app.workflow
        async def flow(ctx: Context[str]) -> str:
            await step("own", str.upper, ctx.services)
            await halt()
            return ctx.services

        return flow

    async with place.life(define, services=make) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(halt.reached.wait(), 5)
        assert [record.path for record in (await run.history()).steps] == ["own"]
        halt.is_open = True
        await life.kill()
    async with place.life(define, services=make) as life:
        assert await life.get(run).result(timeout="5s") == "asked"


async def test_run_here_and_now_cleans_up():
    """`run` makes services for its one call, and tells the clean-up how it ended."""
    journal = Journal()
    app = App(services=journal.generator, services_scope="process")

    @app.workflow
    async def flow(ctx: Context[str], *, fail: bool) -> str:
        if fail:
            raise ValueError(ctx.services)
        return ctx.services

    assert await flow.run(fail=False) == "service"
    with pytest.raises(ValueError, match="service"):
        await flow.run(fail=True)
    assert journal == ["made", "cleaned up"] * 2
    assert journal.ended_by == ["ValueError"]


async def test_a_sync_body_has_services(place: Place):
    """A body written with def is lent its services as well."""
    journal = Journal()

    def define(app: App) -> Any:
        @app.workflow
        def flow(ctx: Context[str]) -> str:
            journal.append("body")
            return ctx.services

        return flow

    async with place.life(define, services=journal.generator) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == "service"
    assert journal == ["made", "body", "cleaned up"]


# --- who may ask --------------------------------------------------------------------------------


def test_services_that_an_app_lacks_are_refused_where_they_are_asked_for():
    """A body that asks for services in an app without any is a definition error that helps."""
    app = App()
    with pytest.raises(DefinitionError, match=r"'send' at .*test_services.py:\d+ .*services=…"):

        @app.job
        async def send(ctx: Context[Journal]) -> None: ...

    assert [definition.name for definition in app.engine.registry] == []


@pytest.mark.parametrize("asked", [Context, Context[None], Context[object], Context[Any]], ids=str)
async def test_a_body_may_ask_for_its_meta_alone(asked: Any):
    """A bare Context, or one that names nothing, is handed out by an app without services."""
    app = App()

    async def flow(ctx: Any) -> str:
        return ctx.meta["tenant"]

    flow.__annotations__["ctx"] = asked
    assert await app.workflow(flow).options(meta={"tenant": "t1"}).run() == "t1"


async def test_a_class_that_is_declared_later_is_looked_at_by_connect():
    """Where the annotation cannot be read yet, an app without services refuses to connect."""
    app = App("memory://")

    async def flow(ctx: "Context[DeclaredLater]") -> None: ...  # noqa: F821 -- see below

    app.workflow(flow)
    flow.__globals__["DeclaredLater"] = Journal
    try:
        with pytest.raises(DefinitionError, match="asks for services"):
            await app.connect()
    finally:
        del flow.__globals__["DeclaredLater"]


def test_the_scope_of_services_is_checked():
    """There are two scopes, and neither means anything for an object."""
    wrong: Any = "request"
    with pytest.raises(UsageError, match='"run" or "process"'):
        App(services=Journal, services_scope=wrong)
    service: Any = Journal()
    with pytest.raises(UsageError, match="no factory"):
        App(services=service, services_scope="process")
