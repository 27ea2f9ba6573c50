"""Calls that find their unique_key taken: raise, skip, replace, throttle, debounce."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Context, Debounce, Status, Worker, sleep, step
from perdure.clock import SystemClock
from perdure.errors import DefinitionError, InvalidValue, RunCancelled, RunConflict, UsageError
from perdure.store import Store
from perdure.stores.memory import MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.telemetry import RunCancelled as CancelledHook
from tests.engine.families import Family
from tests.engine.places import Halt, Place, eventually, finished

LONG = Debounce("1h", max_wait="10h")


class OffsetClock(SystemClock):
    """A clock that can be set."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> int:
        """Return microseconds since the epoch."""
        return super().now() + self.offset // timedelta(microseconds=1)


@pytest.fixture(params=["memory", "sqlite"])
def set_store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, OffsetClock]:
    """A store and the clock that decides there what is due."""
    clock = OffsetClock()
    if request.param == "memory":
        return MemoryStore(clock=clock), clock
    return SqliteStore(tmp_path / "perdure.db", clock=clock), clock


@pytest.fixture
def family() -> Family:
    """A parent and its children."""
    return Family()


def sleepers(began: list[int]) -> Any:
    """Return what defines a workflow that notes its number, and waits for ever at 0."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(number: int) -> int:
            began.append(number)
            if not number:
                await step("wait", asyncio.Event().wait)
            return number

        return flow

    return define


# --- on_conflict ---------------------------------------------------------------------------------


async def test_skip_finds_the_run_whatever_its_input(place: Place):
    """Where the default raises; an id of other input is a conflict all the same."""
    async with place.client(sleepers([])) as client:
        flow = client.flow
        first = await flow.options(unique_key="k").enqueue(1)
        with pytest.raises(RunConflict, match='or on_conflict="skip"'):
            await flow.options(unique_key="k").enqueue(2)
        found = await flow.options(unique_key="k", on_conflict="skip").enqueue(2)
        assert found.id == first.id
        assert (await found.history()).input == {"number": 1}
        await flow.options(id="x").enqueue(1)
        with pytest.raises(RunConflict, match="id 'x'"):
            await flow.options(id="x", unique_key="x", on_conflict="skip").enqueue(2)


async def test_a_call_that_replaces_stops_a_body(place: Place):
    """The body is cancelled where it is, and the new run ends with its own result."""
    began: list[int] = []
    told: list[str] = []
    async with place.life(sleepers(began)) as life:
        life.app.on(CancelledHook)(lambda cancelled: told.append(cancelled.run_id))
        newest = life.flow.options(unique_key="k", on_conflict="replace")
        old = await newest.enqueue(0)
        await eventually(lambda: began == [0])
        new = await newest.enqueue(1)
        assert new.id != old.id
        assert await new.result(timeout="5s") == 1
        with pytest.raises(RunCancelled):
            await old.result(timeout="5s")
        await eventually(lambda: told == [old.id])
        assert (await old.history()).key_passed_to == new.id


async def test_a_call_that_replaces_tells_who_waits(place: Place):
    """A run that nobody executes ends at once, and hooks and callers hear of it."""
    told: list[str] = []
    async with place.client(sleepers([])) as client:
        client.app.on(CancelledHook)(lambda cancelled: told.append(cancelled.run_id))
        newest = client.flow.options(unique_key="k", on_conflict="replace")
        old = await newest.enqueue(1)
        waiting = asyncio.ensure_future(old.result(timeout="5s"))
        await asyncio.sleep(0)
        await newest.enqueue(2)
        with pytest.raises(RunCancelled):
            await waiting
        assert await old.status() is Status.CANCELLED
        await eventually(lambda: told == [old.id])


async def test_a_body_replaces_a_child_once(place: Place, family: Family):
    """However often it replays: the child that it started stays the one that it started."""
    halt = Halt()

    async def body(_: Family, child: Any) -> str:
        kid = await child.options(unique_key="k", on_conflict="replace").enqueue(1)
        await halt()
        await kid.result()
        return str(kid.id)

    define = family.of(body)
    async with place.life(define) as life:
        old = await family.child.options(unique_key="k").enqueue(2)
        run = await life.flow.enqueue()
        await asyncio.wait_for(halt.reached.wait(), 5)
        assert await old.status() in {Status.CANCELLED, Status.RUNNING}
        halt.is_open = True
        await life.kill()
    family.let(1)
    kid = await finished(place, define, run)
    async with place.client(define) as client:
        history = await client.app.get(kid).history()
        assert (history.status, history.parent) == (Status.COMPLETED, run.id)


# --- unique_for ----------------------------------------------------------------------------------


async def test_a_throttled_call_finds_the_run_that_has_ended(
    set_store: tuple[Store, OffsetClock],
):
    """So long by the store's clock from the call that started it; then another one starts."""
    store, clock = set_store
    app = App(store)
    flow = sleepers([])(app)
    async with app, Worker(app, poll="20ms"):
        throttled = flow.options(unique_key="k", unique_for="10m")
        first = await throttled.enqueue(1)
        assert await first.result(timeout="5s") == 1
        clock.offset = timedelta(minutes=9, seconds=50)
        assert (await throttled.enqueue(1)).id == first.id
        with pytest.raises(RunConflict, match="unique_key 'k'"):
            await throttled.enqueue(2)
        skipping = flow.options(unique_key="k", unique_for="10m", on_conflict="skip")
        again = await skipping.enqueue(2)
        assert (again.id, await again.result(timeout="5s")) == (first.id, 1)
        clock.offset = timedelta(minutes=10, seconds=1)
        second = await skipping.enqueue(2)
        assert second.id != first.id
        assert await second.result(timeout="5s") == 2


