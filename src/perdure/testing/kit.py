"""The test kit: an app in memory, on a clock that moves when it is told, with one worker.

Nothing of it needs a service, a thread or real time. What is left over at the end of a test is a
failure of the test that names the workflow, the run and the place in the code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from perdure._engine.engine import StandIn
from perdure.app import UNCHANGED, App
from perdure.clock import to_datetime
from perdure.duration import Duration, to_micros
from perdure.errors import RunNotFound, UsageError, shown
from perdure.handle import Run
from perdure.model.lifecycle import decode_keys
from perdure.model.records import History, RunQuery, RunRecord, Status
from perdure.model.transitions import CreateRun, Outcome, Transition
from perdure.step import Step
from perdure.stores.memory import MemoryStore
from perdure.testing import _inside as inside
from perdure.testing._stage import Stage
from perdure.testing.clock import START, VirtualClock
from perdure.testing.crashing import Crashes, Ledger, Repeats, Where, crash_everywhere
from perdure.testing.failures import Hung, Orphaned, Swallowed, WorkLeft
from perdure.testing.fakes import Fake, Fakes
from perdure.testing.replaying import Replay, replay
from perdure.workflow import Calls, Workflow

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A run as it was created.

    Attributes:
        run: its handle.
        arguments: the body's, by name, with their defaults.
        delay: how long it was delayed by the call that created it.
        parent_id: the run whose body created it, if one did.
    """

    run: Run[Any]
    name: str
    arguments: dict[str, Any]
    delay: timedelta
    queue: str
    priority: int
    unique_key: str | None
    meta: Mapping[str, Any]
    tags: tuple[str, ...]
    parent_id: str | None


MOST_SKIPS: Final = 10_000
"""Waits that ``skip_waits`` skips in one test before it takes the test to wait for ever."""


