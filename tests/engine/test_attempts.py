"""Attempts of steps and runs: durable, counted, spaced as asked; errors that stay themselves."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    App,
    NonRetryable,
    RetryAfter,
    Status,
    constant,
    exponential,
    linear,
    step,
)
from perdure.errors import InvalidTransition, RunFailed, StepFailed, StepTimeout
from tests.engine.places import Halt, Place, eventually, finished, half_way, killed_and_finished

ONCE = step.options(max_attempts=1)


class OutOfStock(Exception):
    """An error with state of its own."""

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"{left} of {item} left")
        self.item = item
        self.left = left


class Flaky:
    """A step body that fails with the errors given, in turn, and then returns.

    Attributes:
        calls: how often it was called.
    """

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        """Fail, or return which call this was."""
        self.calls += 1
        if self.calls <= len(self.errors):
            error = self.errors[self.calls - 1]
            if error is not None:
                raise error
        return f"call {self.calls}"


def one_step(body: Any, **options: Any) -> Any:
    """Return what declares a flow of one step with these options."""

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> Any:
            return await step.options(**options)("work", body)

        return flow

    return define


async def outcome(place: Place, define: Any) -> tuple[Any, Any]:
    """Return the result of a flow, or its error, and its history."""
    async with place.life(define) as life:
        run = await life.flow.enqueue()
        try:
            result: Any = await run.result(timeout="10s")
        except RunFailed as error:
            result = error
        return result, await run.history()


# --- attempts of a step -----------------------------------------------------------------------


async def test_a_step_is_tried_until_it_succeeds(place: Place):
    """Failed attempts show in the history with number and error; the result is the last one's."""
    flaky = Flaky(ConnectionError("one"), ValueError("two"))
    result, history = await outcome(place, one_step(flaky, max_attempts=5, backoff=constant("5ms")))
    [work] = history.steps
    assert result == "call 3"
    assert (work.outcome, work.tries) == ("ok", 3)
    assert [(failed.number, failed.error) for failed in work.failed] == [
        (1, "ConnectionError: one"),
        (2, "ValueError: two"),
    ]
    assert history.attempt == 1


async def test_a_step_fails_when_its_attempts_are_used_up(place: Place):
    """After max_attempts the body gets the last error, and the run fails with it."""
    flaky = Flaky(*[ConnectionError(f"no. {n}") for n in range(1, 9)])
    error, history = await outcome(place, one_step(flaky, max_attempts=3, backoff=constant("5ms")))
    assert isinstance(error.__cause__, ConnectionError)
    assert str(error.__cause__) == "no. 3"
    assert (history.steps[0].outcome, history.steps[0].tries) == ("error", 3)
    assert flaky.calls == 3


@pytest.mark.parametrize(
    "backoff, delays",
    [
        (constant("15ms"), [15, 15, 15]),
        (linear("10ms", jitter=0), [10, 20, 30]),
        (exponential("5ms", factor=3, jitter=0), [5, 15, 45]),
        (exponential("5ms", factor=10, cap="20ms", jitter=0), [5, 20, 20]),
        (lambda attempt, error: f"{attempt * len(str(error))}ms", [3, 6, 9]),
    ],
    ids=["constant", "linear", "exponential", "capped", "callable"],
)
async def test_attempts_are_spaced_as_asked(place: Place, backoff: Any, delays: list[int]):
    """No attempt of a step begins earlier than its back-off says, by the store's clock."""
    flaky = Flaky(*[ConnectionError("err")] * 3)
    _, history = await outcome(place, one_step(flaky, max_attempts=4, backoff=backoff))
    [work] = history.steps
    starts = [*(failed.started_at for failed in work.failed[1:]), work.started_at]
    pauses = [start - failed.ended_at for failed, start in zip(work.failed, starts, strict=True)]
    for pause, delay in zip(pauses, delays, strict=True):
        assert timedelta(milliseconds=delay) <= pause < timedelta(seconds=3)


