"""Progress: what a run says of how far it is, written now and then, and the last word always."""

import asyncio
from typing import Any

import pytest

from perdure import App, Worker, progress, sleep, step, workflow
from perdure._engine import progress as machinery
from perdure.errors import InvalidValue, PayloadTooLarge, RunNotFound, UsageError
from perdure.model.progress import SetProgress
from tests.engine.places import Halt, Place, eventually, finished, half_way


async def _nothing() -> None:
    """Do nothing."""


async def test_what_is_said_can_be_read_meanwhile_and_afterwards(place: Place):
    """By a body and by its steps, from another process; the last word stands at the end."""
    go_on = asyncio.Event()

    def define(app: App) -> Any:
        @app.step
        async def pack() -> None:
            progress({"done": 4, "of": 10})
            await go_on.wait()

        @app.workflow
        async def order() -> str:
            await pack()
            for number in range(100):
                progress(number / 100)
            return "done"

        return order

    async with place.life(define) as life, place.client(define) as client:
        run = await life.flow.enqueue()
        seen = client.get(run)

        async def is_said() -> bool:
            return await seen.progress() == {"done": 4, "of": 10}

        await eventually(is_said)
        go_on.set()
        await run.result()
        assert await seen.progress() == 0.99
        assert (await run.history()).progress == 0.99
        told = [change.kind async for change in life.app.changes(run=run)]
        assert 2 <= told.count("progress") <= 3
        assert told.index("completed") > max(
            number for number, kind in enumerate(told) if kind == "progress"
        )


async def test_a_busy_body_writes_a_few_times(place: Place, monkeypatch: pytest.MonkeyPatch):
    """However often it says something; what is said within a pause is written at its end."""
    monkeypatch.setattr(machinery, "PAUSE", 0.05)

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> float:
            begun = asyncio.get_running_loop().time()
            number = 0
            while asyncio.get_running_loop().time() < begun + 0.3:
                number += 1
                progress(number)
                await asyncio.sleep(0)
            return asyncio.get_running_loop().time() - begun

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        took = await run.result()
        told = [change async for change in life.app.changes(run=run, kind="progress")]
        assert 3 <= len(told) <= took / 0.05 + 2


async def test_the_last_word_is_written_before_the_body_leaves(place: Place):
    """Also where it is suspended, and where it is killed in the sleep."""

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            progress("first")
            progress("asleep")
            await sleep("1h")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "sleep")
        assert await run.progress() == "asleep"


async def test_a_replay_says_nothing_that_was_said(place: Place):
    """What a body says before it has come to the end of the record goes nowhere."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            progress(1)
            await step("a", _nothing)
            progress(2)
            await step("b", _nothing)
            progress(3)
            await halt()

        return order

    run = await half_way(place, define, halt)
    said: list[bytes] = []
    async with place.life(define) as life:
        apply = life.store.apply

        async def listening(batch: Any) -> Any:
            said.extend(one.value for one in batch if isinstance(one, SetProgress))
            return await apply(batch)

        life.store.apply = listening  # type: ignore[method-assign]
        await life.get(run).result()
        assert await life.get(run).progress() == 3
    assert b"1" not in said


async def test_in_threads(place: Place):
    """With ``def``, too."""

    def define(app: App) -> Any:
        @app.workflow
        def order() -> None:
            progress("in the body")
            step.sync("a", lambda: progress("in the step"))

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result()
        assert await run.progress() == "in the step"


async def test_a_kill_loses_no_more_than_the_last_word(place: Place):
    """The next worker goes on from the record, and says on."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> str:
            progress("begun")
            await step("a", _nothing)
            await halt()
            progress("ended")
            return "done"

        return order

    run = await half_way(place, define, halt)
    async with place.client(define) as client:
        assert await client.get(run).progress() == "begun"
    assert await finished(place, define, run) == "done"
    async with place.client(define) as client:
        assert await client.get(run).progress() == "ended"


async def test_what_is_refused(place: Place):
    """A value that cannot be encoded, one that is too long, a look in a body."""

    def define(app: App) -> Any:
        @app.workflow
        async def order(other: str) -> list[str]:
            refused: list[str] = []
            for value in (object(), "x" * 2_000):
                try:
                    progress(value)
                except (InvalidValue, PayloadTooLarge) as error:
                    refused.append(type(error).__name__)
            with pytest.raises(UsageError, match="look in a step"):
                await app.get(other).progress()
            return refused

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue("other")
        assert await run.result() == ["InvalidValue", "PayloadTooLarge"]
        assert await run.progress() is None
        with pytest.raises(RunNotFound):
            await life.app.get("nobody").progress()


async def test_outside_of_a_run_it_is_dropped():
    """And checked."""

    @workflow
    async def alone() -> str:
        progress(0.5)
        return "done"

    progress(0.5)
    with pytest.raises(InvalidValue):
        progress(object())
    assert await alone.run() == "done"


async def test_a_worker_that_stops_writes_the_last_word():
    """Before the run is handed back."""
    app = App("memory://")

    @app.workflow
    async def order() -> None:
        progress(1)
        progress(2)
        await asyncio.Event().wait()

    async with app:
        worker = Worker(app, grace="10ms")
        await worker.start()
        run = await order.enqueue()

        async def is_said() -> bool:
            return await run.progress() is not None

        await eventually(is_said)
        await worker.stop()
        assert await run.progress() == 2
