"""Steps that begin at most once, and what a step may know of its call."""

import asyncio
from typing import Any

import pytest

from perdure import App, CurrentStep, constant, current_step, step
from perdure.errors import DefinitionError, NotInRun, RunFailed, StepInterrupted
from perdure.telemetry import StepFailed, StepStarted
from tests.engine.places import Halt, Place, eventually, half_way, saves

CAREFUL = step.options(at_most_once=True)


class Body:
    """A step's body that counts its starts, then waits or does as it is told.

    Attributes:
        starts: how often it was called.
    """

    def __init__(self, *, error: Exception | None = None, hangs: bool = False) -> None:
        self.starts = 0
        self.began = asyncio.Event()
        self._error = error
        self._hangs = hangs

    async def __call__(self) -> str:
        """Count, then end as told."""
        self.starts += 1
        self.began.set()
        if self._hangs:
            await asyncio.get_running_loop().create_future()
        if self._error is not None:
            raise self._error
        return "done"


def one_step(body: Body, **options: Any) -> Any:
    """Return what declares a flow that meets what became of the step."""

    def define(app: App) -> Any:
        @app.workflow(**options)
        async def flow() -> str:
            return await CAREFUL("once", body)

        return flow

    return define


async def test_it_is_an_ordinary_step_while_nothing_breaks(place: Place):
    """One start, one result, one record; the start took a save of its own."""
    body = Body()
    async with place.life(one_step(body)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "done"
        [record] = (await run.history()).steps
    assert (body.starts, record.outcome, record.tries, record.failed) == (1, "ok", 1, ())


async def test_a_kill_in_the_middle_does_not_begin_it_again(place: Place):
    """The body meets StepInterrupted, which is recorded: a third life meets the same."""
    body, halt = Body(hangs=True), Halt()
    met: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            try:
                return await CAREFUL("once", body)
            except StepInterrupted as error:
                met.append(str(error))
            await halt()
            return "went on"

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await body.began.wait()
        assert [each.path for each in (await run.history()).current] == ["once"]
        await life.kill()
    async with place.life(define) as life:
        await halt.reached.wait()
        await life.kill()
    halt.is_open = True
    async with place.life(define) as life:
        assert await life.get(run).result(timeout="5s") == "went on"
        first = (await life.get(run).history()).steps[0]
    assert body.starts == 1
    assert met == [met[0]] * 2
    assert "was started" in met[0]
    assert (first.outcome, first.error) == ("error", f"perdure.errors.StepInterrupted: {met[0]}")


@pytest.mark.parametrize("applied", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("which", [1, 2], ids=["start", "outcome"])
async def test_a_crash_at_each_commit_starts_it_at_most_once(
    place: Place, which: int, applied: bool
):
    """Before the start is recorded it was not started; once its outcome is, that stands."""
    body = Body()
    seen = 0

    def doom(batch: Any) -> bool:
        nonlocal seen
        seen += saves("once")(batch)
        return seen == which

    async with place.life(one_step(body)) as life:
        life.store.doom = doom
        life.store.doomed_batch_is_applied = applied
        run = await life.flow.enqueue()
        await life.store.died.wait()
        await life.kill()
    assert body.starts == which - 1
    known = (which, applied) in {(1, False), (2, True)}
    async with place.life(one_step(body)) as life:
        if known:
            assert await life.get(run).result(timeout="5s") == "done"
        else:
            with pytest.raises(RunFailed, match="StepInterrupted"):
                await life.get(run).result(timeout="5s")
    assert body.starts == (0 if (which, applied) == (1, True) else 1)


async def test_an_error_stands_when_the_run_is_tried_again(place: Place):
    """Neither an attempt of the run nor an operator's retry starts it again."""
    body = Body(error=ValueError("refused"))
    define = one_step(body, max_attempts=3, backoff=constant("10ms"))
    async with place.life(define) as life:
        run = await life.flow.enqueue()
        for _ in range(2):
            with pytest.raises(RunFailed, match="ValueError: refused"):
                await run.result(timeout="5s")
            await run.retry()
        with pytest.raises(RunFailed, match="ValueError: refused"):
            await run.result(timeout="5s")
        history = await run.history()
    assert body.starts == 1
    assert [entry.number for entry in history.steps[0].failed] == [1]


async def test_one_that_was_given_up_is_not_begun_again(place: Place):
    """The next attempt of the run meets StepInterrupted where the first had cancelled it."""
    body = Body(hangs=True)

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("10ms"))
        async def flow() -> str:
            hanging = asyncio.ensure_future(CAREFUL("once", body))
            if not body.starts:
                await body.began.wait()
                hanging.cancel()
                await asyncio.wait([hanging])
                raise ValueError("once more")
            try:
                return await hanging
            except StepInterrupted:
                return "interrupted"

        return flow

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == "interrupted"
    assert body.starts == 1


async def test_inside_a_step_it_begins_once_for_all_its_attempts(place: Place):
    """The next attempt of the step around meets the error of the first."""
    body, outer = Body(error=ValueError("refused")), 0

    async def around() -> str:
        nonlocal outer
        outer += 1
        return await CAREFUL("once", body)

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            return await step.options(max_attempts=2, backoff=constant("10ms"))("around", around)

        return flow

    async with place.life(define) as life:
        with pytest.raises(RunFailed, match="refused"):
            await (await life.flow.enqueue()).result(timeout="5s")
    assert (outer, body.starts) == (2, 1)


async def test_a_start_is_told_once_and_is_no_failure(place: Place):
    """What is recorded before the body begins is no attempt that failed."""
    body, told = Body(), []

    def define(app: App) -> Any:
        app.on(StepStarted)(lambda each: told.append(type(each)))
        app.on(StepFailed)(lambda each: told.append(type(each)))
        return one_step(body)(app)

    async with place.life(define) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
        await eventually(lambda: told)
    assert told == [StepStarted]


def test_it_leaves_nothing_to_try_again():
    """Options about attempts contradict it."""
    app = App()
    for options in ({"max_attempts": 2}, {"backoff": constant("1s")}, {"retry_on": OSError}):
        with pytest.raises(DefinitionError, match="nothing to try again"):
            app.step(at_most_once=True, name="careful", **options)(Body().__call__)
    with pytest.raises(DefinitionError, match="at_most_once of step 'careful' is true or false"):
        app.step(at_most_once=1, name="careful")(Body().__call__)  # type: ignore[arg-type]
    assert app.step(at_most_once=True, max_attempts=1, name="careful")(Body().__call__)


# --- what a step knows ---------------------------------------------------------------------------


async def test_the_key_is_the_same_at_every_attempt_and_of_no_other_call(place: Place):
    """Attempts, lives and the step's own tasks share it; equal calls have one each."""
    seen: dict[str, list[CurrentStep]] = {}
    halt = Halt()

    async def ask(name: str) -> None:
        found = await asyncio.ensure_future(asyncio.to_thread(current_step))
        assert found == current_step()
        seen.setdefault(name, []).append(found)
        if len(seen[name]) == 1:
            raise ValueError("once more")

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> None:
            quick = step.options(backoff=constant("0s"))
            await gather_all(quick("ask", ask, "a"), quick("ask", ask, "b"), quick("ask", ask, "b"))
            await halt()
            await quick("ask", ask, "c")

        return flow

    run = await half_way(place, define, halt)
    async with place.life(define) as life:
        await life.get(run).result(timeout="5s")
    keys = {each.idempotency_key for found in seen.values() for each in found}
    assert len(keys) == 4
    assert all(len(key) == 32 for key in keys)
    assert [(each.path, each.attempt) for each in seen["c"]] == [("ask", 1), ("ask", 2)]
    assert len({each.idempotency_key for each in seen["c"]}) == 1
    assert {each.run_id for found in seen.values() for each in found} == {run.id}


async def gather_all(*steps: Any) -> None:
    """Await steps side by side."""
    await asyncio.gather(*steps)


async def test_the_innermost_step_is_the_current_one(place: Place):
    """A nested step has its own; an inlined body is its step's, and a body has none."""
    paths: list[str] = []

    async def inner() -> None:
        paths.append(current_step().path)

    async def outer() -> None:
        await step("inner", inner)
        paths.append(current_step().path)

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            await step("outer", outer)
            try:
                current_step()
            except NotInRun as error:
                return str(error)
            return ""

        return flow

    async with place.life(define) as life:
        said = await (await life.flow.enqueue()).result(timeout="5s")
    assert paths == ["outer/inner", "outer"]
    assert "code of a step" in said


def test_outside_of_a_run_a_step_stays_an_ordinary_function():
    """It finds no run, and a key of its own each time."""
    first, second = current_step(), current_step()
    assert (first.run_id, first.attempt) == (None, 1)
    assert first.idempotency_key != second.idempotency_key