@pytest.mark.parametrize(
    "retry_on, calls",
    [
        (None, 3),
        (ConnectionError, 3),
        ((ValueError, OSError), 3),
        (ValueError, 1),
        (lambda error: "again" in str(error), 3),
        (lambda error: "never" in str(error), 1),
    ],
)
async def test_only_errors_worth_it_are_tried_again(place: Place, retry_on: Any, calls: int):
    """retry_on takes classes or a predicate; what it declines fails at once."""
    flaky = Flaky(*[ConnectionError("again")] * 3)
    define = one_step(flaky, max_attempts=3, backoff=constant("2ms"), retry_on=retry_on)
    error, _ = await outcome(place, define)
    assert isinstance(error.__cause__, ConnectionError)
    assert flaky.calls == calls


async def test_non_retryable_ends_a_step_at_once(place: Place):
    """NonRetryable is not tried again, whatever attempts are left."""
    flaky = Flaky(NonRetryable("give up"))
    error, _ = await outcome(place, one_step(flaky, max_attempts=5))
    assert isinstance(error.__cause__, NonRetryable)
    assert flaky.calls == 1


async def test_retry_after_chooses_its_delay(place: Place):
    """RetryAfter overrides the back-off, and counts as an attempt."""
    flaky = Flaky(RetryAfter("20ms", "busy"))
    result, history = await outcome(place, one_step(flaky, max_attempts=2, backoff=constant("1h")))
    [work] = history.steps
    assert result == "call 2"
    assert work.started_at - work.failed[0].ended_at >= timedelta(milliseconds=20)
    assert work.failed[0].error.endswith("RetryAfter: busy")


async def test_what_cannot_be_stored_is_not_tried_again(place: Place):
    """A result that the codec refuses fails the step once, where it is produced."""
    calls: list[int] = []

    async def work() -> Any:
        calls.append(1)
        return {"socket": object()}

    error, _ = await outcome(place, one_step(work, max_attempts=5))
    assert "$" in str(error.__cause__)
    assert "socket" in str(error.__cause__)
    assert len(calls) == 1


# --- attempts and kills -------------------------------------------------------------------------


async def test_back_off_outlives_a_kill(place: Place):
    """After a kill the next attempt is not early, and the count of attempts goes on."""
    flaky = Flaky(*[ConnectionError("down")] * 9)
    define = one_step(flaky, max_attempts=3, backoff=constant("150ms"))
    async with place.life(define) as life:
        run = await life.flow.enqueue()
        due_at = (await life.reaches(run, "waiting", "retry")).due_at
        await life.kill()
    async with place.life(define) as life:
        with pytest.raises(RunFailed, match="down"):
            await life.get(run).result(timeout="5s")
        [work] = (await life.get(run).history()).steps
    assert flaky.calls == work.tries == 3
    assert work.failed[1].started_at >= due_at


async def test_back_off_outlives_a_kill_before_the_suspension(place: Place):
    """The due time is stored with the failed attempt, not with the suspension that follows."""
    flaky = Flaky(ConnectionError("down"))
    define = one_step(flaky, max_attempts=2, backoff=constant("100ms"))

    async with place.life(define) as life:
        run = await life.flow.enqueue()

        async def is_pending() -> bool:
            return [record.outcome for record in (await run.history()).steps] == ["pending"]

        await eventually(is_pending)
        [before] = (await run.history()).steps
        await life.kill()
    async with place.life(define) as life:
        assert await life.get(run).result(timeout="5s") == "call 2"
        [work] = (await life.get(run).history()).steps
    assert work.started_at >= before.due_at
    assert work.tries == 2


async def test_an_attempt_cut_off_by_a_kill_is_not_counted(place: Place):
    """An attempt that was in flight at a kill is executed again under the same number."""
    halt = Halt()
    calls: list[int] = []

    async def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        await halt()
        return len(calls)

    define = one_step(work, max_attempts=2, backoff=constant("5ms"))
    run = await half_way(place, define, halt)
    async with place.life(define) as life:
        assert await life.get(run).result(timeout="5s") == 3
        [record] = (await life.get(run).history()).steps
    assert record.tries == 2
    assert len(record.failed) == 1


async def test_a_run_that_kills_its_workers_is_stopped(place: Place):
    """Claims that die in a row without a new checkpoint end the run as failed for `crash`."""

    def define(app: App) -> Any:
        @app.workflow
        async def deadly() -> None:
            await asyncio.get_running_loop().create_future()

        return deadly

    async with place.client(define) as client:
        run = await client.flow.enqueue()
        for _ in range(3):
            async with place.life(define, crash_cap=3) as life:
                await life.reaches(run, "running")
                await life.kill()
        async with place.life(define, crash_cap=3):
            with pytest.raises(RunFailed) as caught:
                await run.result(timeout="5s")
        history = await run.history()
    assert caught.value.reason == "crash"
    assert [attempt.outcome for attempt in history.attempts] == ["crashed"] * 3
    assert history.attempt == 1


