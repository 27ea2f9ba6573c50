"""Continuing as new: a body that never ends keeps nothing but its arguments."""

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    App,
    Worker,
    compensate,
    constant,
    event,
    sleep,
    step,
    stream,
    wait_for_event,
    workflow,
)
from perdure.errors import InvalidValue, NotInRun, RunFailed, UsageError
from perdure.testing import crash_everywhere
from tests.engine.places import Halt, Place, eventually, finished, half_way

lines = stream("lines", int)


def count(app: App) -> Any:
    """A workflow that counts to three, a generation a number."""

    @app.workflow
    async def counting(number: int = 0) -> str:
        lines.write(number)
        got: int = await step("next", _add, number)
        if got < 3:
            counting.continue_as_new(got)
        return f"counted to {got}"

    return counting


def _add(number: int) -> int:
    return number + 1


async def test_the_result_is_that_of_the_last_generation(place: Place):
    """Whoever awaits it waits on; the record is that of the last, the streams are those of all."""
    async with place.life(count) as life:
        run = await life.flow.enqueue()
        assert await run.result() == "counted to 3"
        history = await run.history()
        assert (history.generation, history.continued, history.attempt) == (2, 2, 1)
        assert history.input == {"number": 2}
        assert [one.path for one in history.steps] == ["next"]
        assert (history.earlier, history.attempts) == ((), ())
        items = [(item.generation, item.value) async for item in run.stream(lines)]
        assert items == [(0, 0), (1, 1), (2, 2)]
        told = [change.kind async for change in life.app.changes(run=run)]
        assert told.count("continued") == 2
        assert told[-1] == "completed"


async def test_each_boundary_may_be_crashed():
    """Whatever a generation had recorded, the next one begins once."""
    app = App()
    counting = count(app)
    report = await crash_everywhere(app, counting)
    assert [what for what in report.commits if "run is" in what] == [
        "the run is continued",
        "the run is continued",
        "the run is completed",
    ]
    assert report.visited == len(report.commits) == 9


async def test_a_parent_awaits_the_last_generation(place: Place):
    """Also where it leaves its worker meanwhile, and its child continues slowly."""

    def define(app: App) -> Any:
        @app.workflow
        async def child(number: int) -> int:
            await sleep("60ms")
            if number < 2:
                child.continue_as_new(number + 1)
            return number

        @app.workflow
        async def parent() -> int:
            return await (await child.enqueue(0)).result()

        return parent

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result() == 2


async def test_children_of_each_generation_are_others(place: Place):
    """The ones before go on."""

    def define(app: App) -> Any:
        @app.workflow
        async def child(number: int) -> int:
            return number

        @app.workflow
        async def parent(number: int = 0) -> list[int]:
            run = await child.enqueue(7)
            if number < 2:
                parent.continue_as_new(number + 1)
            return [await run.result()]

        return parent

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await run.result() == [7]
        await _settled(life.app, "child", 3)


async def _settled(app: App, name: str, runs: int) -> None:
    async def are_done() -> bool:
        return len(await app.runs(name=name, status="completed")) == runs

    await eventually(are_done)


async def test_clean_up_is_done_and_records_nothing(place: Place):
    """As at a suspension; what the clean-up awaits is not cancelled."""
    seen: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def order(number: int) -> int:
            try:
                await step("a", _add, number)
                if not number:
                    order.continue_as_new(1)
            except Exception:
                seen.append("caught")
                raise
            finally:
                await asyncio.sleep(0.001)
                seen.append(f"left {number}")
                lines.write(number)
            return number

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue(0)
        assert await run.result() == 1
        assert seen == ["left 0", "left 1"]
        assert [item.value async for item in run.stream(lines)] == [1]


