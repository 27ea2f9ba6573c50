"""What lies between two commits of a worker: a store that counts them and dies at one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from msgspec.structs import replace

from perdure._engine.definition import StepSpec
from perdure._engine.engine import StandIn
from perdure.model.records import StepKey
from perdure.model.streams import WriteStream
from perdure.model.transitions import CreateRun, Outcome, SaveCheckpoint, Settle, Transition
from perdure.store import Store
from perdure.testing import _inside as inside


def commit_named(transition: Transition) -> str | None:
    """Return what a transition commits of a body's work, in words; None if it does not."""
    match transition:
        case SaveCheckpoint():
            return f"{transition.kind} {transition.key.path!r} is {transition.outcome}"
        case Settle():
            return f"the run is {type(transition.verdict).__name__.lower()}"
        case WriteStream():
            return f"an item of stream {transition.stream!r} is written"
        case CreateRun(by=by) if by is not None:
            return f"a run of {transition.definition!r} is created"
        case _:
            return None


class Boundaries:
    """A store that commits a worker's transitions one by one, and dies at one of them.

    Its :meth:`side` is the inner store's: hearts commit no work.

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

    @property
    def store(self) -> Store:
        """Itself, as a store."""
        return cast("Store", self)  # it passes on what it does not do itself

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

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the inner store."""
        return getattr(self._inner, name)


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