# --- timeouts -----------------------------------------------------------------------------------


async def test_an_async_step_that_takes_too_long_times_out(place: Place):
    """A step over its timeout is cancelled, raises StepTimeout, and is recorded as `timeout`."""
    cancelled: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    error, history = await outcome(place, one_step(work, max_attempts=1, timeout="20ms"))
    assert isinstance(error.__cause__, StepTimeout)
    assert "timeout of 0.02 s" in str(error.__cause__)
    assert history.steps[0].outcome == "timeout"
    assert cancelled == [True]


async def test_a_timeout_counts_as_an_attempt(place: Place):
    """A step that hung is tried again, as after any error."""
    calls: list[int] = []

    async def work() -> str:
        calls.append(1)
        if len(calls) < 3:
            await asyncio.Event().wait()
        return "at last"

    define = one_step(work, max_attempts=3, timeout="20ms", backoff=constant("2ms"))
    result, history = await outcome(place, define)
    [record] = history.steps
    assert result == "at last"
    assert record.tries == 3
    assert all("StepTimeout" in failed.error for failed in record.failed)


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_late_outcome_of_an_async_step_is_refused(place: Place, how: str):
    """What a step makes of its cancellation by the timeout does not count: it is a timeout."""

    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "raises":
                raise ValueError("late") from None
        return "late"

    async def flow() -> list[Any]:
        try:
            got = await step.options(max_attempts=1, timeout="20ms")("work", work)
        except StepTimeout:
            got = "timeout"
        task = asyncio.current_task()
        assert task is not None
        return [got, task.cancelling()]

    def define(app: App) -> Any:
        return app.workflow(flow)

    result, history = await outcome(place, define)
    assert result == ["timeout", 0]
    assert history.steps[0].outcome == "timeout"


async def test_a_late_result_of_a_thread_is_refused(place: Place):
    """A step written with `def` cannot be stopped: it times out, and its result comes too late."""
    let_go, ended = threading.Event(), threading.Event()

    def work() -> str:
        let_go.wait(10)
        ended.set()
        return "late"

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            try:
                return await step.options(max_attempts=1, timeout="20ms")("work", work)
            except StepTimeout:
                let_go.set()
                await asyncio.to_thread(ended.wait, 10)
                return await step("next", Flaky())

        return flow

    result, history = await outcome(place, define)
    assert result == "call 1"
    assert [record.outcome for record in history.steps] == ["timeout", "ok"]


async def test_a_body_over_its_timeout_fails_with_that_reason(place: Place):
    """A run's timeout holds for one attempt of its body; attempts are made as after an error."""
    passes: list[int] = []

    def define(app: App) -> Any:
        @app.workflow(timeout="30ms", max_attempts=2, backoff=constant("5ms"))
        async def flow() -> None:
            passes.append(1)
            await asyncio.Event().wait()

        return flow

    error, history = await outcome(place, define)
    assert error.reason == "timeout"
    assert isinstance(error.__cause__, StepTimeout)
    assert history.attempt == len(passes) == 2
    assert [attempt.outcome for attempt in history.attempts] == ["failed"]


# --- caught errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 1, None),
        OutOfStock("bolts", 3),
        KeyError("missing"),
        OSError(28, "No space left on device", "file"),
        ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
        NonRetryable("no"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_caught_error_replays_as_itself(place: Place, error: Exception):
    """The body sees the same class, arguments and state on the first pass and on the replay."""
    halt = Halt()
    seen: list[Any] = []

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> str:
            try:
                await ONCE("fails", Flaky(error, error))
            except Exception as caught:  # noqa: BLE001 -- each of the cases
                inner = getattr(caught, "exceptions", ())
                state = {k: v for k, v in vars(caught).items() if not k.startswith("__")}
                seen.append(
                    (type(caught), str(caught), caught.args[:1], state, list(map(repr, inner)))
                )
            await halt()
            return "went on"

        return flow

    assert await killed_and_finished(place, define, halt) == "went on"
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][:2] == (type(error), str(error))