# --- debounce ------------------------------------------------------------------------------------


async def test_debounced_calls_make_one_run_with_the_last_input(
    set_store: tuple[Store, OffsetClock],
):
    """Every call returns its handle; it starts when they pause."""
    store, clock = set_store
    began: list[int] = []
    app = App(store)
    flow = sleepers(began)(app)
    async with app, Worker(app, poll="20ms"):
        calls = flow.options(unique_key="k", debounce=LONG)
        runs = []
        for number in (1, 2, 3):
            runs.append(await calls.enqueue(number))
            clock.offset += timedelta(minutes=40)
        assert len({run.id for run in runs}) == 1
        assert await runs[0].status() is Status.WAITING
        clock.offset += timedelta(minutes=21)
        assert await runs[0].result(timeout="5s") == 3
        assert began == [3]
        assert (await calls.enqueue(4)).id != runs[0].id


async def test_debounced_calls_cannot_hold_a_run_back_for_ever(
    set_store: tuple[Store, OffsetClock],
):
    """It starts at the latest so long after the first call, with the input of then."""
    store, clock = set_store
    began: list[int] = []
    app = App(store)
    flow = sleepers(began)(app)
    async with app, Worker(app, poll="20ms"):
        calls = flow.options(unique_key="k", debounce=Debounce("1h", max_wait="90m"))
        first = await calls.enqueue(1)
        clock.offset = timedelta(minutes=45)
        assert (await calls.enqueue(2)).id == first.id
        clock.offset = timedelta(minutes=91)
        assert await first.result(timeout="5s") == 2


async def test_a_call_after_the_start_makes_a_run_of_its_own(place: Place):
    """The one that has started goes on; both inputs are executed."""
    began: list[int] = []
    async with place.life(sleepers(began)) as life:
        calls = life.flow.options(unique_key="k", debounce=Debounce("1ms"))
        first = await calls.enqueue(0)
        await eventually(lambda: began == [0])
        second = await calls.enqueue(1)
        assert second.id != first.id
        assert await second.result(timeout="5s") == 1
        assert await first.status() is Status.RUNNING
        await first.cancel(wait=True)  # or the worker would wait for it


async def test_meta_and_options_are_those_of_the_last_call(place: Place):
    """They belong to its input; queue, priority and tags do not."""
    async with place.client(sleepers([])) as client:
        calls = {"unique_key": "k", "debounce": LONG}
        first = await client.flow.options(meta={"by": "one"}, tags=("a",), **calls).enqueue(1)
        await client.flow.options(meta={"by": "two"}, tags=("b",), **calls).enqueue(2)
        history = await first.history()
        assert (history.input, history.meta) == ({"number": 2}, {"by": "two"})
        assert history.tags == ("a",)


