"""Compensations and on_cancel: what is undone, in which order, and what survives a kill."""

import asyncio
import threading
from typing import Any

import pytest

from perdure import (
    App,
    Context,
    Status,
    compensate,
    constant,
    gather,
    sleep,
    step,
    telemetry,
    wait_for_event,
)
from perdure.errors import (
    InvalidTransition,
    NotInRun,
    RunCancelled,
    RunFailed,
    UsageError,
)
from tests.engine.places import Place, eventually, saves


class Trip:
    """What was reserved and given back, in order.

    Attributes:
        done: every effect.
        breaks: names whose doing raises, and how often still.
        held: what keeps the body from going on after its reservations.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.breaks: dict[str, int] = {}
        self.held: asyncio.Event | None = None

    async def reserve(self, what: str) -> str:
        self._maybe_break(what)
        self.done.append(what)
        return f"{what}-1"

    async def release(self, ticket: str) -> None:
        self._maybe_break(f"not {ticket}")
        self.done.append(f"not {ticket}")

    async def clean(self, city: str) -> None:
        self.done.append(f"clean {city}")

    def _maybe_break(self, what: str) -> None:
        if self.breaks.get(what, 0):
            self.breaks[what] -= 1
            raise ConnectionError(what)

    def define(self, **options: Any) -> Any:
        """Return what declares a workflow of two reservations that then waits, or fails."""

        def define(app: App) -> Any:
            async def book(city: str, fails: bool = False) -> str:
                flight = await step("flight", self.reserve, "flight")
                compensate("undo flight", self.release, flight)
                hotel = await step("hotel", self.reserve, "hotel")
                compensate(self.release, hotel)
                if fails:
                    raise ValueError(city)
                await sleep("1h")
                return f"{flight} {hotel}"

            return app.workflow(**options)(book)

        return define


@pytest.fixture
def trip() -> Trip:
    return Trip()


async def test_a_failed_run_is_compensated_last_in_first_out(place: Place, trip: Trip):
    """And ends with the error that it failed with; the steps are there to see."""
    async with place.life(trip.define()) as life:
        run = await life.flow.enqueue("Rome", fails=True)
        with pytest.raises(RunFailed, match="Rome"):
            await run.result(timeout="5s")
        history = await run.history()
    assert trip.done == ["flight", "hotel", "not hotel-1", "not flight-1"]
    paths = ["flight", "hotel", "~undo/release", "~undo/undo flight"]
    assert [one.path for one in history.steps] == paths
    assert (history.status, history.reason, history.phase) == (Status.FAILED, "error", None)
    assert [attempt.outcome for attempt in history.attempts] == ["failed"]


async def test_a_step_undoes_under_the_name_that_is_given(place: Place):
    """As a function does; it keeps everything else that it says of itself."""

    def define(app: App) -> Any:
        @app.step(max_attempts=1)
        async def release() -> None: ...

        @app.workflow
        async def book() -> None:
            compensate("free the seat", release)
            compensate(release)
            raise ValueError("full")

        return book

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="full"):
            await run.result(timeout="5s")
        paths = [one.path for one in (await run.history()).steps]
    assert paths == ["~undo/release", "~undo/free the seat"]


async def test_a_retried_attempt_does_not_compensate(place: Place, trip: Trip):
    """Only the last one does."""
    trip.breaks["hotel"] = 1

    def define(app: App) -> Any:
        async def book() -> str:
            flight = await step("flight", trip.reserve, "flight")
            compensate(trip.release, flight)
            return await step.options(max_attempts=1)("hotel", trip.reserve, "hotel")

        return app.workflow(max_attempts=2, backoff=constant("1ms"))(book)

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result(timeout="5s") == "hotel-1"
    assert trip.done == ["flight", "hotel"]


async def test_a_cancel_compensates_where_it_is_asked_to(place: Place, trip: Trip):
    """A waiting run is claimed for it; a plain cancel ends it at once."""
    async with place.life(trip.define()) as life:
        runs = [await life.flow.enqueue("Rome"), await life.flow.enqueue("Oslo")]
        for run in runs:
            await life.reaches(run, "waiting", "sleep")
        assert await runs[0].cancel() == Status.CANCELLED
        trip.done.clear()
        assert await runs[1].cancel(compensate=True) == Status.QUEUED
        with pytest.raises(RunCancelled):
            await runs[1].result(timeout="5s")
    assert trip.done == ["not hotel-1", "not flight-1"]


async def test_a_body_that_executes_is_stopped_and_compensated(place: Place, trip: Trip):
    """What it has registered until then is undone."""
    gate = asyncio.Event()
    began = asyncio.Event()

    def define(app: App) -> Any:
        async def hold() -> None:
            began.set()
            await gate.wait()

        async def book() -> None:
            flight = await step("flight", trip.reserve, "flight")
            compensate(trip.release, flight)
            await step("hold", hold)
            await step("never", trip.reserve, "never")

        return app.workflow(book)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(began.wait(), 5)
        assert await run.cancel(compensate=True) == Status.RUNNING
        with pytest.raises(RunCancelled):
            await run.result(timeout="5s")
    assert trip.done == ["flight", "not flight-1"]


async def test_on_cancel_is_executed_of_a_run_that_had_begun(place: Place, trip: Trip):
    """With the arguments that it asks for, before the compensations; not of one that had not."""
    async with place.client(trip.define(on_cancel=trip.clean)) as client:
        early = await client.flow.enqueue("Rome")
        assert await early.cancel() == Status.CANCELLED
    async with place.life(trip.define(on_cancel=trip.clean)) as life:
        plain, both = await life.flow.enqueue("Oslo"), await life.flow.enqueue("Bonn")
        for run in (plain, both):
            await life.reaches(run, "waiting", "sleep")
        trip.done.clear()
        for run, compensates in ((plain, False), (both, True)):
            await run.cancel(compensate=compensates)
            with pytest.raises(RunCancelled):
                await run.result(timeout="5s")
    assert trip.done == ["clean Oslo", "clean Bonn", "not hotel-1", "not flight-1"]


async def test_on_cancel_may_ask_for_the_context(place: Place):
    """As a body does."""
    seen: list[Any] = []

    async def clean(ctx: Context[Any], city: str) -> None:
        seen.append((ctx.meta["who"], city, ctx.run_id))

    def define(app: App) -> Any:
        async def book(city: str, rooms: int = 1) -> None:
            await sleep("1h")

        return app.workflow(on_cancel=clean)(book)

    async with place.life(define) as life:
        run = await life.flow.options(meta={"who": "me"}).enqueue("Rome")
        await life.reaches(run, "waiting", "sleep")
        await run.cancel(wait=True)
    assert seen == [("me", "Rome", run.id)]


async def test_a_compensation_is_retried_and_holds_nothing_meanwhile(place: Place, trip: Trip):
    """Its back-off is a durable wait."""
    trip.breaks["not hotel-1"] = 2

    def define(app: App) -> Any:
        @app.step(backoff=constant("200ms"), max_attempts=3)
        async def give_back(ticket: str) -> None:
            await trip.release(ticket)

        async def book() -> None:
            compensate(give_back, await step("flight", trip.reserve, "flight"))
            compensate(give_back, await step("hotel", trip.reserve, "hotel"))
            raise ValueError("full")

        return app.workflow(book)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "retry")
        assert (await run.history()).phase == "compensating"
        with pytest.raises(RunFailed, match="full"):
            await run.result(timeout="10s")
    assert trip.done == ["flight", "hotel", "not hotel-1", "not flight-1"]


async def test_what_cannot_be_undone_is_told_and_tried_again_by_hand(place: Place, trip: Trip):
    """The others are undone all the same."""
    trip.breaks["not hotel-1"] = 1

    def define(app: App) -> Any:
        @app.step(max_attempts=1)
        async def give_back(ticket: str) -> None:
            await trip.release(ticket)

        async def book() -> None:
            compensate(give_back, await step("flight", trip.reserve, "flight"))
            compensate(give_back, await step("hotel", trip.reserve, "hotel"))
            await sleep("1h")

        return app.workflow(book)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "sleep")
        await run.cancel(compensate=True)
        with pytest.raises(RunFailed, match="not hotel-1") as caught:
            await run.result(timeout="5s")
        assert caught.value.reason == "compensation"
        assert trip.done == ["flight", "hotel", "not flight-1"]
        await run.retry()
        with pytest.raises(RunCancelled):
            await run.result(timeout="5s")
        with pytest.raises(InvalidTransition, match="undone"):
            await run.retry()
    assert trip.done == ["flight", "hotel", "not flight-1", "not hotel-1"]


async def test_branches_register_all_that_they_did(place: Place, trip: Trip):
    """Also those whose branch is further than another when the body is stopped."""

    def define(app: App) -> Any:
        async def one(what: str) -> None:
            ticket = await step(f"reserve {what}", trip.reserve, what)
            compensate(trip.release, ticket)
            await wait_for_event("go", key=what)

        async def book() -> None:
            await asyncio.gather(*(one(what) for what in "abcd"))

        return app.workflow(book)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "event")
        reserved = list(trip.done)
        trip.done.clear()
        await run.cancel(compensate=True)
        with pytest.raises(RunCancelled):
            await run.result(timeout="5s")
    assert trip.done == [f"not {what}-1" for what in reversed(reserved)]
    assert sorted(reserved) == list("abcd")


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("at", ["hotel", "~undo/release", "~undo/undo flight"])
async def test_a_kill_while_undoing_repeats_only_what_it_hit(
    place: Place, trip: Trip, at: str, applied: bool
):
    """What is recorded as undone is not undone again."""
    async with place.life(trip.define()) as life:
        life.store.doom = saves(at)
        life.store.doomed_batch_is_applied = applied
        run = await life.flow.enqueue("Rome", fails=True)
        await life.store.died.wait()
        await life.kill()
    async with place.life(trip.define()) as life:
        with pytest.raises(RunFailed, match="Rome"):
            await life.get(run).result(timeout="10s")
    hit = {"hotel": "hotel", "~undo/release": "not hotel-1"}.get(at, "not flight-1")
    expected: list[str] = []
    for effect in ("flight", "hotel", "not hotel-1", "not flight-1"):
        expected += [effect] * (2 if effect == hit and not applied else 1)
    assert trip.done == expected


async def test_hooks_tell_of_the_end_once(place: Place, trip: Trip):
    """Not of the failure before what it did is undone."""
    told: list[telemetry.Hook] = []
    async with place.life(trip.define()) as life:
        life.app.on(telemetry.RunFailed)(told.append)
        life.app.on(telemetry.RunCancelled)(told.append)
        run = await life.flow.enqueue("Rome", fails=True)
        with pytest.raises(RunFailed):
            await run.result(timeout="5s")
        await eventually(lambda: len(told) == 1)
    [failed] = told
    assert isinstance(failed, telemetry.RunFailed)
    assert (failed.will_retry, failed.error.message) == (False, "Rome")


async def test_a_join_of_children_is_no_work_of_the_undoing(place: Place, trip: Trip):
    """A body that waits for its children is stopped where it waits."""

    def define(app: App) -> Any:
        @app.workflow
        async def child() -> None:
            await sleep("1h")

        async def book() -> None:
            compensate(trip.release, await step("flight", trip.reserve, "flight"))
            await gather(*[await child.enqueue() for _ in range(3)])

        return app.workflow(book)

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        await run.cancel(compensate=True)
        with pytest.raises(RunCancelled):
            await run.result(timeout="5s")
    assert trip.done == ["flight", "not flight-1"]


async def test_a_sync_body_compensates(place: Place, trip: Trip):
    """Its thread is stopped where it waits for what is not recorded."""

    began, hold = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        hold.wait(20)

    def give_back(ticket: str) -> None:
        trip.done.append(f"not {ticket}")

    def define(app: App) -> Any:
        def book(fails: bool) -> None:
            ticket = step.sync("flight", lambda: "flight-1")
            compensate(give_back, ticket)
            if fails:
                raise ValueError("full")
            step.sync("hold", wait)

        return app.workflow(book)

    async with place.life(define) as life:
        run = await life.flow.enqueue(True)
        with pytest.raises(RunFailed, match="full"):
            await run.result(timeout="5s")
        other = await life.flow.enqueue(False)
        await eventually(began.is_set)
        await other.cancel(compensate=True)
        hold.set()
        with pytest.raises(RunCancelled):
            await other.result(timeout="5s")
    assert trip.done == ["not flight-1", "not flight-1"]


async def test_edited_code_that_does_not_fit_undoes_nothing(place: Place, trip: Trip):
    """The run is paused as by any mismatch: what was recorded further on would not be undone."""

    def version(what: str) -> Any:
        def define(app: App) -> Any:
            async def book() -> None:
                for name in (what, "hotel"):
                    compensate(trip.release, await step("reserve", trip.reserve, name))
                await sleep("1h")

            return app.workflow(version=what)(book)

        return define

    async with place.life(version("flight")) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "sleep")
    trip.done.clear()
    async with place.life(version("train")) as life:
        await life.get(run).cancel(compensate=True)
        await life.reaches(life.get(run), "paused")
        assert (await life.get(run).history()).reason == "mismatch"
    assert trip.done == []
    async with place.life(version("flight")) as life:
        await life.get(run).resume()
        with pytest.raises(RunCancelled):
            await life.get(run).result(timeout="5s")
    assert trip.done == ["not hotel-1", "not flight-1"]


# --- mistakes --------------------------------------------------------------------------------


async def test_compensations_here_and_now(trip: Trip):
    """A body that is run without a store undoes what it did, too, and raises its error."""
    app = App()
    trip.breaks["not hotel-1"] = 1
    book = trip.define()(app)
    with pytest.raises(ValueError, match="Rome") as caught:
        await book.run("Rome", fails=True)
    assert trip.done == ["flight", "hotel", "not flight-1"]
    assert "its compensation 'release' failed" in caught.value.__notes__[0]


async def test_compensate_is_for_bodies(place: Place, trip: Trip):
    """Neither outside, nor in a step, nor inline."""
    with pytest.raises(NotInRun):
        compensate(trip.release, "x")
    with pytest.raises(UsageError, match="takes a step or a function"):
        compensate(7)  # type: ignore[call-overload]

    async def inside() -> None:
        with pytest.raises(UsageError, match="in a step"):
            compensate(trip.release, "x")

    def define(app: App) -> Any:
        @app.workflow
        async def other() -> None:
            await inside()

        async def flow() -> None:
            await step("inside", inside)
            await other.run()

        return app.workflow(flow)

    async with place.life(define) as life:
        await (await life.flow.enqueue()).result(timeout="5s")