async def test_an_error_that_cannot_be_rebuilt_is_the_same_twice(place: Place):
    """An error of a local class is StepFailed on the first pass already, naming the original."""
    halt = Halt()
    seen: list[tuple[type, str, str]] = []

    class Local(Exception):
        pass

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> None:
            try:
                await ONCE("fails", Flaky(Local("mine"), Local("mine")))
            except StepFailed as caught:
                seen.append((type(caught), str(caught), caught.error_type))
            await halt()

        return flow

    await killed_and_finished(place, define, halt)
    assert seen[0] == seen[1]
    assert "Local" in seen[0][2]


async def test_a_caught_timeout_replays_as_a_timeout(place: Place):
    """A StepTimeout that the body caught is raised again by the replay, without waiting."""
    halt = Halt()
    seen: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def flow() -> None:
            try:
                await step.options(max_attempts=1, timeout="20ms")("hangs", asyncio.Event().wait)
            except StepTimeout as caught:
                seen.append(str(caught))
            await halt()

        return flow

    await killed_and_finished(place, define, halt)
    assert len(seen) == 2
    assert seen[0] == seen[1]


# --- attempts of a run --------------------------------------------------------------------------


class Order:
    """A flow of three steps, the second of which fails a number of times."""

    def __init__(self, failures: int, **options: Any) -> None:
        self.effects: list[str] = []
        self.failures = failures
        self.options = options

    def __call__(self, app: App) -> Any:
        """Declare it."""

        async def work(name: str) -> str:
            self.effects.append(name)
            if name == "charge" and self.effects.count("charge") <= self.failures:
                raise ConnectionError(f"no. {self.effects.count('charge')}")
            return name.upper()

        @app.workflow(**self.options)
        async def order() -> list[str]:
            return [await ONCE(name, work, name) for name in ("pick", "charge", "ship")]

        return order


async def test_a_new_attempt_of_a_run_repeats_the_culprit_alone(place: Place):
    """Attempts of the whole run repeat the step that failed, and no step that succeeded."""
    order = Order(2, max_attempts=3, backoff=constant("5ms"))
    result, history = await outcome(place, order)
    assert result == ["PICK", "CHARGE", "SHIP"]
    assert order.effects == ["pick", "charge", "charge", "charge", "ship"]
    assert history.attempt == 3
    assert [(a.number, a.outcome, a.error) for a in history.attempts] == [
        (1, "failed", "ConnectionError: no. 1"),
        (2, "failed", "ConnectionError: no. 2"),
    ]


async def test_a_run_fails_when_its_attempts_are_used_up(place: Place):
    """After max_attempts of the run it is failed with the last error."""
    order = Order(9, max_attempts=2, backoff=constant("5ms"))
    error, history = await outcome(place, order)
    assert str(error.__cause__) == "no. 2"
    assert error.reason == "error"
    assert history.status == Status.FAILED


async def test_a_call_may_choose_the_attempts_of_its_run(place: Place):
    """options(max_attempts=…) overrides the definition's for one run."""
    order = Order(1, backoff=constant("5ms"))
    async with place.life(order) as life:
        run = await life.flow.options(max_attempts=2).enqueue()
        assert await run.result(timeout="5s") == ["PICK", "CHARGE", "SHIP"]


async def test_a_runs_back_off_outlives_a_kill(place: Place):
    """A run between its attempts waits in the store, and no worker starts it early."""
    order = Order(1, max_attempts=2, backoff=constant("120ms"))
    async with place.life(order) as life:
        run = await life.flow.enqueue()
        due_at = (await life.reaches(run, "waiting", "retry")).due_at
        await life.kill()
    async with place.life(order) as life:
        assert await life.get(run).result(timeout="5s") == ["PICK", "CHARGE", "SHIP"]
        history = await life.get(run).history()
    assert history.steps[1].started_at >= due_at
    assert order.effects == ["pick", "charge", "charge", "ship"]


async def test_a_bodys_own_error_is_tried_again(place: Place):
    """An error raised outside of any step uses up an attempt of the run; its steps stand."""
    effects: list[str] = []
    flaky = Flaky()

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("5ms"))
        async def flow() -> str:
            result = await step("work", flaky)
            effects.append("pass")
            if len(effects) == 1:
                raise LookupError("own")
            return result

        return flow

    result, history = await outcome(place, define)
    assert result == "call 1"
    assert history.attempts[0].error == "LookupError: own"


