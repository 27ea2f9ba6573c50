"""Streams: what bodies and steps give out is heard once, in order, from wherever one was."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import pytest

from perdure import App, StreamItem, compensate, constant, sleep, step, stream, workflow
from perdure._engine import streams
from perdure.errors import (
    CursorExpired,
    InvalidValue,
    NotInRun,
    PayloadTooLarge,
    RunFailed,
    RunNotFound,
    UsageError,
)
from tests.engine.places import Halt, Place, eventually, finished, half_way

lines = stream("lines", str)


@dataclass
class Frame:
    """An item of a typed stream."""

    number: int
    text: str


frames = stream("frames", Frame)


async def heard(found: AsyncIterator[StreamItem[Any]]) -> list[Any]:
    """Return the values of a stream up to its end."""
    return [item.value async for item in found]


async def now(run: Any, name: Any = lines) -> list[Any]:
    """Return the values that are there."""
    return await heard(run.stream(name, follow=False))


async def test_a_reader_gets_what_the_body_and_its_steps_write_while_they_do(place: Place):
    """In the order of writing, before the run has ended, and then comes to the end."""
    go_on = asyncio.Event()

    def define(app: App) -> Any:
        @app.step
        async def pack() -> None:
            lines.write("in the step")

        @app.workflow
        async def order() -> str:
            lines.write("first")
            await pack()
            lines.write("second")
            await go_on.wait()
            lines.write("last")
            return "done"

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        got: list[StreamItem[str]] = []
        async for item in run.stream(lines):
            got.append(item)
            if item.value == "second":
                go_on.set()
        assert [item.value for item in got] == ["first", "in the step", "second", "last"]
        assert [item.at for item in got] == sorted(item.at for item in got)
        assert {item.generation for item in got} == {0}
        assert await run.result() == "done"
        [summary] = (await run.history()).streams
        assert (summary.name, summary.items) == ("lines", 4)


async def test_a_reader_in_another_process_is_woken(place: Place):
    """A client without a worker follows what a worker elsewhere writes."""
    go_on = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            frames.write(Frame(1, "a"))
            await go_on.wait()
            frames.write(Frame(2, "b"))
            frames.close()
            await asyncio.Event().wait()

        return order

    async with place.life(define) as life, place.client(define) as client:
        run = await life.flow.enqueue()
        got: list[Frame] = []
        async for item in client.get(run).stream(frames):
            got.append(item.value)
            go_on.set()
        assert got == [Frame(1, "a"), Frame(2, "b")]  # and it ended, because it was closed
        assert [item.value async for item in client.get(run).stream("frames")] == [
            {"number": 1, "text": "a"},
            {"number": 2, "text": "b"},
        ]
        await life.kill()


async def test_a_replay_writes_nothing_again(place: Place):
    """After a kill, in the body and in its branches; what is new is written."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            lines.write("1")

            async def branch(name: str) -> None:
                lines.write(f"{name} begins")
                await step(name, _nothing)
                lines.write(f"{name} ends")

            await asyncio.gather(branch("a"), branch("b"))
            await halt()
            lines.write("2")

        return order

    run = await half_way(place, define, halt)
    await finished(place, define, run)
    async with place.client(define) as client:
        values = await now(client.get(run))
    assert values[0] == "1"
    assert values[-1] == "2"
    assert sorted(values[1:-1]) == ["a begins", "a ends", "b begins", "b ends"]


async def _nothing() -> None:
    """Do nothing."""


async def test_a_step_that_is_tried_again_is_heard_from_where_it_had_come(place: Place):
    """What stands under the same identity stands, whatever the second attempt writes there."""
    attempts: list[int] = []

    def define(app: App) -> Any:
        @app.step(max_attempts=2, backoff=constant("1ms"))
        async def build() -> None:
            attempts.append(1)
            for number in range(3 if len(attempts) == 1 else 5):
                lines.write(f"attempt {len(attempts)}: {number}")
            if len(attempts) == 1:
                raise RuntimeError

        @app.workflow
        async def order() -> None:
            await build()
            await build()  # another call is another scope

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result()
        assert await now(run) == [
            *(f"attempt 1: {number}" for number in range(3)),
            *(f"attempt 2: {number}" for number in (3, 4)),
            *(f"attempt 3: {number}" for number in range(5)),
        ]


