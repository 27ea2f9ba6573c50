"""What a body sees is equal on the first pass and on every replay; where steps may be called."""

import asyncio
import threading
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from random import Random
from typing import Any, NamedTuple

import pytest

from perdure import App, carry, now, random, step, uuid
from perdure.errors import InvalidValue, NotInRun, RunFailed
from tests.engine.places import Halt, Place, eventually, finished, half_way, killed_and_finished

ONCE = step.options(max_attempts=1)


class Colour(Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Parcel:
    box: str
    items: tuple[int, ...]
    packed_at: datetime
    labels: set[str] = field(default_factory=set)
    note: str | None = None


VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (0, int),
    (False, bool),
    ("", str),
    ([], list[int]),
    ({}, dict[str, int]),
    (0.0, float),
    (b"", bytes),
    (2**70, int),
    (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), datetime),
    (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), datetime),
    (date(2026, 1, 2), date),
    (timedelta(microseconds=1), timedelta),
    (Decimal("0.10"), Decimal),
    (uuids.UUID(int=7), uuids.UUID),
    (b"\x00\xff", bytes),
    (Colour.RED, Colour),
    ((1, "a", None), tuple[int, str, None]),
    ((1, (2, 3)), Any),
    ({3, 1, 2}, set[int]),
    (frozenset({"a"}), Any),
    ({"when": datetime(2026, 1, 1, tzinfo=UTC), "pair": (1, 2)}, Any),
    (Parcel("L", (1, 2), datetime(2026, 1, 1, tzinfo=UTC), {"fragile"}), Parcel),
    ([Parcel("S", (), datetime(2026, 1, 1, tzinfo=UTC))], list[Parcel]),
    (Point(1, 2), Point),
    ("\u0000\ud7ff\U0001f600", str),
]


def shape(value: Any) -> Any:
    """Return a value with the types of all that is in it."""
    match value:
        case dict():
            return type(value), {key: shape(item) for key, item in value.items()}
        case list() | tuple():
            return type(value), [shape(item) for item in value]
        case Parcel():
            return Parcel, [shape(item) for item in vars(value).values()]
        case datetime():
            return datetime, value, value.utcoffset()
        case _:
            return type(value), value


def flow_of(body: Callable[[], Any], **options: Any) -> Any:
    """Return what declares a workflow with this body."""

    def define(app: App) -> Any:
        return app.workflow(**options)(body)

    return define


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value, annotation", VALUES, ids=lambda given: repr(given)[:40])
async def test_a_value_is_equal_on_replay(place: Place, value: Any, annotation: Any):
    """A step's result has the same value and types on both passes, and its body ran once."""
    halt = Halt()
    calls: list[int] = []
    seen: list[Any] = []

    async def produce() -> Any:
        calls.append(1)
        return value

    produce.__annotations__["return"] = annotation

    async def flow() -> None:
        seen.append(shape(await step("produce", produce)))
        await halt()

    await killed_and_finished(place, flow_of(flow), halt)
    assert seen == [shape(value)] * 2
    assert calls == [1]


async def test_the_first_pass_sees_what_a_replay_would(place: Place):
    """What a step keeps of its result is not the body's: a later change of it is not seen."""
    halt = Halt()
    kept: list[list[int]] = []
    seen: list[list[int]] = []

    async def produce() -> list[int]:
        kept.append([1, 2])
        return kept[-1]

    async def flow() -> None:
        result = await step("produce", produce)
        kept[0].append(3)
        seen.append(result)
        await halt()

    await killed_and_finished(place, flow_of(flow), halt)
    assert seen == [[1, 2], [1, 2]]


async def test_a_value_that_cannot_be_stored_is_refused_at_once(place: Place):
    """A result that the codec cannot represent fails on the first pass, naming its place."""

    async def produce() -> Any:
        return {"rows": [1, threading.Lock()]}

    async def flow() -> str:
        try:
            await step("produce", produce)
        except InvalidValue as error:
            return error.path
        return "accepted"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert "rows" in await run.result(timeout="5s")


