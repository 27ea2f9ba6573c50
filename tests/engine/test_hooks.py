"""What hooks are told of runs, steps and workers: in order, once, after the commit, on every store.

Listeners here are `async def` and take notes; a life that stops has delivered everything.
"""

import asyncio
import contextlib
import logging
import random
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from perdure import App, NonRetryable, Run, Worker, constant, step, telemetry
from perdure._runtime.worker import crash_evidence
from perdure.errors import RunCancelled, RunFailed, StoreBusy, StoreClosed
from perdure.model.leader import Lead
from perdure.model.transitions import Outcome, RescueWorker, Settle, Transition
from perdure.stores.memory import MemoryStore
from perdure.telemetry import Hook, OfRun, StepHook
from tests.engine.places import Halt, Life, Place, eventually, half_way

AT_ONCE = constant("1ms")
LONG = {"poll": "1h", "lease": "1h", "heartbeat": "1m"}


class Notes:
    """Everything that an app tells, or one kind of it."""

    def __init__(self, app: App, kind: type[Hook] = Hook) -> None:
        self.hooks: list[Any] = []
        app.on(kind)(self._take)

    async def _take(self, hook: Hook) -> None:
        self.hooks.append(hook)

    def of(self, kind: type[Hook]) -> list[Any]:
        """Return what was told of a kind."""
        return [hook for hook in self.hooks if isinstance(hook, kind)]

    def lines(self, kind: type[Hook] = OfRun, run: Run[Any] | None = None) -> list[str]:
        """Return what was told, a short line each."""
        return [_line(hook) for hook in self.of(kind) if run is None or hook.run_id == run.id]


def _line(hook: Any) -> str:
    words = [type(hook).__name__]
    if isinstance(hook, StepHook):
        words += [hook.step, str(hook.step_attempt)]
    elif isinstance(hook, OfRun):
        words.append(str(hook.attempt))
    if getattr(hook, "will_retry", False):
        words.append("will retry")
    return " ".join(words)


def noted(define: Callable[[App], Any], notes: list[Notes]) -> Callable[[App], Any]:
    """Return a definition whose app takes notes from the start."""

    def defined(app: App) -> Any:
        notes.append(Notes(app))
        return define(app)

    return defined


async def ended(run: Run[Any]) -> None:
    """Wait until the run has ended, however it does."""
    with contextlib.suppress(RunFailed, RunCancelled):
        await run.result(timeout="10s")


async def test_a_run_tells_everything_in_order(place: Place):
    """Its start, each attempt of its step, its own failed attempt, the next one and its end."""
    tries: list[int] = []

    def define(app: App) -> Any:
        async def charge() -> str:
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError("no answer")
            return "receipt"

        @app.workflow(max_attempts=2, backoff=AT_ONCE)
        async def order() -> str:
            receipt = await step.options(backoff=AT_ONCE)("charge", charge)
            if len(tries) == 2:
                tries.append(1)
                raise ValueError("not yet")
            return receipt

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes)) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="10s") == "receipt"
    told = [line for line in notes[0].lines() if "Suspended" not in line]
    assert [line for line in told if "Step" in line] == [
        "StepStarted charge 1",
        "StepFailed charge 1 will retry",
        "StepRetryScheduled charge 2",
        "StepStarted charge 2",
        "StepCompleted charge 2",
    ]
    assert told[0] == "RunStarted 1"
    assert told[-4:] == [
        "RunFailed 1 will retry",
        "RunRetryScheduled 2",
        "RunResumed 2",
        "RunCompleted 2",
    ]


