"""Classic mistakes: each has a message of its own that says what to write instead."""

import asyncio
import gc
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import App, Worker, step
from perdure._engine import sleepers
from perdure.errors import DefinitionError, DuplicateName, InvalidValue, RunFailed, UsageError
from perdure.model.records import REASONS
from tests.engine.places import Place, eventually

# --- a call that is not awaited -----------------------------------------------------------------


def complaints(act: Callable[[], Any]) -> list[str]:
    """Return what Python warns of when the result of a call is thrown away."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
        gc.collect()
    return [f"{warning.category.__name__}: {warning.message}" for warning in caught]


async def test_a_verb_that_is_not_awaited_is_named_by_pythons_own_warning(place: Place):
    """Outside of a run, the warning says which verb lacks its `await`."""

    def define(app: App) -> Any:
        @app.workflow
        async def order(number: int) -> int:
            return number

        return order

    async with place.client(define) as client:
        order, app = client.flow, client.app
        acts = {
            "enqueue(…)": lambda: order.enqueue(1),
            "run(…)": lambda: order.run(1),
            "result(…)": lambda: app.get("x").result(),
            "step(…)": lambda: step("name", str.upper, "a"),
        }
        for verb, act in acts.items():
            says = f"RuntimeWarning: coroutine '{verb} without `await`' was never awaited"
            assert complaints(act) == [says]
        assert await app.runs() == []


async def test_a_step_that_is_not_awaited_is_named_by_pythons_own_warning(place: Place):
    """In a body, the warning says that a step lacks its `await`, at the line of the call."""
    heard: list[list[str]] = []

    def define(app: App) -> Any:
        @app.step
        async def charge(number: int) -> int:
            return number

        @app.workflow
        async def flow() -> None:
            heard.append(complaints(lambda: charge(1)))
            heard.append(complaints(lambda: step("inline", str.upper, "a")))
            heard.append(complaints(flow.enqueue))

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result(timeout="5s")
        assert (await run.history()).steps == ()
    a_step = "RuntimeWarning: coroutine 'a durable step without `await`' was never awaited"
    enqueue = "RuntimeWarning: coroutine 'enqueue(…) without `await`' was never awaited"
    assert heard == [[a_step], [a_step], [enqueue]]


async def test_a_body_that_returns_a_call_is_told_of_the_await(place: Place):
    """`return charge(1)` without `await` fails the run, and says what is missing."""
    made: list[Any] = []

    def define(app: App) -> Any:
        @app.step
        async def charge(number: int) -> int:
            return number

        @app.workflow
        async def flow() -> Any:
            made.append(charge(1))
            return made[-1]

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match=r"'flow' returned <coroutine> at \$, .*forget `await`"):
            await run.result(timeout="5s")
    made[0].close()


async def test_a_def_body_that_returns_a_call_is_told_that_it_cannot_await(place: Place):
    """`def` and `return charge(1)`: what to write instead, on a worker and here and now."""

    def define(app: App) -> Any:
        @app.step
        async def charge(number: int) -> int:
            return number

        @app.workflow
        def flow() -> Any:
            return charge(1)

        return flow

    says = r"'flow' is written with `def` and returned the coroutine .*step\.sync"
    async with place.life(define) as life:
        with pytest.raises(RunFailed, match=says):
            await (await life.flow.enqueue()).result(timeout="5s")
        with pytest.raises(UsageError, match=says):
            await life.flow.run()


async def test_a_step_that_is_given_a_call_does_not_begin(place: Place):
    """`pack(charge(1))` names the argument that is a call, at the line of the mistake."""
    made: list[Any] = []

    def define(app: App) -> Any:
        @app.step
        async def charge(number: int) -> int:
            return number

        @app.step
        async def pack(payment: Any, *, note: str = "") -> None:
            raise AssertionError

        @app.workflow
        async def flow() -> None:
            made.append(charge(1))
            await pack(made[-1])

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed) as caught:
            await run.result(timeout="5s")
        assert (await run.history()).steps == ()
    assert type(caught.value.__cause__) is InvalidValue
    assert str(caught.value.__cause__) == (
        "a step was given <coroutine> at $.payment, which is a call that was not awaited; did you "
        "forget `await`?"
    )
    made[0].close()


async def test_a_step_called_without_its_arguments_does_not_begin(place: Place):
    """What is missing is said at the call; it is no failure of the step that is tried again."""

    def define(app: App) -> Any:
        @app.step
        async def charge(number: int, *, note: str = "") -> str:
            return f"{number}{note}"

        @app.step
        async def ping(note: str = "") -> str:
            return f"ping{note}"

        @app.workflow
        async def flow() -> None:
            await charge()  # type: ignore[call-arg]

        @app.workflow
        async def same() -> None:
            assert await ping() == await ping("")

        return flow, same

    async with place.life(define) as life:
        flow, same = life.flow
        run = await flow.enqueue()
        with pytest.raises(RunFailed, match=r"charge\(\) is missing 'number'"):
            await run.result(timeout="5s")
        assert (await run.history()).steps == ()
        run = await same.enqueue()
        await run.result(timeout="5s")
        first, second = (await life.store.history(run.id)).checkpoints
        assert (first.key.fingerprint, first.key.k) == (second.key.fingerprint, 0)
        assert second.key.k == 1


# --- asyncio.sleep in a body --------------------------------------------------------------------


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker looks at its bodies with every poll."""
    monkeypatch.setattr(sleepers, "LOOK_EVERY", 0.0)