async def test_a_body_debounces_once(place: Place, family: Family):
    """A replay of the call finds the run that it found, and does not give it its input again."""
    halt = Halt()

    async def body(_: Family, child: Any) -> str:
        kid = await child.options(unique_key="k", debounce=LONG).enqueue(2)
        await halt()
        return str(kid.id)

    define = family.of(body)
    async with place.life(define) as life:
        debounced = family.child.options(unique_key="k", debounce=LONG)
        first = await debounced.enqueue(1)
        run = await life.flow.enqueue()
        await asyncio.wait_for(halt.reached.wait(), 5)
        assert (await first.history()).input == {"number": 2}
        await debounced.enqueue(3)
        halt.is_open = True
        await life.kill()
    assert await finished(place, define, run) == first.id
    async with place.client(define) as client:
        assert (await client.get(first).history()).input == {"number": 3}


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        ({"on_conflict": "replace"}, "on_conflict= says what a unique_key means"),
        ({"unique_for": "1s"}, "unique_for= says what a unique_key means"),
        ({"debounce": LONG}, "debounce= says what a unique_key means"),
        ({"unique_key": "k", "debounce": LONG, "unique_for": "1s"}, "unique_for= and debounce="),
        (
            {"unique_key": "k", "debounce": LONG, "on_conflict": "replace"},
            "on_conflict= and debounce= say two things",
        ),
        (
            {"unique_key": "k", "unique_for": "1s", "on_conflict": "replace"},
            "on_conflict= and unique_for= say two things",
        ),
        ({"unique_key": "k", "unique_for": "0s"}, "longer than nothing"),
        ({"unique_key": "k", "debounce": "10s"}, "a Debounce such as"),
        ({"unique_key": "k", "on_conflict": "ignore"}, "'raise', 'skip' or 'replace'"),
    ],
)
async def test_options_that_do_not_fit_are_refused(options: dict[str, Any], says: str):
    """Before anything is stored, and before there is an app to store it."""
    flow = sleepers([])(App("memory://"))
    with pytest.raises(UsageError, match=says):
        flow.options(**options)


def test_a_debounce_that_cannot_be_is_refused():
    """No wait at all, or a longest wait that is shorter than it."""
    with pytest.raises(UsageError, match="delay must be longer than nothing"):
        Debounce("0s")
    with pytest.raises(UsageError, match="max_wait must be no shorter than delay"):
        Debounce("10s", max_wait="9s")
    assert Debounce("1m", "1h") == Debounce(timedelta(minutes=1), max_wait=timedelta(hours=1))


async def test_a_debounced_call_has_no_other_delay(place: Place):
    """Both would say when it starts."""
    async with place.client(sleepers([])) as client:
        with pytest.raises(UsageError, match="debounce= says when the run starts"):
            await client.flow.options(unique_key="k", debounce=LONG).delay("1m", 1)
        assert await client.app.runs() == []


async def test_a_body_that_sleeps_is_replaced(place: Place):
    """Wherever a run waits: it is not woken any more."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow(length: str) -> str:
            await sleep(length)
            return length

        return flow

    async with place.life(define) as life:
        newest = life.flow.options(unique_key="k", on_conflict="replace")
        old = await newest.enqueue("1h")
        await life.reaches(old, "waiting", "sleep")
        new = await newest.enqueue("1ms")
        assert await old.status() is Status.CANCELLED
        assert await new.result(timeout="5s") == "1ms"


# --- keys that follow from the arguments ---------------------------------------------------------


def keyed(**options: Any) -> Any:
    """Return what defines a workflow of two arguments with these options."""

    def define(app: App) -> Any:
        @app.workflow(**options)
        async def flow(customer: str, number: int = 0) -> int:
            return number

        return flow

    return define


@pytest.mark.parametrize("given", ["customer", lambda customer, number: customer])
async def test_a_definition_takes_its_keys_from_an_argument(place: Place, given: Any):
    """By its name or by a function; a call may say others."""
    async with place.client(keyed(unique_key=given, limit_key=given)) as client:
        first = await client.flow.enqueue("a", 1)
        history = await first.history()
        assert (history.unique_key, history.limit_key) == ("a", "a")
        assert (await client.flow.enqueue(customer="a", number=1)).id == first.id
        with pytest.raises(RunConflict, match="unique_key 'a'"):
            await client.flow.enqueue("a", 2)
        other = await client.flow.options(unique_key="b", limit_key="c").enqueue("a", 1)
        history = await other.history()
        assert (history.unique_key, history.limit_key) == ("b", "c")


async def test_many_calls_have_a_key_each(place: Place):
    """Those that find theirs taken, by one another, are answered as alone."""
    define = keyed(unique_key="customer", on_conflict="skip")
    async with place.client(define) as client:
        runs = await client.flow.enqueue_many([((name, n), {}) for n, name in enumerate("aba")])
        assert runs[0].id == runs[2].id != runs[1].id
        assert (await runs[0].history()).input == {"customer": "a"}


async def test_a_key_is_a_text_or_a_number_or_none(place: Place):
    """A default counts, None is no key, and a function may say so."""
    define = keyed(
        unique_key=lambda customer, number=0: number or None, limit_key="number", debounce=LONG
    )
    async with place.client(define) as client:
        none, one = await client.flow.enqueue("a"), await client.flow.enqueue("a", 7)
        history = await none.history()
        assert (history.unique_key, history.limit_key) == (None, "0")
        assert history.status is Status.QUEUED
        history = await one.history()
        assert (history.unique_key, history.limit_key) == ("7", "7")
        assert history.status is Status.WAITING


async def test_a_definition_says_what_becomes_of_a_taken_key(place: Place):
    """Unless the call says it: then nothing of the definition's is left."""
    define = keyed(unique_key="customer", debounce=LONG)
    async with place.client(define) as client:
        first = await client.flow.enqueue("a", 1)
        assert await first.status() is Status.WAITING
        assert (await client.flow.enqueue("a", 2)).id == first.id
        with pytest.raises(UsageError, match="debounce= says when the run starts"):
            await client.flow.delay("1m", "a", 1)
        with pytest.raises(RunConflict):
            await client.flow.options(on_conflict="raise").enqueue("a", 3)
        new = await client.flow.options(on_conflict="replace").enqueue("a", 3)
        assert (await first.status(), await new.status()) == (Status.CANCELLED, Status.QUEUED)