async def test_records_say_who_where_and_how_long(place: Place):
    """Names, ids, instants in UTC and lengths of time are those of the run."""

    def define(app: App) -> Any:
        async def charge() -> None:
            raise NonRetryable("card refused")

        @app.workflow(queue="default")
        async def order() -> None:
            await step("charge", charge)

        return order

    notes: list[Notes] = []
    before = datetime.now(UTC) - timedelta(seconds=5)
    async with place.life(noted(define, notes)) as life:
        run = await life.flow.enqueue()
        await ended(run)
    [started] = notes[0].of(telemetry.RunStarted)
    [failed] = notes[0].of(telemetry.RunFailed)
    [step_failed] = notes[0].of(telemetry.StepFailed)
    assert life.worker is not None
    assert (failed.run_id, failed.name, failed.queue) == (run.id, "order", "default")
    assert (failed.worker_id, failed.parent_id) == (life.worker.worker_id, None)
    assert (failed.reason, failed.will_retry) == ("error", False)
    assert failed.error.message == step_failed.error.message == "card refused"
    assert failed.error.type.endswith("NonRetryable")
    assert (step_failed.will_retry, step_failed.timeout) == (False, False)
    assert before < started.at <= step_failed.at <= failed.at
    assert timedelta(0) <= started.queued < timedelta(seconds=10)
    assert timedelta(0) < failed.duration < timedelta(seconds=10)
    assert failed.at.utcoffset() == timedelta(0)


async def test_a_replay_tells_nothing_again(place: Place):
    """A body that was suspended and replayed told of its step once, and of both claims."""
    may_end = asyncio.Event()

    def define(app: App) -> Any:
        async def pick() -> int:
            return 1

        @app.workflow
        async def child() -> int:
            await may_end.wait()
            return 2

        @app.workflow
        async def order() -> int:
            picked = await step("pick", pick)
            return picked + await (await child.enqueue()).result()

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes)) as life:
        run = await life.flow.enqueue()
        await life.reaches(run, "waiting", "child")
        may_end.set()
        assert await run.result(timeout="10s") == 3
    assert notes[0].lines(run=run) == [
        "RunStarted 1",
        "StepStarted pick 1",
        "StepCompleted pick 1",
        "RunSuspended 1",
        "RunResumed 1",
        "RunCompleted 1",
    ]
    [suspended] = notes[0].of(telemetry.RunSuspended)
    assert (suspended.waiting_for, suspended.due_at) == (("child",), None)
    [child] = [hook for hook in notes[0].of(telemetry.RunStarted) if hook.name == "child"]
    assert child.parent_id == run.id


async def test_a_crash_between_commit_and_hook_loses_the_hook(place: Place):
    """At most once: what the dead process had not told, nobody tells."""

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> int:
            return 1

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes)) as life:
        life.store.doom = lambda batch: any(isinstance(one, Settle) for one in batch)
        run = await life.flow.enqueue()
        await life.store.died.wait()
        await life.kill()
    async with place.life(noted(define, notes)) as life:
        assert await life.get(run).result(timeout="10s") == 1
    assert notes[0].lines() == ["RunStarted 1"]
    assert notes[1].lines() == []


async def test_a_refused_end_tells_nothing(place: Place):
    """A worker that was held for dead meanwhile tells of its loss, and of the end only once."""
    may_end = asyncio.Event()
    begun = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> int:
            begun.set()
            await may_end.wait()
            return 1

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes), **LONG) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(begun.wait(), 10)
        assert life.worker is not None
        lost = life.worker.worker_id
        await life.store.apply([RescueWorker(lost, None, 10, crash_evidence(10))])
        may_end.set()
        assert await run.result(timeout="10s") == 1
        found = life.worker.worker_id
        assert life.worker.leader is not None
        await eventually(lambda: life.worker.leader.lead == Lead(found, 2))  # type: ignore[union-attr]
    assert notes[0].lines() == ["RunStarted 1", "RunResumed 1", "RunCompleted 1"]
    workers = [(_line(hook), hook.worker_id) for hook in notes[0].of(telemetry.WorkerHook)]
    assert workers == [
        ("WorkerReady", lost),
        ("LeaderElected", lost),
        ("WorkerLost", lost),
        ("LeaderLost", lost),
        ("WorkerReady", found),
        ("LeaderElected", found),
        ("LeaderLost", found),
        ("WorkerStopped", found),
    ]