async def test_a_step_whose_worker_was_killed_is_heard_once(place: Place):
    """The claim of the next worker says how far the step had written."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.step
        async def build() -> None:
            for number in range(250):
                lines.write(str(number))
                if number == 120:
                    await step("mark", _nothing)  # so that what is written so far is committed
                    await halt()

        @app.workflow
        async def order() -> None:
            await build()

        return order

    run = await half_way(place, define, halt)
    await finished(place, define, run)
    async with place.client(define) as client:
        assert await now(client.get(run)) == [str(number) for number in range(250)]


async def test_another_attempt_of_the_run_writes_nothing_again(place: Place):
    """Nor does what is repeated of it."""
    tries: list[int] = []

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("1ms"))
        async def order() -> None:
            lines.write("begin")
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError
            lines.write("end")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result()
        assert await now(run) == ["begin", "end"]


async def test_a_suspended_body_writes_nothing_as_it_leaves_and_goes_on_later(place: Place):
    """What its clean-up writes on the way out is not recorded."""

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            lines.write("before")
            try:
                await sleep("300ms")
            finally:
                lines.write("after")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "sleep")
        assert await now(run) == ["before"]
        await run.result()
        assert await now(run) == ["before", "after"]


async def test_a_cursor_goes_on_where_the_reader_was(place: Place):
    """Also over a restart of the run, and with a page of items between."""

    def define(app: App) -> Any:
        @app.workflow
        async def order(count: int) -> None:
            for number in range(count):
                lines.write(str(number))

        return order

    count = 2 * streams.PAGE + 1
    async with place.life(define) as life:
        run = await life.flow.enqueue(count)
        await run.result()
        items = [item async for item in run.stream(lines)]
        assert [item.value for item in items] == [str(number) for number in range(count)]
        assert await heard(run.stream(lines, after=items[100])) == [
            str(number) for number in range(101, count)
        ]
        last = items[-1].cursor
        assert await heard(run.stream(lines, after=last)) == []
        await run.restart()
        again = [item async for item in run.stream(lines, after=last)]
        assert [(item.generation, item.value) for item in again] == [
            (1, str(number)) for number in range(count)
        ]
        other = await life.flow.enqueue(1)
        await other.result()
        with pytest.raises(CursorExpired):
            await heard(other.stream(lines, after=last))


async def test_a_restart_from_a_step_writes_what_came_after_it(place: Place):
    """And not what came before, which its body comes by again."""

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            lines.write("1")
            await step("a", _nothing)
            lines.write("2")
            await step("b", _nothing)
            lines.write("3")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result()
        await run.restart(from_step="b")
        await run.result()
        found = [(item.generation, item.value) async for item in run.stream(lines)]
        assert found == [(0, "1"), (0, "2"), (0, "3"), (1, "3")]
        fork = await run.fork(from_step="a")
        await fork.result()
        assert await now(fork) == ["1", "2", "3"]


async def test_a_closed_stream_takes_no_more(place: Place):
    """Closing it again is nothing; the error fails the run like any other of its code."""

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            lines.write("1")
            lines.close()
            lines.close()
            await step("a", _nothing)
            lines.write("2")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await heard(run.stream(lines)) == ["1"]
        with pytest.raises(RunFailed, match="is closed; write before close"):
            await run.result()
        assert await now(run) == ["1"]


async def test_a_close_is_known_to_the_next_worker(place: Place):
    """Though the step that closed it is not executed again."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.step
        async def end() -> None:
            lines.close()

        @app.workflow
        async def order() -> None:
            await end()
            await halt()
            lines.write("2")

        return order

    run = await half_way(place, define, halt)
    with pytest.raises(RunFailed, match="is closed"):
        await finished(place, define, run)


async def test_bodies_and_steps_in_threads_write_in_order(place: Place):
    """With ``def`` the write is handed to the loop, before what the thread does next."""

    def define(app: App) -> Any:
        @app.step
        def build() -> None:
            for number in range(50):
                lines.write(str(number))

        @app.workflow
        def order() -> None:
            lines.write("begin")
            build()
            lines.write("end")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result()
        assert await now(run) == ["begin", *(str(number) for number in range(50)), "end"]


async def test_a_thread_that_writes_beside_the_loop_loses_nothing(place: Place):
    """What the one wrote first is first, though the loop comes to it only later."""

    def define(app: App) -> Any:
        @app.step
        async def build() -> None:
            here = copy_context()
            thread = threading.Thread(target=here.run, args=(lines.write, "in a thread"))
            thread.start()
            thread.join()  # the loop does nothing meanwhile
            lines.write("on the loop")

        @app.workflow
        async def order() -> None:
            await build()

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result()
        assert await now(run) == ["in a thread", "on the loop"]