async def test_branches_are_cancelled_wherever_it_is_called(place: Place):
    """In the body, in a task group, in one branch of a gather."""
    ends: list[str] = []

    async def forever(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(name)

    def define(app: App) -> Any:
        @app.workflow
        async def order(number: int = 0) -> int:
            async def go_on() -> None:
                await step("a", _add, number)
                order.continue_as_new(number + 1)

            match number:
                case 0:
                    task = asyncio.ensure_future(forever("task"))
                    await asyncio.sleep(0)
                    order.continue_as_new(1)
                    await task
                case 1:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(forever("group"))
                        group.create_task(go_on())
                case 2:
                    await asyncio.gather(forever("gather"), go_on())
                case _:
                    pass
            return number

        return order

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result() == 3
    assert ends == ["task", "group", "gather"]


async def test_a_body_in_a_thread(place: Place):
    """With ``def`` it is the same."""

    def define(app: App) -> Any:
        @app.workflow
        def order(number: int = 0) -> int:
            try:
                step.sync("a", _add, number)
                if number < 2:
                    order.continue_as_new(number + 1)
            except Exception as error:
                raise AssertionError from error
            return number

        return order

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result() == 2


async def test_attempts_begin_anew(place: Place):
    """Each generation has all of them."""
    tried: list[int] = []

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("1ms"))
        async def order(number: int = 0) -> int:
            tried.append(number)
            if tried.count(number) == 1:
                raise RuntimeError
            if number < 2:
                order.continue_as_new(number + 1)
            return number

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await run.result() == 2
    assert tried == [0, 0, 1, 1, 2, 2]


@event("Tick")
@dataclass
class Tick:
    """An event of the loop below."""

    number: int


async def test_events_go_to_one_generation_each(place: Place):
    """An entity that takes an event a generation hears each once, in order."""

    def define(app: App) -> Any:
        @app.workflow
        async def entity(heard: list[int]) -> list[int]:
            tick = await wait_for_event(Tick)
            if len(heard) < 4:
                entity.continue_as_new([*heard, tick.number])
            return [*heard, tick.number]

        return entity

    async with place.life(define) as life:
        run = await life.flow.enqueue([])
        for number in range(5):
            await run.send_event(Tick(number))
        assert await run.result() == [0, 1, 2, 3, 4]


async def test_the_event_that_started_it_is_looked_at_once(place: Place):
    """Its next input is no event."""

    def define(app: App) -> Any:
        @app.workflow(on=Tick, where=lambda tick: tick.number == 0)
        async def order(tick: Tick) -> int:
            if tick.number < 3:
                order.continue_as_new(Tick(tick.number + 1))
            return tick.number

        return order

    async with place.life(define) as life:
        published = await life.app.publish(Tick(0))
        [run] = await published.runs()
        assert await run.result() == 3


async def test_what_is_asked_of_the_run_goes_on_to_hold(place: Place):
    """unique_key, meta, tags, priority; a cancel ends it between generations."""

    def define(app: App) -> Any:
        @app.workflow
        async def order(number: int) -> int:
            await sleep("50ms")
            order.continue_as_new(number + 1)

        return order

    async with place.life(define) as life:
        called = life.flow.options(unique_key="k", tags=["t"], priority=3)
        run = await called.enqueue(0)
        await _continued(run, 2)
        history = await run.history()
        assert (history.unique_key, history.tags, history.priority) == ("k", ("t",), 3)
        assert await run.cancel(wait=True) == "cancelled"


async def _continued(run: Any, times: int) -> None:
    async def has() -> bool:
        return (await run.history()).continued >= times

    await eventually(has)


async def test_a_restart_begins_the_last_generation_again(place: Place):
    """With its input; what was before is forgotten."""
    async with place.life(count) as life:
        run = await life.flow.enqueue()
        await run.result()
        await run.restart()
        assert await run.result() == "counted to 3"
        history = await run.history()
        assert (history.generation, history.continued) == (3, 2)