async def test_cancelling_tells_once_wherever_the_run_is(place: Place):
    """A run that is executing, and one that no worker holds."""
    begun = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            begun.set()
            await asyncio.get_running_loop().create_future()

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes)) as life:
        executing = await life.flow.enqueue()
        waiting = await life.flow.delay("1h")
        await asyncio.wait_for(begun.wait(), 10)
        await waiting.cancel()
        await executing.cancel(wait=True)
    assert notes[0].lines(run=executing) == ["RunStarted 1", "RunCancelled 1"]
    assert notes[0].lines(run=waiting) == ["RunCancelled 1"]
    holders = {hook.run_id: hook.worker_id for hook in notes[0].of(telemetry.RunCancelled)}
    assert life.worker is not None
    assert holders == {executing.id: life.worker.worker_id, waiting.id: None}


async def has_beaten(life: Life) -> bool:
    """Tell whether the life's worker has given its first sign of life."""
    [worker] = await life.store.workers()
    return worker.beat > 0


async def test_a_step_that_ends_while_its_run_is_cancelled_is_told(place: Place):
    """Its result is recorded, and the answer to that is how the worker hears of the cancel."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    def define(app: App) -> Any:
        async def charge() -> None:
            begun.set()
            await may_end.wait()

        @app.workflow
        async def order() -> None:
            await step("charge", charge)

        return order

    notes: list[Notes] = []
    async with place.client(define) as client, place.life(noted(define, notes), **LONG) as life:
        run = await life.flow.enqueue()
        await asyncio.wait_for(begun.wait(), 10)
        await eventually(lambda: has_beaten(life))  # the next beat, in a minute, would tell, too
        await client.get(run).cancel()
        may_end.set()
        await ended(run)
    assert notes[0].lines() == [
        "RunStarted 1",
        "StepStarted charge 1",
        "StepCompleted charge 1",
        "RunCancelled 1",
    ]


def thrice(app: App) -> Any:
    """A workflow that fails three times, behind steps that are written one by one."""

    async def nothing() -> None:
        return None

    @app.workflow(max_attempts=3, backoff=constant("0s"))
    async def order() -> None:
        for _ in range(20):
            await step("one", nothing)
        raise RuntimeError("again")

    return order


THRICE = [
    "RunStarted 1",
    "RunFailed 1 will retry",
    "RunRetryScheduled 2",
    "RunResumed 2",
    "RunFailed 2 will retry",
    "RunRetryScheduled 3",
    "RunResumed 3",
    "RunFailed 3",
]


async def test_an_end_is_told_before_the_claim_that_rides_with_it(place: Place):
    """An attempt that is due at once is claimed in the batch that ends the one before."""
    notes: list[Notes] = []
    async with place.life(noted(thrice, notes)) as life:
        await ended(await life.flow.enqueue())
    assert notes[0].lines(telemetry.RunHook) == THRICE


class Prompt(MemoryStore):
    """A store that answers before the asking returns, where a committer asks it to."""

    def apply_at_once(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply a batch; the memory store never waits in the middle of one."""
        applying = self.apply(batch)
        try:
            applying.send(None)
        except StopIteration as stop:
            outcomes: list[Outcome] = stop.value
            return outcomes
        raise AssertionError("the memory store waits")


async def test_an_end_that_is_answered_at_once_is_told_before_its_claim():
    """The claim's answer is there, and its run begun, before whoever ended the last one goes on."""
    app = App(Prompt())
    notes = Notes(app, telemetry.RunHook)
    order = thrice(app)
    async with app, Worker(app):
        await ended(await order.enqueue())
    assert notes.lines() == THRICE


async def test_a_mismatch_tells_of_the_pause(place: Place):
    """With the step that does not fit, and without its arguments."""
    halt = Halt()

    def define(argument: str) -> Callable[[App], Any]:
        def defined(app: App) -> Any:
            async def pick(what: str) -> None:
                return None

            @app.workflow(version=argument)
            async def order() -> None:
                await step("pick", pick, argument)
                await halt()

            return order

        return defined

    run = await half_way(place, define("secret"), halt)
    notes: list[Notes] = []
    async with place.life(noted(define("other"), notes)) as life:
        await life.reaches(life.get(run), "paused")
    [paused] = notes[0].of(telemetry.RunPaused)
    assert (paused.reason, paused.step) == ("mismatch", "pick")
    assert "secret" not in repr(notes[0].hooks)