def sleepers_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of sleeping bodies so far."""
    records = [record for record in caplog.records if record.name == "perdure.run"]
    return [record.getMessage() for record in records if "asyncio.sleep" in record.getMessage()]


POLLS = {"poll": "5ms"}


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("concurrency", [1, 10])
async def test_asyncio_sleep_in_a_body_is_warned_of_once(
    place: Place, caplog: pytest.LogCaptureFixture, concurrency: int
):
    """A body's own wait is told by file and line, once a definition, and goes on."""
    enough = asyncio.Event()

    def define(app: App) -> Any:
        async def helper() -> None:
            while not enough.is_set():  # noqa: ASYNC110 -- the mistake that this is about
                await asyncio.sleep(0.05)

        @app.workflow
        async def dozy() -> str:
            await helper()
            return "done"

        @app.workflow
        async def dozing_task() -> str:
            async with asyncio.TaskGroup() as group:
                group.create_task(helper())
            return "done"

        return dozy, dozing_task

    options: dict[str, Any] = {**POLLS, "concurrency": concurrency}
    with caplog.at_level(logging.WARNING, "perdure.run"):
        async with place.life(define, **options) as life:
            for flow in life.flow:
                enough.clear()
                runs = [await flow.enqueue() for _ in range(3)]
                name = f"definition={flow.name}"
                await eventually(lambda: name in " ".join(sleepers_in(caplog)))  # noqa: B023
                enough.set()
                assert [await run.result(timeout="5s") for run in runs] == ["done"] * 3
    first, second = sleepers_in(caplog)
    line = define.__code__.co_firstlineno + 3
    assert first == (
        "body waits in asyncio.sleep: it holds a slot meanwhile, and waits again with every "
        "replay; write `await perdure.sleep(…)`, which is recorded and holds nothing "
        f"definition=dozy seconds=0.05 place={__file__}:{line}"
    )
    assert "definition=dozing_task" in second


