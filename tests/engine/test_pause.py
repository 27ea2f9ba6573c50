"""Pausing and resuming: what executes is let finish, nothing begins, and nothing is repeated."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from perdure import App, Status, sleep, step
from perdure.errors import InvalidTransition, RunNotFound
from perdure.telemetry import RunPaused
from tests.engine.places import Place, eventually


class Line:
    """Steps that wait for a gate each, one after the other or side by side."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.gates = {name: asyncio.Event() for name in "abc"}

    def open(self, *names: str) -> None:
        """Let these steps end."""
        for name in names:
            self.gates[name].set()

    async def run(self, name: str) -> str:
        """Be one of the steps."""
        self.effects.append(f"{name} begins")
        await self.gates[name].wait()
        self.effects.append(f"{name} ends")
        return name

    def in_a_row(self, app: App) -> Any:
        """Declare a body that takes them one after the other."""

        @app.workflow
        async def row() -> str:
            return "".join([await step(name, self.run, name) for name in "abc"])

        return row

    def side_by_side(self, app: App) -> Any:
        """Declare a body that begins two at once, and a third when the first has ended."""

        @app.workflow
        async def fan() -> str:
            async def first() -> str:
                return await step("a", self.run, "a") + await step("c", self.run, "c")

            return "".join(await asyncio.gather(first(), step("b", self.run, "b")))

        return fan

    async def has_begun(self, *names: str) -> None:
        """Wait until these steps execute."""
        await eventually(lambda: {f"{name} begins" for name in names} <= set(self.effects))


@pytest.fixture
def line() -> Line:
    return Line()


async def test_the_step_that_executes_is_recorded_and_no_other_begins(place: Place, line: Line):
    """A resume goes on behind it and repeats nothing."""
    async with place.life(line.in_a_row) as life:
        run = await life.flow.enqueue()
        await line.has_begun("a")
        line.open("a", "b", "c")
        assert await run.pause(wait=True) == Status.PAUSED
        assert line.effects == ["a begins", "a ends"]
        history = await run.history()
        assert [(record.path, record.outcome) for record in history.steps] == [("a", "ok")]
        assert history.reason == "operator"
        assert await run.resume() == Status.QUEUED
        assert await run.result(timeout="5s") == "abc"
    assert line.effects == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


async def test_every_step_that_executes_is_let_finish(place: Place, line: Line):
    """The body leaves when the last of them is recorded; a branch that goes on before waits."""
    async with place.life(line.side_by_side) as life:
        run = await life.flow.enqueue()
        await line.has_begun("a", "b")
        assert await run.pause() == Status.RUNNING
        line.open("a", "c")
        await eventually(lambda: "a ends" in line.effects)
        line.open("b")
        await life.reaches(run, "paused")
        assert "c begins" not in line.effects
        steps = {record.path: record.outcome for record in (await run.history()).steps}
        assert steps == {"~0/a": "ok", "b": "ok"}
        await run.resume()
        assert await run.result(timeout="5s") == "acb"
    assert [effect for effect in line.effects if "begins" in effect] == [
        "a begins",
        "b begins",
        "c begins",
    ]


async def test_another_process_is_heard_with_the_heartbeat(place: Place, line: Line):
    """Whoever pauses need not be where the run is executed, nor need a step end there first."""

    def define(app: App) -> Any:
        @app.workflow
        async def waits() -> None:
            line.effects.append("waits")
            await asyncio.Event().wait()

        return waits

    async with (
        place.life(define, heartbeat="50ms", lease="5s") as life,
        place.client(define) as far,
    ):
        run = await life.flow.enqueue()
        await eventually(lambda: line.effects)
        assert await far.get(run).pause(wait=True) == Status.PAUSED
        assert await far.get(run).cancel() == Status.CANCELLED


async def test_a_sleep_is_longer_by_the_pause(place: Place):
    """Its deadline moves; the rest of it is slept after the resume."""

    def define(app: App) -> Any:
        @app.workflow
        async def sleeps() -> str:
            await sleep("300ms")
            return "awake"

        return sleeps

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        before = (await life.reaches(run, "waiting", "sleep")).due_at
        assert await run.pause() == Status.PAUSED
        paused = (await life.store.get(run.id)).paused_at
        await eventually(lambda: _passed(life, paused + 400_000))
        assert await run.status() is Status.PAUSED
        assert await run.resume() == Status.WAITING
        after = (await run.history()).due_at
        assert timedelta(milliseconds=400) <= after - before < timedelta(seconds=5)
        assert await run.result(timeout="5s") == "awake"


async def _passed(life: Any, micros: int) -> bool:
    return await life.store.now() > micros


async def test_a_run_that_ends_in_spite_of_a_pause_has_ended(place: Place, line: Line):
    """The last step was executing: the body has nothing durable left to do."""

    def define(app: App) -> Any:
        @app.workflow
        async def one() -> str:
            await line.gates["a"].wait()
            return "done"

        return one

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "running")
        line.open("a")
        assert await run.pause(wait=True) in {Status.PAUSED, Status.COMPLETED}
        if await run.status() is Status.PAUSED:
            await run.resume()
        assert await run.result(timeout="5s") == "done"


async def test_a_killed_worker_leaves_the_pause(place: Place, line: Line):
    """A pause that was accepted survives whoever was to follow it."""
    async with place.life(line.in_a_row) as life:
        run = await life.flow.enqueue()
        await line.has_begun("a")
        await run.pause()
        await life.kill()
    line.open("a", "b", "c")
    async with place.life(line.in_a_row) as life:
        await life.reaches(run, "paused")
        await life.get(run).resume()
        assert await life.get(run).result(timeout="5s") == "abc"


async def test_verbs_that_do_not_fit_say_so(place: Place, line: Line):
    """A run that is not paused is not resumed, and an ended one is not paused."""
    line.open("a", "b", "c")
    async with place.life(line.in_a_row) as life:
        run = await life.flow.enqueue()
        await run.result(timeout="5s")
        with pytest.raises(InvalidTransition, match=r"cannot pause run .*: it is completed"):
            await run.pause()
        with pytest.raises(InvalidTransition, match=r"cannot resume run .*: it is completed"):
            await run.resume()
        with pytest.raises(RunNotFound):
            await life.app.get("nobody").pause()


async def test_a_pause_is_told(place: Place, line: Line):
    """Listeners hear of a pause by hand, of a run that is held and of one that is not."""
    told: list[tuple[str, str]] = []

    def define(app: App) -> Any:
        app.on(RunPaused)(lambda hook: told.append((hook.run_id, hook.reason)))
        return line.in_a_row(app)

    async with place.life(define) as life:
        held = await life.flow.enqueue()
        await line.has_begun("a")
        line.open("a")
        await held.pause(wait=True)
        delayed = await life.flow.delay("1h")
        await delayed.pause()
        await eventually(lambda: len(told) == 2)
    assert told == [(held.id, "operator"), (delayed.id, "operator")]