async def test_a_rescue_tells_whose_runs_go_on(place: Place):
    """The worker that gives a dead one's runs back says so, before they are resumed."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> int:
            await halt()
            return 1

        return order

    run = await half_way(place, define, halt)
    [dead] = place.killed
    notes: list[Notes] = []
    async with place.life(noted(define, notes)) as life:
        assert await life.get(run).result(timeout="10s") == 1
    [rescued] = notes[0].of(telemetry.RunsRescued)
    assert (rescued.dead_worker_id, rescued.queued, rescued.ended) == (dead, (run.id,), ())
    assert notes[0].lines() == ["RunResumed 1", "RunCompleted 1"]


async def test_a_run_that_crashed_too_often_tells_that_it_failed(place: Place):
    """Nobody executes it then: the worker that stops it tells."""
    halt = Halt()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            await halt()

        return order

    run = await half_way(place, define, halt)
    notes: list[Notes] = []
    async with place.life(noted(define, notes), crash_cap=1):
        pass
    [failed] = notes[0].of(telemetry.RunFailed)
    assert (failed.run_id, failed.reason, failed.worker_id) == (run.id, "crash", None)
    assert "died" in failed.error.message
    [rescued] = notes[0].of(telemetry.RunsRescued)
    assert rescued.ended == (run.id,)


async def test_a_stop_tells_of_the_runs_it_hands_back(place: Place):
    """The run is released before the worker has stopped; the next claim resumes it."""
    begun = asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def order() -> None:
            begun.set()
            await asyncio.get_running_loop().create_future()

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes), grace="1ms", scheduler=False) as life:
        await life.flow.enqueue()
        await asyncio.wait_for(begun.wait(), 10)
    assert notes[0].lines(Hook) == [
        "AppReady",
        "WorkerReady",
        "RunStarted 1",
        "RunReleased 1",
        "WorkerStopped",
    ]


async def test_steps_given_up_and_failed_within_steps(place: Place):
    """The loser of a race is cancelled; a failure inside a step is final for that attempt of it."""
    tries: list[int] = []
    begun = asyncio.Event()

    def define(app: App) -> Any:
        async def slow() -> None:
            begun.set()
            await asyncio.get_running_loop().create_future()

        async def part() -> int:
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError("once")
            return 1

        async def whole() -> int:
            return await step.options(max_attempts=1)("part", part)

        @app.workflow
        async def order() -> int:
            loser = asyncio.ensure_future(step("slow", slow))
            await begun.wait()
            loser.cancel()
            return await step.options(backoff=AT_ONCE)("whole", whole)

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes)) as life:
        assert await (await life.flow.enqueue()).result(timeout="10s") == 1
    told = notes[0].lines(StepHook)
    assert [line for line in told if "slow" not in line] == [
        "StepStarted whole 1",
        "StepStarted whole/part 1",
        "StepFailed whole/part 1",
        "StepFailed whole 1 will retry",
        "StepRetryScheduled whole 2",
        "StepStarted whole 2",
        "StepStarted whole/part 1",
        "StepCompleted whole/part 1",
        "StepCompleted whole 2",
    ]
    assert [line for line in told if "slow" in line] == [
        "StepStarted slow 1",
        "StepCancelled slow 1",
    ]


def three_steps(app: App) -> Any:
    """A workflow of three steps."""

    async def nothing() -> None:
        return None

    @app.workflow
    async def order() -> int:
        for _ in range(3):
            await step("one", nothing)
        return 1

    return order


IN_ORDER = ["RunStarted", *["StepStarted", "StepCompleted"] * 3, "RunCompleted"]


async def test_runs_interleave_and_each_stays_in_order(place: Place):
    """Slow listeners of both kinds hear one run's records in order, other runs' in between."""
    heard: list[tuple[str, str]] = []
    heard_in_threads: list[tuple[str, str]] = []

    def define(app: App) -> Any:
        @app.on(OfRun)
        async def dawdle(hook: OfRun) -> None:
            for _ in range(len(heard) % 5):
                await asyncio.sleep(0)
            heard.append((hook.run_id, type(hook).__name__))

        @app.on(OfRun)
        def note(hook: OfRun) -> None:
            assert threading.current_thread().name.startswith("perdure-hook")
            heard_in_threads.append((hook.run_id, type(hook).__name__))

        return three_steps(app)

    async with place.life(define) as life:
        runs = [await life.flow.enqueue() for _ in range(20)]
        await asyncio.gather(*(run.result(timeout="20s") for run in runs))
    for told in (heard, heard_in_threads):
        for run in runs:
            assert [kind for run_id, kind in told if run_id == run.id] == IN_ORDER
    changes = sum(one[0] != other[0] for one, other in pairwise(heard))
    assert changes > len(runs), "runs were told one after another"


async def test_a_slow_listener_holds_no_run_up(place: Place):
    """The run ends while its first record is still with a listener."""
    may_go_on = asyncio.Event()
    heard: list[str] = []

    def define(app: App) -> Any:
        @app.on(OfRun)
        async def wait(hook: OfRun) -> None:
            await may_go_on.wait()
            heard.append(type(hook).__name__)

        return three_steps(app)

    async with place.life(define) as life:
        assert await (await life.flow.enqueue()).result(timeout="10s") == 1
        assert heard == []
        may_go_on.set()
    assert heard == IN_ORDER


async def test_a_listener_that_raises_changes_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
):
    """Of whatever kind it is, the run completes, the other listeners hear, the log says so."""

    def define(app: App) -> Any:
        @app.on(OfRun)
        async def awaited(hook: OfRun) -> None:
            raise RuntimeError("awaited listener")

        @app.on(OfRun)
        def threaded(hook: OfRun) -> None:
            raise RuntimeError("threaded listener")

        @app.on(OfRun)
        async def cancelled(hook: OfRun) -> None:
            raise asyncio.CancelledError("nobody asked")

        return three_steps(app)

    def define_with_notes(app: App) -> Any:
        flow = define(app)
        notes.append(Notes(app))
        return flow

    notes: list[Notes] = []
    async with place.life(define_with_notes) as life:
        run = await life.flow.enqueue()
        assert await run.result(timeout="10s") == 1
        history = await run.history()
    assert [type(hook).__name__ for hook in notes[0].of(OfRun)] == IN_ORDER
    assert [record.outcome for record in history.steps] == ["ok"] * 3
    failures = [record for record in caplog.records if record.name == "perdure.hooks"]
    assert len(failures) == 3 * len(IN_ORDER)
    assert {record.levelno for record in failures} == {logging.ERROR}
    first: Any = failures[0]
    assert first.fact == "listener failed; nothing else changed"
    assert (first.kind, first.run_id, first.definition) == ("RunStarted", run.id, "order")
    assert first.listener.endswith("define.<locals>.awaited")
    assert first.exc_info is not None


async def test_listeners_of_a_definition_hear_of_its_runs_only(place: Place):
    """Those of the app hear of all."""
    heard: list[str] = []
    here: list[str] = []

    def define(app: App) -> Any:
        @app.workflow
        async def other() -> None:
            return None

        order = three_steps(app)

        @order.on(telemetry.RunCompleted)
        async def own(completed: telemetry.RunCompleted) -> None:
            here.append(completed.name)

        @app.on(telemetry.RunCompleted)
        async def every(completed: telemetry.RunCompleted) -> None:
            heard.append(completed.name)

        return order, other

    async with place.life(define) as life:
        for flow in life.flow:
            await (await flow.enqueue()).result(timeout="10s")
    assert here == ["order"]
    assert sorted(heard) == ["order", "other"]


async def test_a_listener_can_stop_listening(place: Place):
    """After `off` nothing more is told to it; the function can be called all the same."""
    heard: list[Hook] = []

    def define(app: App) -> Any:
        @app.on(telemetry.RunCompleted)
        async def listener(completed: telemetry.RunCompleted) -> None:
            heard.append(completed)

        return three_steps(app), listener

    async with place.life(define) as life:
        flow, listener = life.flow
        await (await flow.enqueue()).result(timeout="10s")
        await eventually(lambda: heard)
        listener.off()
        listener.off()
        await (await flow.enqueue()).result(timeout="10s")
    [completed] = heard
    await listener(completed)
    assert heard == [completed, completed]


async def test_a_listener_is_no_part_of_the_run(place: Place):
    """What it starts is nobody's child, and a step that it calls is recorded nowhere."""
    started: list[Run[Any]] = []

    def define(app: App) -> Any:
        @app.step
        async def look() -> None:
            return None

        @app.workflow
        async def other() -> None:
            return None

        order = three_steps(app)

        @order.on(telemetry.StepStarted)
        async def react(hook: telemetry.StepStarted) -> None:
            await look()
            started.append(await other.enqueue())

        return order

    async with place.life(define) as life:
        run = await life.flow.enqueue()
        await run.result(timeout="10s")
        await eventually(lambda: len(started) == 3)
        for one in started:
            await one.result(timeout="10s")
            record = await life.store.get(one.id)
            assert record.parent_id is None
        assert [record.path for record in (await run.history()).steps] == ["one"] * 3