@pytest.mark.usefixtures("watchful")
async def test_other_sleeps_are_nobodys_business(place: Place, caplog: pytest.LogCaptureFixture):
    """In a step, in its tasks, in a task that is no body's, and for no time at all: no warning."""
    looks = 0
    look = sleepers.asleep

    def counting(activation: Any) -> Any:
        nonlocal looks
        looks += 1
        return look(activation)

    def define(app: App) -> Any:
        async def long_enough() -> None:
            seen = looks
            while looks < seen + 3:  # noqa: ASYNC110 -- a step may
                await asyncio.sleep(0.01)

        @app.step
        async def in_a_step() -> None:
            await long_enough()

        @app.step
        async def in_tasks_of_a_step() -> None:
            await asyncio.gather(long_enough(), long_enough())

        @app.workflow
        async def flow() -> None:
            await in_a_step()
            await in_tasks_of_a_step()
            await step("inline", long_enough)
            seen = looks
            while looks < seen + 3:  # noqa: ASYNC110 -- it takes no time
                await asyncio.sleep(0)

        return flow

    foreign = asyncio.create_task(asyncio.sleep(60))
    with (
        caplog.at_level(logging.WARNING, "perdure.run"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sleepers, "asleep", counting)
        async with place.life(define, **POLLS) as life:
            await (await life.flow.enqueue()).result(timeout="10s")
    foreign.cancel()
    assert sleepers_in(caplog) == []


# --- another event loop -------------------------------------------------------------------------


async def test_another_event_loop_is_told_instead_of_waiting_for_ever(place: Place):
    """What is awaited in another thread's loop is refused there, and nothing is stored."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> None: ...

        return flow

    async with place.client(define) as client:
        app, flow = client.app, client.flow
        run = await flow.enqueue()
        verbs: list[Callable[[], Any]] = [
            flow.enqueue,
            lambda: flow.delay("1h"),
            lambda: flow.enqueue_many([((), {})]),
            app.runs,
            app.connect,
            app.close,
            run.status,
            run.result,
            run.history,
            run.cancel,
            run.retry,
            lambda: Worker(app).start(),
        ]

        def elsewhere() -> list[str]:
            said: list[str] = []
            for verb in verbs:

                async def act(verb: Callable[[], Any] = verb) -> None:
                    await verb()

                with pytest.raises(UsageError, match="was connected is another one") as caught:
                    asyncio.run(act())
                said.append(str(caught.value))
            return said

        assert len(await asyncio.to_thread(elsewhere)) == len(verbs)
        assert [found.id for found in await app.runs()] == [run.id]
        assert await run.status() == "queued"


def test_an_app_left_open_by_a_loop_that_has_ended_says_so():
    """asyncio.run twice with one app works if the first closed it, and is told if it did not."""
    app = App("memory://")

    async def look() -> None:
        async with app:
            await app.runs()

    asyncio.run(look())
    asyncio.run(look())

    async def forget() -> None:
        await app.connect()
        app.engine.committer._task.cancel()  # what asyncio.run does with the tasks it finds

    asyncio.run(forget())
    with pytest.raises(UsageError, match="was connected has ended; close the app in the loop"):
        asyncio.run(look())


# --- things that are taken for functions --------------------------------------------------------


def test_what_is_a_step_or_a_definition_already_is_no_function():
    """Decorators that are stacked say what was meant instead of failing when executed."""
    app = App()

    @app.step
    async def charge() -> None: ...

    @app.workflow
    async def order() -> None: ...

    with pytest.raises(DefinitionError, match=r"got <step 'charge'>; call steps .* from its body"):
        app.workflow(charge)
    with pytest.raises(DefinitionError, match="got <workflow 'order'"):
        app.workflow(name="again")(order)
    with pytest.raises(DefinitionError, match="<step 'charge'> is a step already"):
        app.step(name="again")(charge)
    with pytest.raises(DefinitionError, match=r"start it with `await order\.enqueue"):
        app.step(order)


def test_names_are_taken_once_by_workflows_and_jobs_together():
    """A job and a workflow of one name are two definitions of one name: both places are told."""
    app = App()

    @app.workflow
    async def order() -> None: ...

    with pytest.raises(DuplicateName) as caught:

        @app.job(name="order")
        async def other() -> None: ...

    file = order.definition.place.rpartition(":")[0]
    assert str(caught.value).count(file) == 2
    assert [definition.name for definition in app.engine.registry] == ["order"]


async def test_mistyped_names_are_suggested(place: Place):
    """A name that is mistyped is suggested wherever one is taken, and nothing is stored."""

    def define(app: App) -> Any:
        @app.workflow
        async def checkout() -> None: ...

        return checkout

    async with place.client(define) as client:
        run = await client.flow.enqueue()
        for call in (
            lambda: client.app.runs(name="chekout"),
            lambda: client.app.runs(status="cancelled?"),
            lambda: client.app.runs(reason="crush"),
            lambda: Worker(client.app, only=["chekout"]).start(),
        ):
            with pytest.raises((LookupError, UsageError), match=r"did you mean '(che|can|cra)"):
                await call()
        assert [found.id for found in await client.app.runs()] == [run.id]
        assert [found.id for found in await client.app.runs(name="checkout")] == [run.id]


async def test_a_client_without_definitions_may_ask_for_any_name(place: Place):
    """An app that only looks defines nothing, and takes the names of others as they are."""

    def define(app: App) -> Any:
        @app.workflow
        async def checkout() -> None: ...

        return checkout

    async with place.client(define) as client, place.client(lambda _: None) as looking:
        await client.flow.enqueue()
        assert len(await looking.app.runs(name="checkout")) == 1
        assert await looking.app.runs(name="chekout") == []


def test_every_reason_that_is_written_can_be_asked_for():
    """App.runs(reason=…) knows each reason that the state machine and the executor write."""
    package = Path(perdure.__file__).parent
    lifecycle = (package / "model" / "lifecycle.py").read_text("utf-8")
    executor = (package / "_engine" / "executor.py").read_text("utf-8")
    written = {
        *re.findall(r'run\.reason = "(\w+)"', lifecycle),
        *re.findall(r'_failed\(\w+, "(\w+)"\)', executor),
        *re.findall(r'Failed\(encode_error\(\w+\), "(\w+)"\)', executor),
        *re.findall(r'^ +"(\w+)",\n +\)', executor, re.MULTILINE),
        *re.findall(r'_after_failure\(.*, "(\w+)"\)', executor),
    }
    assert written == set(REASONS)