async def test_now_uuid_and_random_are_equal_on_replay(place: Place):
    """now(), uuid() and random() give the same values again, in the body and in its branches."""
    halt = Halt()
    seen: list[list[Any]] = []

    async def nothing() -> None: ...

    def drawn() -> list[Any]:
        return [now(), uuid(), uuid(), random().random(), random().random(), now()]

    async def branch(number: int) -> list[Any]:
        first = drawn()
        await step("nothing", nothing)
        return [number, *first, *drawn()]

    async def flow() -> None:
        before = drawn()
        await step("nothing", nothing)
        between = drawn()
        branches = await asyncio.gather(*(branch(n) for n in range(3)))
        seen.append([before, between, branches, drawn()])
        await halt()

    await killed_and_finished(place, flow_of(flow), halt)
    assert seen[0] == seen[1]
    before, between, branches, after = seen[0]
    assert before[0] < between[0] <= after[0]
    draws = [value for part in (before, between, after, *branches) for value in part]
    unique = [value for value in draws if isinstance(value, uuids.UUID | float)]
    assert len(unique) == len(set(unique)) == 9 * 4


async def test_now_is_equal_on_replay_behind_every_kind_of_call(place: Place):
    """now() after a child's start, its result, an inline run, a failure, is the same again."""
    halt = Halt()
    seen: list[list[datetime]] = []

    async def fails() -> None:
        raise ValueError

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> int:
            return 1

        @app.workflow
        async def inline() -> int:
            return 2

        @app.workflow
        async def flow() -> None:
            times = [now()]
            kid = await child.enqueue()
            times.append(now())
            await kid.result()
            times.append(now())
            await inline.run()
            times.append(now())
            with pytest.raises(ValueError):  # noqa: PT011 -- it has no message
                await ONCE("fails", fails)
            times.append(now())
            seen.append(times)
            await halt()

        return flow

    await killed_and_finished(place, define, halt)
    assert seen[0] == seen[-1]
    assert sorted(set(seen[0])) == seen[0]


async def test_now_is_equal_on_replay_beside_other_branches(place: Place):
    """now() in a body does not depend on how far a step that it has not awaited yet has come."""
    halt = Halt()
    gate = asyncio.Event()
    seen: list[datetime] = []

    async def long() -> None:
        await gate.wait()

    async def short() -> None: ...

    async def flow() -> None:
        beside = asyncio.create_task(step("long", long))
        await step("short", short)
        await asyncio.sleep(0)
        seen.append(now())
        gate.set()
        await beside
        await halt()

    await killed_and_finished(place, flow_of(flow), halt)
    assert seen[0] == seen[1]


async def test_random_values_differ_between_runs(place: Place):
    """Two runs of one body draw different values."""

    async def flow() -> list[str]:
        return [str(uuid()), str(random().random())]

    async with place.life(flow_of(flow)) as life:
        runs = [await life.flow.enqueue() for _ in range(2)]
        first, second = [await run.result(timeout="5s") for run in runs]
    assert not set(first) & set(second)


def test_values_of_a_run_are_refused_outside_of_one():
    """now(), uuid() and random() outside of a run are errors that say so."""
    for function in (now, uuid, random):
        with pytest.raises(NotInRun, match=function.__name__):
            function()


# --- steps within steps -------------------------------------------------------------------------


async def test_nested_steps_have_paths_of_their_own(place: Place, caplog: pytest.LogCaptureFixture):
    """Steps called by a step are recorded below it, and found again while it has not ended."""
    halt = Halt()
    effects: list[str] = []

    async def inner(name: str) -> str:
        effects.append(name)
        return name.upper()

    async def outer(name: str) -> list[str]:
        results = [await step("inner", inner, f"{name}{n}") for n in range(2)]
        if name == "b":
            await halt()
        return results

    async def flow() -> list[Any]:
        return [await step("outer", outer, "a"), await step("outer", outer, "b")]

    run = await half_way(place, flow_of(flow), halt)
    assert effects == ["a0", "a1", "b0", "b1"]
    async with place.life(flow_of(flow)) as life:
        assert await life.get(run).result(timeout="5s") == [["A0", "A1"], ["B0", "B1"]]
        paths = [record.path for record in (await life.get(run).history()).steps]
    assert effects == ["a0", "a1", "b0", "b1"]
    assert sorted(paths) == ["outer", "outer", *["outer/inner"] * 4]
    assert "did not ask for" not in caplog.text, "the steps within a replayed one are no orphans"


async def test_a_nested_step_is_not_repeated_by_its_outer_steps_next_attempt(place: Place):
    """An attempt of a step repeats none of the steps within it that an earlier one finished."""
    effects: list[str] = []

    async def inner() -> str:
        effects.append("inner")
        return f"inner {len(effects)}"

    async def outer() -> str:
        result = await step("inner", inner)
        effects.append("outer")
        if effects.count("outer") == 1:
            raise ConnectionError
        return result

    async def flow() -> str:
        return await step.options(max_attempts=2, backoff=lambda *_: "5ms")("outer", outer)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "inner 1"
    assert effects == ["inner", "outer", "outer"]