async def test_children_and_scheduled_runs_have_a_limit_key(place: Place):
    """It follows from their arguments, too; a unique_key is for calls."""

    def define(app: App) -> Any:
        @app.workflow(limit_key="customer", unique_key="customer", every="1h")
        async def kid(customer: str = "all") -> str:
            return customer

        @app.workflow
        async def parent() -> str:
            return (await kid.enqueue("child")).id

        app.kid = kid  # type: ignore[attr-defined]
        return parent

    async with place.life(define) as life:
        child = life.app.get(await (await life.flow.enqueue()).result(timeout="5s"))
        history = await child.history()
        assert (history.limit_key, history.unique_key) == ("child", "child")
        handle = await life.app.kid.schedule("@daily", "daily")  # type: ignore[attr-defined]
        for key, limit_key in ((handle.key, "daily"), ("kid", "all")):
            run = await life.app.schedule(key).trigger()
            history = await run.history()
            assert (history.limit_key, history.unique_key) == (limit_key, None)


@pytest.mark.parametrize(
    "given, says",
    [
        ("buyer", "names an argument of its body, which has none called 'buyer'"),
        (7, "is the name of an argument, or a plain function"),
        (str, "is the name of an argument, or a plain function"),
        (asyncio.sleep, "is the name of an argument, or a plain function"),
    ],
)
def test_keys_that_cannot_be_are_refused(given: Any, says: str):
    """Where the definition is declared."""
    for option in ("unique_key", "limit_key"):
        with pytest.raises(DefinitionError, match=f"{option}= of 'flow' {says}"):
            keyed(**{option: given})(App())


@pytest.mark.parametrize(
    "given, error, says",
    [
        (lambda customer, number=0: 1 / number, DefinitionError, r"raised ZeroDivisionError"),
        (lambda customer: customer, DefinitionError, r"raised TypeError"),
        (lambda customer, number=0: [customer], InvalidValue, r"a text, a whole number, a UUID"),
        (lambda customer, number=0: True, InvalidValue, r"UUID or None, got True"),
        (lambda customer, number=0: "", InvalidValue, r"must not be empty"),
    ],
)
async def test_functions_that_return_no_key_store_nothing(
    place: Place, given: Any, error: type[Exception], says: str
):
    """What they do is said where the call is made."""
    async with place.client(keyed(limit_key=given)) as client:
        with pytest.raises(error, match=f"limit_key= of 'flow' .*{says}"):
            await client.flow.enqueue("a", 0)
        assert await client.app.runs() == []


async def test_the_context_is_no_key(place: Place):
    """It is no argument of a call, which is said when its annotation is looked at."""

    def define(app: App) -> Any:
        @app.workflow(unique_key="ctx")
        async def flow(ctx: Context[Any], customer: str) -> str:
            return customer

        return flow

    async with place.client(define) as client:
        with pytest.raises(DefinitionError, match="'flow' is the context"):
            await client.flow.enqueue("a")