async def test_a_kill_in_a_generation_continues_that_one(place: Place):
    """The input of the generation is what its replay has."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def order(number: int) -> int:
            await step("a", _add, number)
            if number < 2:
                order.continue_as_new(number + 1)
            await halt()
            return number

        return order

    run = await half_way(place, define, halt, 0)
    assert await finished(place, define, run) == 2


def define_wrongly(app: App) -> Any:
    """A workflow that calls it where it may not be called."""

    @app.workflow
    async def other(number: int) -> int:
        other.continue_as_new(number + 1)

    @app.step(max_attempts=1)
    async def in_step() -> None:
        order.continue_as_new("x")

    async def compensated() -> None:
        compensate(_add, 1)
        order.continue_as_new("x")

    async def failed() -> None:
        task = asyncio.ensure_future(_fail())
        await asyncio.sleep(0.001)
        order.continue_as_new("x")
        await task

    async def as_other() -> None:
        other.continue_as_new(1)

    async def wrong() -> None:
        with pytest.raises(InvalidValue):
            order.continue_as_new(1)  # type: ignore[arg-type]

    async def inline() -> None:
        await other.run(1)

    does = {
        "step": in_step,
        "inline": inline,
        "other": as_other,
        "compensated": compensated,
        "wrong": wrong,
        "failed": failed,
    }

    @app.workflow
    async def order(what: str) -> str:
        await does[what]()
        return "went on"

    return order


async def test_where_it_may_not_be_called(place: Place):
    """In a step, an inline body, a run of another definition, with compensations."""
    async with place.life(define_wrongly) as life:
        for what, says in (
            ("step", "in a step, or in a body that is run inline"),
            ("inline", "in a step, or in a body that is run inline"),
            ("other", "a run of 'order' cannot go on as 'other'"),
            ("compensated", "where 1 calls of compensate"),
            ("failed", "nobody looked"),
        ):
            run = await life.flow.enqueue(what)
            with pytest.raises(RunFailed, match=says):
                await run.result()
        assert await (await life.flow.enqueue("wrong")).result() == "went on"


async def _fail() -> None:
    raise ValueError("nobody looked")


async def test_outside_of_a_run():
    """Here and now the body is run again; outside of a body there is nothing to continue."""

    @workflow
    async def alone(number: int = 0) -> int:
        if number < 3:
            alone.continue_as_new(number + 1)
        return number

    @workflow
    def in_thread(number: int = 0) -> int:
        if number < 3:
            in_thread.continue_as_new(number + 1)
        return number

    @workflow
    async def compensated() -> None:
        compensate(_add, 1)
        compensated.continue_as_new()

    assert await alone.run() == 3
    assert await in_thread.run() == 3
    with pytest.raises(NotInRun):
        alone.continue_as_new(1)
    with pytest.raises(UsageError, match="1 calls of compensate"):
        await compensated.run()


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.tier(2))])
async def test_many_generations_leave_a_small_file(tmp_path: Path, count: int):
    """The store is as large after them as after the first hundred."""
    path = tmp_path / "loop.db"
    app = App(f"sqlite:///{path}?synchronous=normal")
    sizes: dict[int, int] = {}

    @app.workflow
    async def loop(number: int) -> int:
        await step("a", _add, number)
        lines.write(number)
        if number in {100, count}:
            sizes[number] = _pages(path)
        if number < count:
            loop.continue_as_new(number + 1)
        return number

    async with app, Worker(app):
        run = await loop.enqueue(0)
        assert await run.result(timeout="2m") == count
        assert (await run.history()).continued == count
    assert sizes[count] - sizes[100] < 10


def _pages(path: Path) -> int:
    """Return how many pages are used, but for what is written into streams and the feed."""
    connection = sqlite3.connect(path)
    (used,) = connection.execute(
        "SELECT sum(pageno IS NOT NULL) FROM dbstat WHERE name NOT IN ('feed', 'entry')"
    ).fetchone()
    connection.close()
    return int(used)