@pytest.mark.parametrize("pause", ["1ms", "80ms"], ids=["in memory", "suspended"])
async def test_a_nested_failure_is_tried_again_by_its_outer_steps_next_attempt(
    place: Place, pause: str
):
    """The failed step within is what the outer step's next attempt is for: it runs again."""
    effects: list[str] = []

    async def inner() -> str:
        effects.append("inner")
        if len(effects) == 1:
            raise ConnectionError
        return f"inner {len(effects)}"

    async def outer() -> str:
        return await ONCE("inner", inner)

    async def flow() -> str:
        return await step.options(max_attempts=3, backoff=lambda *_: pause)("outer", outer)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "inner 2"


async def test_a_nested_failure_is_tried_again_by_the_runs_next_attempt(place: Place):
    """A new attempt of the run repeats the failed step and the failed step within it."""
    effects: list[str] = []

    async def inner() -> str:
        effects.append("inner")
        if len(effects) == 1:
            raise ConnectionError
        return f"inner {len(effects)}"

    async def outer() -> str:
        return await ONCE("inner", inner)

    async def flow() -> str:
        return await ONCE("outer", outer)

    define = flow_of(flow, max_attempts=2, backoff=lambda *_: "5ms")
    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "inner 2"


@pytest.mark.parametrize("pause", ["1ms", "80ms"], ids=["in memory", "suspended"])
async def test_a_nested_loser_runs_again_in_its_outer_steps_next_attempt(place: Place, pause: str):
    """What a failed attempt of a step gave up within is asked anew by the next attempt."""
    effects: list[str] = []

    async def fails() -> str:
        effects.append("fails")
        await eventually(lambda: "beside" in effects)
        if effects.count("fails") == 1:
            raise ConnectionError
        return "succeeds"

    async def beside() -> str:
        effects.append("beside")
        if effects.count("beside") == 1:
            await asyncio.Event().wait()
        return "beside"

    async def outer() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ONCE("fails", fails)),
                group.create_task(ONCE("beside", beside)),
            ]
        return [task.result() for task in tasks]

    async def flow() -> list[str]:
        return await step.options(max_attempts=2, backoff=lambda *_: pause)("outer", outer)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == ["succeeds", "beside"]


@pytest.mark.parametrize("pause", ["1ms", "80ms"], ids=["in memory", "suspended"])
async def test_a_nested_wait_is_made_again_in_its_outer_steps_next_attempt(
    place: Place, pause: str
):
    """A wait for a child that a failed attempt of a step gave up is made anew by the next."""
    effects: list[str] = []
    let_go = asyncio.Event()

    async def fails() -> None:
        effects.append("fails")
        if len(effects) == 1:
            raise ConnectionError
        let_go.set()

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> str:
            await let_go.wait()
            return "child"

        async def outer() -> str:
            kid = await child.enqueue()
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(kid.result())
                group.create_task(ONCE("fails", fails))
            return waiting.result()

        @app.workflow
        async def flow() -> str:
            return await step.options(max_attempts=2, backoff=lambda *_: pause)("outer", outer)

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "child"
        assert len(await life.app.runs(name="child")) == 1


async def test_a_step_need_not_do_the_same_within_when_it_is_executed_again(place: Place):
    """A step cut off by a kill may call those within with other arguments: that is no mismatch."""
    halt = Halt()
    effects: list[str] = []

    async def inner(token: str) -> str:
        effects.append(token)
        return token

    async def outer() -> str:
        result = await step("inner", inner, f"token {len(effects)}")
        await halt()
        return result

    async def flow() -> str:
        return await step("outer", outer)

    assert await killed_and_finished(place, flow_of(flow), halt) == "token 1"
    assert effects == ["token 0", "token 1"]


async def test_branches_inside_a_step_find_their_own_records(place: Place):
    """A gather inside a step numbers its branches below the step."""
    halt = Halt()
    effects: list[str] = []

    def work(name: str) -> Any:
        async def inner() -> str:
            effects.append(name)
            return name

        return inner

    async def branch(name: str) -> list[str]:
        return [await step("work", work(f"{name}{n}")) for n in range(2)]

    async def outer() -> list[Any]:
        results = await asyncio.gather(*(branch(name) for name in "abc"))
        await halt()
        return list(results)

    async def flow() -> list[Any]:
        return await step("outer", outer)

    result = await killed_and_finished(place, flow_of(flow), halt)
    assert result == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
    assert len(effects) == 6


