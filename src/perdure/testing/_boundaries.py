"""What lies between two commits of a worker: a store that counts them and dies at one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from perdure._engine.definition import StepSpec
from perdure._engine.engine import StandIn
from perdure.model.records import (
    Ending,
    History,
    Micros,
    RunQuery,
    RunRecord,
    StepKey,
    WorkerRecord,
)
from perdure.model.transitions import CreateRun, Outcome, SaveCheckpoint, Settle, Transition
from perdure.store import Capabilities, Store
from perdure.testing import _inside as inside


def commit_named(transition: Transition) -> str | None:
    """Return what a transition commits of a body's work, in words; None if it does not."""
    match transition:
        case SaveCheckpoint():
            return f"{transition.kind} {transition.key.path!r} is {transition.outcome}"
        case Settle():
            return f"the run is {type(transition.verdict).__name__.lower()}"
        case CreateRun(by=by) if by is not None:
            return f"a run of {transition.definition!r} is created"
        case _:
            return None


class Boundaries:
    """A store that commits a worker's transitions one by one, and dies at one of them.

    One by one, so that the number of commits does not depend on what happened to be written
    together, and a crash may also fall between two that would have been.

    Args:
        inner: the store.
        crash_at: the commit at which to die, counted from 1; None to live.
        before: die before it is applied, not after.
        die: called at that moment; it may end the process. Afterwards nothing is answered.
        applied: told of each commit once it is applied.

    Attributes:
        commits: those so far, in words.
        is_dead: whether it has died.
    """

    def __init__(
        self,
        inner: Store,
        *,
        crash_at: int | None = None,
        before: bool = False,
        die: Callable[[], object] | None = None,
        applied: Callable[[Transition], None] | None = None,
    ) -> None:
        self._inner = inner
        self._crash_at = crash_at
        self._before = before
        self._die = die
        self._applied = applied
        self.commits: list[str] = []
        self.is_dead = False

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply one after the other, unless it is dead or dies of it."""
        outcomes: list[Outcome] = []
        for transition in batch:
            if self.is_dead:
                await self._perish()
            outcomes.extend(await self._apply(transition))
        return outcomes

    def apply_at_once(self, batch: Sequence[Transition]) -> None:
        """Leave every batch to :meth:`apply`: who dies here never answers."""

    async def _apply(self, transition: Transition) -> list[Outcome]:
        what = commit_named(transition)
        if what is None:
            return await self._inner.apply([transition])
        self.commits.append(what)
        doomed = len(self.commits) == self._crash_at
        if doomed and self._before:
            await self._perish()
        outcomes = await self._inner.apply([transition])
        if self._applied is not None:
            self._applied(transition)
        if doomed:
            await self._perish()
        return outcomes

    async def _perish(self) -> NoReturn:
        if not self.is_dead:
            self.is_dead = True
            if self._die is not None:
                self._die()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody sets this future")

    async def open(self) -> None:
        """Open the inner store."""
        await self._inner.open()

    async def close(self) -> None:
        """Close the inner store."""
        await self._inner.close()

    def side(self) -> Store:
        """Return a second inner store: hearts commit no work."""
        return self._inner.side()

    @property
    def capabilities(self) -> Capabilities:
        """What the inner store can do."""
        return self._inner.capabilities

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the run."""
        return await self._inner.get(run_id)

    async def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        """Return how runs ended."""
        return await self._inner.endings(run_ids)

    async def history(self, run_id: str) -> History | None:
        """Return everything kept of a run."""
        return await self._inner.history(run_id)

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the runs that match."""
        return await self._inner.list_runs(query)

    async def workers(self) -> list[WorkerRecord]:
        """Return the registered workers."""
        return await self._inner.workers()

    async def now(self) -> Micros:
        """Return the store's time."""
        return await self._inner.now()

    def hold(self, worker_id: str) -> Callable[[], None]:
        """Take a worker's sign of life."""
        return self._inner.hold(worker_id)

    def departed(self, worker_ids: Iterable[str]) -> set[str]:
        """Return those of the workers that are certainly dead."""
        return self._inner.departed(worker_ids)

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Pass hints on."""
        return self._inner.listen(callback)


class InFlight:
    """Which effects belong to steps that were executing when their process died.

    Args:
        read: returns the effects so far.
        stand_in: what stands in for the steps, if something does.
    """

    def __init__(self, read: Callable[[], list[Any]], stand_in: StandIn | None) -> None:
        self._read = read
        self._inner = stand_in
        self._began: dict[tuple[str, StepKey], int] = {}

    def stand_in(self, spec: StepSpec) -> StepSpec:
        """Return the step, noting when it begins."""
        if self._inner is not None:
            spec = self._inner(spec)
        function = spec.function

        async def execute(*args: Any, **kwargs: Any) -> Any:
            self._begin()
            return await function(*args, **kwargs)

        def execute_in_thread(*args: Any, **kwargs: Any) -> Any:
            self._begin()
            return function(*args, **kwargs)

        return replace(spec, function=execute if spec.is_async else execute_in_thread)

    def _begin(self) -> None:
        step = inside.executing()
        if step is not None:
            self._began.setdefault(step, len(self._read()))

    def applied(self, transition: Transition) -> None:
        """Take note that a step's outcome is recorded: its effects are not repeated any more."""
        if isinstance(transition, SaveCheckpoint):
            self._began.pop((transition.grant.run_id, transition.key), None)

    def began(self) -> int | None:
        """Return how many effects there were when the first of those steps began, or None."""
        return min(self._began.values(), default=None)

    def effects(self) -> Counter[Any]:
        """Return those effects now; where steps overlap, also those of others in that time."""
        began = self.began()
        return Counter() if began is None else Counter(self._read()[began:])