async def test_threads_that_write_at_once_lose_nothing(place: Place):
    """Each item has a number of its own, and is recorded in the order of these."""
    often = sys.getswitchinterval()

    def define(app: App) -> Any:
        @app.step
        def build() -> None:
            def work(name: int) -> None:
                for number in range(500):
                    lines.write(f"{name}-{number}")

            sys.setswitchinterval(1e-6)
            threads = [
                threading.Thread(target=copy_context().run, args=(work, name)) for name in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(often)

        @app.workflow
        def order() -> None:
            build()

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result()
        got = await now(run)
        for name in range(4):
            of_one = [item for item in got if item.startswith(f"{name}-")]
            assert of_one == [f"{name}-{number}" for number in range(500)]


async def test_compensations_write_and_the_body_that_is_gone_does_not(place: Place):
    """Undoing replays the body, which comes by what it wrote, and ends it with its clean-up."""

    def define(app: App) -> Any:
        async def undo() -> None:
            lines.write("undone")

        @app.workflow
        async def order() -> None:
            try:
                lines.write("done")
                await step("a", _nothing)
                compensate(undo)
                await sleep("1h")
            finally:
                lines.write("left")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "sleep")
        await run.cancel(compensate=True, wait=True)
        assert await now(run) == ["done", "undone"]


async def test_what_does_not_fit_is_refused_where_it_is_written(place: Place):
    """And nothing of it is stored."""

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> list[str]:
            refused: list[str] = []
            for write in (
                lambda: frames.write("no frame"),  # type: ignore[arg-type]
                lambda: lines.write("x" * 2_000_000),
                lambda: stream("any").write(object()),
            ):
                try:
                    write()
                except (InvalidValue, PayloadTooLarge) as error:
                    refused.append(type(error).__name__)
            return refused

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await run.result() == ["InvalidValue", "PayloadTooLarge", "InvalidValue"]
        assert (await run.history()).streams == ()


async def test_outside_of_a_run_a_step_that_writes_is_an_ordinary_function(place: Place):
    """The value is checked; a workflow run here and now gives nothing out either."""

    @workflow
    async def alone() -> str:
        lines.write("x")
        lines.close()
        return "done"

    lines.write("x")
    with pytest.raises(InvalidValue):
        frames.write("x")  # type: ignore[arg-type]
    assert await alone.run() == "done"


async def test_readers_that_ask_for_what_is_not_there(place: Place):
    """A run that is not there, a stream that was never written, a cursor that is none."""

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            await step("a", _nothing)

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await heard(run.stream("nothing")) == []
        with pytest.raises(RunNotFound):
            await heard(life.app.get("nobody").stream(lines))
        with pytest.raises(InvalidValue):
            run.stream(lines, after="x")
        with pytest.raises(UsageError):
            run.stream(7)


async def test_a_body_reads_streams_in_steps_only(place: Place):
    """A replay of the body would read something else."""

    def define(app: App) -> Any:
        @app.workflow
        async def order(other: str) -> list[str]:
            run = app.get(other)
            with pytest.raises(UsageError, match="look in a step"):
                run.stream(lines)

            async def look() -> list[str]:
                return [item.value async for item in run.stream(lines, follow=False)]

            lines.write("mine")
            return await step("look", look) if other != "nobody" else []

        return order

    async with place.life(define) as life:
        first = await life.flow.enqueue("nobody")
        await first.result()
        second = await life.flow.enqueue(first.id)
        assert await second.result() == ["mine"]


async def test_a_thread_of_the_bodys_own_is_told_where_it_is(place: Place):
    """It would be lost there, silently."""
    raised: list[BaseException] = []

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            def work() -> None:
                try:
                    lines.write("x")
                except NotInRun as error:
                    raised.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            await asyncio.to_thread(thread.join)

        return order

    async with place.life(define) as life:
        await (await life.flow.enqueue()).result()
    assert len(raised) == 1


async def test_readers_share_wake_ups_and_leave_nothing(place: Place):
    """Two follow at once; when both have left nobody listens."""
    go_on = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            lines.write("1")
            await go_on.wait()
            lines.write("2")

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        readers = [asyncio.ensure_future(heard(run.stream(lines))) for _ in range(2)]
        await eventually(lambda: life.app.engine.news._followers == 2)
        go_on.set()
        assert await asyncio.gather(*readers) == [["1", "2"]] * 2
        assert life.app.engine.news._followers == 0