async def test_non_retryable_ends_a_run_at_once(place: Place):
    """NonRetryable from a body fails the run, whatever attempts are left."""

    def define(app: App) -> Any:
        @app.workflow(max_attempts=5)
        async def flow() -> None:
            raise NonRetryable("pointless")

        return flow

    error, history = await outcome(place, define)
    assert isinstance(error.__cause__, NonRetryable)
    assert history.attempt == 1


async def test_a_caught_failure_stands_when_another_fails_the_run(place: Place):
    """A step whose error the body handled is not tried again by a new attempt of the run."""
    handled, culprit = Flaky(ValueError("handled"), None), Flaky(ValueError("fatal"))

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("5ms"))
        async def flow() -> list[str]:
            try:
                first = await ONCE("handled", handled)
            except ValueError as error:
                first = str(error)
            return [first, await ONCE("culprit", culprit)]

        return flow

    result, _ = await outcome(place, define)
    assert result == ["handled", "call 2"]
    assert handled.calls == 1


async def test_the_culprits_in_a_group_are_all_tried_again(place: Place):
    """Of a TaskGroup's branches those that failed are executed again, the others replayed."""
    bodies = {name: Flaky(*errors) for name, errors in {
        "a": [ValueError("a")], "b": [], "c": [ValueError("c")],
    }.items()}  # fmt: skip
    all_began = asyncio.Barrier(3)

    async def together(name: str) -> str:
        if bodies[name].calls == 0:
            await all_began.wait()
        return await bodies[name]()

    def define(app: App) -> Any:
        @app.workflow(max_attempts=2, backoff=constant("5ms"))
        async def flow() -> list[str]:
            results = await asyncio.gather(
                *(ONCE(name, together, name) for name in bodies), return_exceptions=True
            )
            if errors := [error for error in results if isinstance(error, Exception)]:
                raise ExceptionGroup("some", errors)
            return [str(result) for result in results]

        return flow

    result, _ = await outcome(place, define)
    assert result == ["call 2", "call 1", "call 2"]


# --- an operator tries again --------------------------------------------------------------------


async def test_a_failed_run_is_retried_by_hand(place: Place):
    """retry() repeats the culprit and no step that succeeded, and keeps the failed attempt."""
    order = Order(1)
    async with place.life(order) as life:
        run = await life.flow.enqueue()
        with pytest.raises(RunFailed, match="no\\. 1"):
            await run.result(timeout="5s")
        assert await run.retry() in {Status.QUEUED, Status.RUNNING}
        assert await run.result(timeout="5s") == ["PICK", "CHARGE", "SHIP"]
        history = await run.history()
    assert order.effects == ["pick", "charge", "charge", "ship"]
    assert history.attempt == 2
    assert [(a.number, a.outcome) for a in history.attempts] == [(1, "failed")]


async def test_a_failed_run_is_retried_by_hand_after_a_kill(place: Place):
    """The culprits are stored with the failure: another process may retry the run."""
    order = Order(1)
    async with place.life(order) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "failed")
        await life.kill()
    async with place.client(order) as client:
        await client.get(run).retry()
    assert await finished(place, order, run) == ["PICK", "CHARGE", "SHIP"]
    assert order.effects == ["pick", "charge", "charge", "ship"]


async def test_a_cancelled_run_is_retried_by_hand(place: Place):
    """retry() takes a cancelled run up again where it stood."""
    order = Order(0)
    async with place.client(order) as client:
        run = await client.flow.enqueue()
        await run.cancel()
        await run.retry()
    assert await finished(place, order, run) == ["PICK", "CHARGE", "SHIP"]


async def test_a_run_that_did_not_fail_cannot_be_retried(place: Place):
    """retry() of a completed run, or of one that goes on, is refused and changes nothing."""
    order = Order(0)
    async with place.client(order) as client:
        run = await client.flow.enqueue()
        with pytest.raises(InvalidTransition, match="queued"):
            await run.retry()
        async with place.life(order):
            await run.result(timeout="5s")
        with pytest.raises(InvalidTransition, match="completed"):
            await run.retry()
        assert (await run.history()).attempt == 1