async def test_no_hook_holds_a_payload(place: Place):
    """Neither input nor arguments, results, meta; an error's message is the user's own text."""

    def define(app: App) -> Any:
        async def echo(text: str) -> str:
            if "fails" in text:
                raise ValueError("its message")
            return text

        @app.workflow(max_attempts=2, backoff=AT_ONCE)
        async def order(text: str) -> str:
            await step("echo", echo, text)
            await step.options(max_attempts=1)("fails", echo, text + "fails")
            return text

        return order

    notes: list[Notes] = []
    async with place.life(noted(define, notes)) as life:
        flow = life.flow.options(meta={"key": "payload-marker"})
        await ended(await flow.enqueue("payload-marker"))
    assert len(notes[0].of(telemetry.RunFailed)) == 2
    assert "payload-marker" not in repr(notes[0].hooks)


CLAIMS = {"RunStarted", "RunResumed"}
ENDS = {
    *("RunSuspended", "RunReleased", "RunContinued", "RunPaused"),
    *("RunCompleted", "RunFailed", "RunCancelled"),
}


def check_story(hooks: list[Any]) -> None:
    """Fail unless one run's records tell of claims and ends in turn, and of each attempt once."""
    kinds = [type(hook).__name__ for hook in hooks]
    turns = [kind for kind in kinds if kind in CLAIMS | ENDS]
    assert all(kind in CLAIMS for kind in turns[::2]), kinds
    assert all(kind in ENDS for kind in turns[1::2]), kinds
    assert kinds.count("RunStarted") <= 1
    for hook, following in pairwise([*hooks, None]):
        if isinstance(hook, telemetry.RunFailed | telemetry.StepFailed) and hook.will_retry:
            assert type(following).__name__.endswith("RetryScheduled"), kinds
            assert getattr(following, "step", None) == getattr(hook, "step", None)
    completed = [hook.step for hook in hooks if isinstance(hook, telemetry.StepCompleted)]
    assert len(completed) == len(set(completed))