class Kit:
    """One app under test.

    Inside of ``async with Kit(app) as kit:`` the app is connected to a memory store of its own and
    one worker executes its runs. At the end everything settles, and the test fails if a body hangs
    or swallowed its suspension, if a run completed without asking for what it had recorded, or if
    a run has not ended and ``expect_pending`` did not say so. A test that failed by itself is not
    examined any further.

    Args:
        app: not connected yet.
        only: the definitions that are executed, or their names; None for all. Runs of the others
            are created and stay queued.
        services: what bodies find in ``ctx.services``; the app's own where left out.
        skip_waits: move time by itself whenever nothing else can happen; otherwise time moves with
            :meth:`advance`, :meth:`finish` and :meth:`run` only.
        patience: real time without progress after which a body, or the test, hangs.
        start: the virtual time at first.
        seed: of ids; the same seed draws the same. Back-offs have no jitter.

    Example::

        async with Kit(app) as kit:
            run = await refund.enqueue("o_1")
            await kit.advance("3d")
            assert await run.result() == "refunded"
    """

    def __init__(
        self,
        app: App,
        *,
        only: Iterable[Workflow[..., Any] | str] | None = None,
        services: object = UNCHANGED,
        skip_waits: bool = False,
        patience: Duration = "10s",
        start: datetime = START,
        seed: int = 0,
    ) -> None:
        self.app = app
        self.clock = VirtualClock(start)
        self._fakes = Fakes(app.engine.registry)
        self._store = _Noting(clock=self.clock)
        self._stage = Stage(
            app,
            self._store,
            self.clock,
            only=None if only is None else [_name(each) for each in only],
            services=services,
            patience=to_micros(patience) / 1e6,
            seed=seed,
            stand_in=self._fakes.stand_in,
        )
        self._skip_waits = skip_waits
        self._pending: set[str] = set()
        self._watch: asyncio.Task[None] | None = None
        self._test: asyncio.Task[Any] | None = None
        self._moving = 0
        self._hung: Hung | None = None

    # --- life ------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._stage.connect()
        try:
            await self._stage.work()
        except BaseException:
            await self._stage.stop()
            raise
        self._test = asyncio.current_task()
        self._watch = asyncio.create_task(self._watch_over(), name="perdure-test-kit")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._stop_watching()
            if self._hung is not None:
                assert self._test is not None
                self._test.uncancel()
                raise self._hung from (None if isinstance(error, asyncio.CancelledError) else error)
            if error is None:
                await self.check()
        finally:
            await self._stage.stop()

    async def check(self) -> None:
        """Let everything settle and fail if something is wrong; the end of the kit does it.

        Raises:
            Hung, Swallowed, Orphaned, WorkLeft, UnusedFake: see :mod:`perdure.testing`.
        """
        self._check_swallowed()
        with self._moved_by_test():
            await self._stage.settle()
        self._check_swallowed()
        self._fakes.check_used()
        await self._check_orphans()
        await self._check_pending()

    def _check_swallowed(self) -> None:
        if self._stage.swallowed:
            raise Swallowed(str(self._stage.swallowed[0]))

    async def _check_orphans(self) -> None:
        for run in await self._stage.runs(RunQuery((Status.COMPLETED,))):
            if run.culprits is not None:
                paths = ", ".join(key.path for key in decode_keys(run.culprits))
                raise Orphaned(
                    f"run {run.run_id} of {run.definition!r} completed without asking for steps "
                    f"that it had recorded: {paths}; its body did something else in a replay"
                )

    async def _check_pending(self) -> None:
        left = [
            run
            for run in await self._stage.unfinished()
            if self._stage.serves(run) and run.run_id not in self._pending
        ]
        if left:
            raise WorkLeft(
                f"{len(left)} runs have not ended:{await self._stage.described(left)}\n"
                "let them end (kit.advance, kit.finish), or say that they do not: "
                "kit.expect_pending(run)"
            )

    # --- time ------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return to_datetime(self.clock.now())

    async def settle(self) -> None:
        """Let everything happen that needs no time to move.

        Raises:
            Hung: a body stands in code that neither ends nor waits durably.
        """
        with self._moved_by_test():
            await self._stage.settle()
        self._check_swallowed()

    async def advance(self, duration: Duration) -> None:
        """Move time on by way of everything that is due before, each in turn and settled.

        A step that hangs fires its own timeout when time reaches it.

        Args:
            duration: ``"3d"``, ``"3 days"``, a timedelta.

        Raises:
            Hung: a body hangs, and no timeout ends that within the duration.
        """
        micros = to_micros(duration)
        with self._moved_by_test():
            await self._stage.advance_to(self.clock.now() + micros)
        self._check_swallowed()

    async def finish(self, *runs: Run[Any]) -> None:
        """Skip every wait until these runs have ended; all runs of the app where none is named.

        Raises:
            Hung: time does not bring that.
        """
        ids = {run.id for run in runs}

        def is_over(left: list[RunRecord]) -> bool:
            return not any(
                run.run_id in ids or not (ids or run.run_id in self._pending)
                for run in left
                if ids or self._stage.serves(run)
            )

        with self._moved_by_test():
            await self._stage.finish(is_over)
        self._check_swallowed()

    async def run(self, definition: Calls[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Create a run, skip all its waits, and return its result.

        Args:
            definition: a workflow or job, also with options.
            *args: the body's own arguments.
            **kwargs: the body's own arguments.

        Raises:
            RunFailed, RunCancelled: it has no result.
            Hung: time does not bring its end.
        """
        run = await definition.enqueue(*args, **kwargs)
        await self.finish(run)
        return await run.result()

    # --- steps -----------------------------------------------------------------------------------

    def fake(
        self, step: Step[..., Any] | str, function: Callable[..., Any], *, computed: bool = False
    ) -> Fake:
        """Execute a function in the place of a step, inside of runs, until the kit ends.

        Args:
            step: the decorated step, or the name of any step.
            function: takes the step's arguments; ``async def`` or a ``def`` that does not block.
            computed: the name is computed where it is called, so that it cannot be checked now;
                that a step had it is checked at the end.

        Returns:
            The fake, which notes its ``calls``.

        Raises:
            UsageError: a text names no step (the message suggests one), or an argument is wrong.
        """
        return self._fakes.add(step, function, computed=computed)

    def fail(
        self,
        step: Step[..., Any] | str,
        error: BaseException | type[BaseException],
        *,
        times: int | None = None,
        computed: bool = False,
    ) -> Fake:
        """Let executions of a step fail, until the kit ends.

        Args:
            step: the decorated step, or the name of any step.
            error: what they raise.
            times: how many of them; afterwards the step does what it did before. None for all.
            computed: as for :meth:`fake`.

        Raises:
            UsageError: a text names no step (the message suggests one), or an argument is wrong.
        """
        if times is not None and times < 1:
            raise UsageError(f"times must be a whole number above 0, got {times!r}")
        is_class = isinstance(error, type) and issubclass(error, BaseException)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_class and not isinstance(error, BaseException):
            raise UsageError(f"what a step fails with is an exception, got {shown(error)}")
        return self._fakes.add(step, None, error=error, times=times, computed=computed)

    @property
    def stand_in(self) -> StandIn:
        """What executes in the place of each step, for the ``crash_everywhere`` of this package."""
        return self._fakes.stand_in

    # --- looking ---------------------------------------------------------------------------------

    def expect_pending(self, *runs: Run[Any]) -> None:
        """Say that these runs will not have ended at the end of the test."""
        self._pending.update(run.id for run in runs)

    async def enqueued(self, definition: Workflow[P, R] | str | None = None) -> list[Enqueued]:
        """Return the runs that were created, oldest first, with their arguments decoded.

        Args:
            definition: a workflow or job, or its name; None for all.

        Raises:
            UnknownDefinition: there is none of that name.
        """
        name = None if definition is None else _name(definition)
        if name is not None:
            self.app.engine.registry[name]
        runs = await self._stage.runs(RunQuery())
        return [self._enqueued(run) for run in runs if name in (None, run.definition)]

    def _enqueued(self, run: RunRecord) -> Enqueued:
        definition = self.app.engine.registry.executing(run)
        return Enqueued(
            run=Run(run.run_id, self.app.engine, definition.result),
            name=run.definition,
            arguments=definition.arguments.filled(run.input),
            delay=timedelta(microseconds=self._store.delays.get(run.run_id, 0)),
            queue=run.queue,
            priority=run.priority,
            unique_key=run.unique_key,
            meta=self.app.engine.meta.decode(run.meta),
            tags=run.tags,
            parent_id=run.parent_id,
        )

    async def history(self, run: Run[Any]) -> History:
        """Return everything recorded of a run, as it is stored; ``run.history()`` is for people.

        ``dump_history`` makes JSON of it, :meth:`replay` replays it.

        Raises:
            RunNotFound: there is no such run.
        """
        found = await self._stage.store.history(run.id)
        if found is None:
            raise RunNotFound(f"there is no run {run.id!r} in this kit")
        return found

    async def replay(self, history: History | str | bytes, app: App | None = None) -> Replay:
        """Replay a recorded history against today's code; see :func:`perdure.testing.replay`.

        Args:
            history: of one run, or the JSON that ``dump_history`` made of it.
            app: whose code is to be checked; the kit's own by default, with the kit's services:
                call it when the kit has ended, as the app is connected inside of ``async with``.

        Raises:
            AppNotReady: that app is connected, as the kit's own is inside of ``async with``.
        """
        if app is None:
            return await replay(history, self.app, services=self._stage.services)
        return await replay(history, app)

    def crash_everywhere(
        self,
        definition: Calls[P, Any],
        *args: Any,
        effects: Ledger | None = None,
        store: Where = "memory",
        repeats: Repeats = "in flight",
        kwargs: Mapping[str, Any] | None = None,
    ) -> Crashes:
        """Crash a workflow at every boundary, from a test written with ``def``.

        With the kit's fakes and services, but on stores of its own; see
        :func:`perdure.testing.crash_everywhere`, which is for tests written with ``async def``.

        Raises:
            NotCrashSafe, Hung: see there.
            UsageError: called while an event loop runs.
        """
        if _is_on_a_loop():
            raise UsageError(
                "perdure.crash_everywhere(…) is for tests written with def; in an async test, "
                "without the fixture, write `await perdure.testing.crash_everywhere(app, …)`"
            )
        return asyncio.run(
            crash_everywhere(
                self.app,
                definition,
                *args,
                effects=effects,
                store=store,
                repeats=repeats,
                kwargs=kwargs,
                patience=timedelta(seconds=self._stage.patience),
                stand_in=self._fakes.stand_in if self._fakes else None,
                services=self._stage.services,
            )
        )

    # --- watching over the test ---------------------------------------------------------------

    async def _watch_over(self) -> None:
        """Skip waits where that is wanted, and fail the test where it waits for ever."""
        loop = asyncio.get_running_loop()
        before, since = self._state(), loop.time()
        skipped = 0
        while True:
            await asyncio.sleep(0.005)
            now = self._state()
            if self._moving or now != before:
                before, since = now, loop.time()
            if self._moving:
                continue
            if self._skip_waits and skipped < MOST_SKIPS and await self._skipped():
                skipped += 1
                continue
            waits_for = await self._waited_for()
            if not waits_for:
                since = loop.time()
            elif loop.time() - since > self._stage.patience:
                self._fail_test(await self._explained(waits_for))
                return

    @contextmanager
    def _moved_by_test(self) -> Generator[None]:
        """While the test itself moves the kit on, nobody else does, and patience is its own."""
        self._moving += 1
        try:
            yield
        finally:
            self._moving -= 1

    def _state(self) -> object:
        return inside.progress(self._stage.worker), self.clock.now()

    async def _skipped(self) -> bool:
        """Move time to what is due next if nothing else can happen; tell whether it moved."""
        inside.hasten(self._stage.worker, self.clock.now())
        if inside.moves(self._stage.worker):
            return False
        due = await self._stage.next_due()
        if due is not None:
            self._stage.move_to(due)
        return due is not None

    async def _waited_for(self) -> list[RunRecord]:
        """Return the unfinished runs that the test waits for, and those whose bodies hang."""
        awaited = set(inside.is_awaited(self.app.engine))
        hanging = {
            activation.run.run_id
            for activation in inside.activations(self._stage.worker)
            if not inside.is_blocked(activation)
        }
        return [run for run in await self._stage.unfinished() if run.run_id in awaited | hanging]

    async def _explained(self, runs: list[RunRecord]) -> str:
        return (
            f"the test has waited {self._stage.patience:g} s of real time for what does not come:"
            f"{await self._stage.described(runs)}\n"
            "time stands still unless the test moves it: await kit.advance(…), kit.finish(run), or "
            "skip_waits=True"
        )

    def _fail_test(self, why: str) -> None:
        self._hung = Hung(why)
        if self._test is not None:
            self._test.cancel()

    async def _stop_watching(self) -> None:
        assert self._watch is not None, "a kit that ends has begun"
        self._watch.cancel()
        await asyncio.wait([self._watch])
        failure = None if self._watch.cancelled() else self._watch.exception()
        if failure is not None:
            raise failure


class _Noting(MemoryStore):
    """The kit's store; it notes what is not kept of a run: how long it was delayed.

    Attributes:
        delays: of the runs that were created with one, by their ids.
    """

    def __init__(self, *, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.delays: dict[str, int] = {}

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Note delays, and apply."""
        for transition in batch:
            if isinstance(transition, CreateRun) and transition.delay > 0:
                self.delays.setdefault(transition.run_id, transition.delay)
        return await super().apply(batch)


def _name(definition: Workflow[..., Any] | str) -> str:
    return definition if isinstance(definition, str) else definition.name


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