# --- threads ------------------------------------------------------------------------------------


async def test_a_step_in_asyncio_to_thread_is_recorded(place: Place):
    """step.sync in a thread of asyncio.to_thread is durable, branch by branch."""
    halt = Halt()
    effects: list[int] = []

    def work(number: int) -> int:
        effects.append(number)
        return number * 10

    def in_thread(number: int) -> list[int]:
        return [step.sync("work", work, number), step.sync("work", work, number)]

    async def flow() -> list[Any]:
        results = await asyncio.gather(*(asyncio.to_thread(in_thread, n) for n in (1, 2)))
        await halt()
        return list(results)

    assert await killed_and_finished(place, flow_of(flow), halt) == [[10, 10], [20, 20]]
    assert sorted(effects) == [1, 1, 2, 2]


async def test_a_step_in_a_carried_thread_is_recorded(place: Place):
    """Threads of the body's own, wrapped with carry, have numbered branches like tasks."""
    halt = Halt()
    effects: list[str] = []
    rng = Random(7)

    def fetch(name: str) -> Callable[[], str]:
        def fetch() -> str:
            effects.append(name)
            return name

        return fetch

    async def flow() -> list[str]:
        results: dict[str, list[str]] = {}

        def in_thread(name: str) -> None:
            results[name] = [step.sync("fetch", fetch(f"{name}{n}")) for n in range(2)]

        threads = [threading.Thread(target=carry(in_thread), args=(name,)) for name in "abc"]
        for thread in rng.sample(threads, 3):  # their order of starting must not matter
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await halt()
        return [fetched for name in "abc" for fetched in results[name]]

    result = await killed_and_finished(place, flow_of(flow), halt)
    assert result == ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert sorted(effects) == result


async def test_a_step_in_a_thread_that_is_not_carried_is_an_error(place: Place):
    """A step called in a bare thread of the body is refused, instead of silently undurable."""

    async def flow() -> str:
        said: list[str] = []

        def in_thread() -> None:
            try:
                step.sync("work", str)
            except NotInRun as error:
                said.append(str(error))

        thread = threading.Thread(target=in_thread)
        thread.start()
        await asyncio.to_thread(thread.join)
        return said[0]

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert "perdure.carry" in await run.result(timeout="5s")


# --- bodies written with def --------------------------------------------------------------------


async def test_a_body_written_with_def_is_durable(place: Place):
    """A sync body with step.sync, decorated sync steps and a loop is killed and goes on."""
    reached, let_go = threading.Event(), threading.Event()
    effects: list[str] = []

    def define(app: App) -> Any:
        @app.step
        def charge(cents: int) -> str:
            effects.append(f"charge {cents}")
            return f"paid {cents}"

        def notify(number: int) -> int:
            effects.append(f"notify {number}")
            return number

        @app.workflow
        def flow(cents: int) -> list[Any]:
            results: list[Any] = [charge(cents)]
            results += [step.sync("notify", notify, n) for n in range(2)]
            reached.set()
            let_go.wait(10)
            return [*results, charge(cents + 1), now() is not None]

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue(5)
        await asyncio.to_thread(reached.wait, 10)
        killing = asyncio.ensure_future(life.kill())
        await life.store.died.wait()
        let_go.set()
        await killing
    assert await finished(place, define, run) == ["paid 5", 0, 1, "paid 6", True]
    assert effects == ["charge 5", "notify 0", "notify 1", "charge 6"]


async def test_a_body_written_with_def_waits_out_a_back_off(place: Place):
    """A sync body whose step is tried again later blocks its thread, and finishes."""
    calls: list[int] = []

    def flaky() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return "second"

    def flow() -> str:
        return step.options(backoff=lambda *_: "60ms").sync("flaky", flaky)

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "second"
    assert len(calls) == 2


async def test_a_body_written_with_def_catches_a_steps_error(place: Place):
    """An error of a step reaches a sync body as itself, also on the replay."""
    reached, let_go = threading.Event(), threading.Event()
    seen: list[str] = []

    def fails() -> None:
        raise LookupError("gone")

    def flow() -> str:
        try:
            ONCE.sync("fails", fails)
        except LookupError as error:
            seen.append(repr(error))
        reached.set()
        let_go.wait(10)
        return "went on"

    async with place.life(flow_of(flow)) as life:
        run = await life.flow.enqueue()
        await asyncio.to_thread(reached.wait, 10)
        let_go.set()
        await life.kill()
    assert await finished(place, flow_of(flow), run) == "went on"
    assert set(seen) == {"LookupError('gone')"}