def by_chance(draws: random.Random) -> Callable[[App], Any]:
    """Define a workflow of steps and a child, all of which fail now and then."""

    async def part(name: str) -> str:
        if draws.random() < 0.3:
            raise RuntimeError("by chance")
        return name

    def define(app: App) -> Any:
        quick = step.options(backoff=AT_ONCE, max_attempts=2)

        @app.workflow(max_attempts=3, backoff=AT_ONCE)
        async def child() -> str:
            return await quick("part", part, "child")

        @app.workflow(max_attempts=5, backoff=AT_ONCE)
        async def order(number: int) -> str:
            for index in range(3):
                await quick(f"step-{index}", part, "a")
            with contextlib.suppress(RunFailed):
                await (await child.enqueue()).result()
            return await quick("last", part, "b")

        return order

    return define


LAST = {"completed": "RunCompleted", "failed": "RunFailed"}


async def test_random_runs_tell_well_formed_stories(place: Place):
    """Steps and bodies that fail by chance, children, workers that stop in the middle."""
    define = by_chance(random.Random(7))
    notes: list[Notes] = []
    runs: list[Run[Any]] = []
    for _ in range(4):
        async with place.life(noted(define, notes), grace="1ms", concurrency=5) as life:
            runs += [await life.flow.enqueue(number) for number in range(10)]
            await ended(life.get(runs[-1]))
    async with place.life(noted(define, notes)) as life:
        await asyncio.gather(*(ended(life.get(run)) for run in runs))
        stand = {run.id: await life.get(run).status() for run in runs}
    told: dict[str, list[Any]] = {}
    for hook in (hook for life_notes in notes for hook in life_notes.of(OfRun)):
        told.setdefault(hook.run_id, []).append(hook)
    for hooks in told.values():
        check_story(hooks)
    assert {run_id: type(told[run_id][-1]).__name__ for run_id in stand} == {
        run_id: LAST[status] for run_id, status in stand.items()
    }


class Unusable(MemoryStore):
    """A store that cannot be opened."""

    async def open(self) -> None:
        """Refuse."""
        raise StoreBusy("told to refuse")


async def test_a_store_that_cannot_be_opened_tells_of_the_error():
    """The listener has heard of it when connecting raises."""
    app = App(Unusable())
    notes = Notes(app)
    with pytest.raises(StoreBusy):
        await app.connect()
    [told] = notes.hooks
    assert isinstance(told, telemetry.AppError)
    assert told.error.message == "told to refuse"


class Forgetful(MemoryStore):
    """A store that can be told to answer no reads."""

    refuses = False

    async def get(self, run_id: str) -> Any:
        """Return the run, or refuse."""
        if self.refuses:
            raise StoreBusy("told to refuse")
        return await super().get(run_id)


async def test_what_a_hook_needs_to_know_fails_nobody(caplog: pytest.LogCaptureFixture):
    """A cancel that was accepted returns, though the run cannot be read for its hook."""
    store = Forgetful()
    app = App(store)
    notes = Notes(app, OfRun)
    order = three_steps(app)
    async with app:
        run = await order.delay("1h")
        store.refuses = True
        assert await run.cancel() == "cancelled"
    assert notes.hooks == []
    assert "cannot tell how a run ended" in caplog.text


async def test_closing_an_app_that_is_interrupted_closes_its_store():
    """Whoever loses patience with a listener that hangs leaves no open store behind."""
    store = MemoryStore()
    app = App(store)
    hangs = asyncio.Event()

    @app.on(telemetry.AppReady)
    async def hang(ready: telemetry.AppReady) -> None:
        hangs.set()
        await asyncio.get_running_loop().create_future()

    await app.connect()
    await asyncio.wait_for(hangs.wait(), 10)
    closing = asyncio.create_task(app.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(StoreClosed):
        await store.get("any")


async def test_without_listeners_nothing_of_hooks_is_executed(
    monkeypatch: pytest.MonkeyPatch,
):
    """A run of steps with retries enters neither the delivery nor the telling of hooks."""
    monkeypatch.setattr(logging.getLogger("perdure.lifecycle"), "propagate", False)
    app = App(MemoryStore())
    tries: list[int] = []

    async def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("once")
        return 1

    @app.workflow
    async def order() -> int:
        return await step.options(backoff=AT_ONCE)("flaky", flaky)

    entered: list[str] = []

    def watch(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.endswith(
            ("/telling.py", "/_delivery.py", "/_hooks.py")
        ):
            entered.append(frame.f_code.co_name)

    async with app, Worker(app):
        sys.setprofile(watch)
        try:
            assert await (await order.enqueue()).result(timeout="10s") == 1
        finally:
            sys.setprofile(None)
    assert tries == [1, 1]
    assert entered == []


async def test_a_life_is_told_to_listeners_declared_late(place: Place):
    """Listening may begin at any time; what was told before is not told again."""
    async with place.life(three_steps) as life:
        await (await life.flow.enqueue()).result(timeout="10s")
        notes = Notes(life.app)
        run = await life.flow.enqueue()
        await run.result(timeout="10s")
    assert [type(hook).__name__ for hook in notes.of(OfRun)] == IN_ORDER
    assert {hook.run_id for hook in notes.of(OfRun)} == {run.id}