async def test_a_blocking_step_in_an_async_body_is_an_error_that_helps(place: Place):
    """A step written with `def`, called in an async body, says what to write instead."""

    def define(app: App) -> Any:
        @app.step
        def charge() -> str:
            return "paid"

        @app.workflow
        async def flow() -> str:
            return charge()

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match='await step\\("name", function'):
            await run.result(timeout="5s")


async def test_steps_outside_of_a_run_are_plain_functions():
    """Called outside of a run, a step just runs, sync or async, decorated or inline."""

    @step
    async def double(number: int) -> int:
        return number * 2

    @step
    def half(number: int) -> int:
        return number // 2

    assert await double(4) == 8
    assert half(4) == 2
    assert await step("inline", half, 6) == 3
    assert step.sync("inline", half, 8) == 4


# --- bodies within bodies -----------------------------------------------------------------------


async def test_a_body_run_inside_another_is_part_of_it(place: Place):
    """`await other.run(…)` records the other's steps below its name, and its result once."""
    halt = Halt()
    effects: list[str] = []

    def define(app: App) -> Any:
        async def act(name: str) -> str:
            effects.append(name)
            return name

        @app.workflow
        async def pack(box: str) -> list[str]:
            effects.append(f"pass {box}")
            return [await step("fold", act, f"fold {box}"), await step("fill", act, f"fill {box}")]

        @app.workflow
        async def flow() -> list[Any]:
            first = await pack.run("S")
            both = await asyncio.gather(pack.run("M"), pack.run("M"))
            await halt()
            return [first, *both]

        return flow

    run = await half_way(place, define, halt)
    async with place.life(define) as life:
        result = await life.get(run).result(timeout="5s")
        paths = {record.path for record in (await life.get(run).history()).steps}
    assert result == [["fold S", "fill S"], *[["fold M", "fill M"]] * 2]
    assert effects.count("pass S") == 1
    assert len(effects) == 9
    assert paths == {"pack", "pack/fold", "pack/fill"}


async def test_a_body_run_inside_another_may_wait(place: Place):
    """A body run inline may be suspended with the one that it is part of."""
    passes: list[str] = []
    calls: list[int] = []

    def define(app: App) -> Any:
        async def flaky() -> str:
            calls.append(1)
            if len(calls) == 1:
                raise ConnectionError
            return "second"

        @app.workflow
        async def inline() -> str:
            passes.append("inline")
            return await step.options(backoff=lambda *_: "80ms")("flaky", flaky)

        @app.workflow
        async def flow() -> str:
            passes.append("flow")
            return await inline.run()

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "retry")
        assert await run.result(timeout="5s") == "second"
    assert passes == ["flow", "inline"] * 2


async def test_a_failure_of_a_body_run_inside_another_is_recorded(place: Place):
    """An inline body's error, caught outside, replays as itself without running it again."""
    halt = Halt()
    passes: list[str] = []
    seen: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def inline() -> str:
            passes.append("inline")
            raise LookupError("nothing")

        @app.workflow
        async def flow() -> None:
            try:
                await inline.run()
            except LookupError as error:
                seen.append(repr(error))
            await halt()

        return flow

    await killed_and_finished(place, define, halt)
    assert seen == ["LookupError('nothing')"] * 2
    assert passes == ["inline"]


@pytest.mark.parametrize("fails_in", ["its body", "a step"])
async def test_a_failed_body_run_inside_another_is_tried_again_with_the_run(
    place: Place, fails_in: str
):
    """A new attempt of the run runs the failed inline body again, and the step that failed it."""
    effects: list[str] = []

    def define(app: App) -> Any:
        async def first() -> None:
            effects.append("first")

        async def flaky() -> str:
            effects.append("flaky")
            if effects.count("flaky") == 1:
                raise ConnectionError
            return "second"

        @app.workflow
        async def inline() -> str:
            await step("first", first)
            if fails_in == "its body":
                return await flaky()
            return await ONCE("flaky", flaky)

        @app.workflow(max_attempts=2, backoff=lambda *_: "5ms")
        async def flow() -> str:
            return await inline.run()

        return flow

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="5s") == "second"
    assert effects == ["first", "flaky", "flaky"]
