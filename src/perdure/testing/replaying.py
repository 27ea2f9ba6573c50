"""Replay a recorded history against today's code: no store, no worker, and no step is executed.

The body runs as it would on a worker that has just claimed the run, and is given what is recorded.
Where it asks for more than that, it stands still. So what is told is whether a run with that
history would survive the code as it is now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from perdure._engine import adrift
from perdure._engine.activation import Activation
from perdure._engine.definition import StepSpec
from perdure._engine.executor import Executor
from perdure._engine.scope import install_factory, remove_factory
from perdure.app import UNCHANGED, App
from perdure.codec.failures import error_summary
from perdure.duration import Duration, named_micros
from perdure.model.progress import SetProgress
from perdure.model.records import History, RunRecord, Status, StepKind
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    ClaimedRun,
    Completed,
    CreateRun,
    Failed,
    Mismatched,
    Outcome,
    Retrying,
    SaveCheckpoint,
    Saved,
    Settle,
    Transition,
    Verdict,
)
from perdure.stores.memory import MemoryStore
from perdure.testing import _inside as inside
from perdure.testing.clock import VirtualClock, virtual_ports
from perdure.testing.failures import Hung, Orphaned
from perdure.testing.histories import load_history

QUIET_TURNS: Final = 50
"""Turns of the loop without progress after which a body that is blocked stands still."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a recorded run on today's code.

    Attributes:
        run_id, name: which run, of which definition.
        mismatch: where the code asks for something else than what is recorded; None where it fits.
        orphaned: paths of recorded steps that the code did not ask for before it ended.
        asked: what the code asks for beyond the record: the steps that a worker would execute next.
        ended: how the body ended: ``completed``, ``failed`` or ``retrying``; None where it waits.
        error: class and message of what it raised.
        same_result: whether it returned what is recorded; None where either has no result.
    """

    run_id: str
    name: str
    mismatch: str | None
    orphaned: tuple[str, ...]
    asked: tuple[str, ...]
    ended: str | None
    error: str | None
    same_result: bool | None

    @property
    def fits(self) -> bool:
        """Whether the run can go on with this code, and nothing recorded is left over."""
        return self.mismatch is None and not self.orphaned

    def check(self) -> None:
        """Raise unless the history fits.

        Raises:
            Orphaned: with everything that does not fit, by name.
        """
        problems = [] if self.mismatch is None else [self.mismatch]
        problems += [f"recorded step {path!r} is not asked for any more" for path in self.orphaned]
        if problems:
            raise Orphaned(
                f"the history of run {self.run_id} does not fit the code of {self.name!r}: "
                + "; ".join(problems)
            )


async def replay(
    history: History | str | bytes,
    app: App,
    *,
    patience: Duration = "10s",
    services: object = UNCHANGED,
) -> Replay:
    """Replay a recorded history against the definitions of an app.

    Args:
        history: of one run, or the JSON that ``dump_history`` made of it.
        app: whose code is to be checked; it must not be connected.
        patience: real time after which a body that stands in foreign code is given up.
        services: the app's meanwhile; its own where left out.

    Raises:
        AppNotReady: the app is connected.
        UnknownDefinition: it has no definition of that name, or not in the version that the run is
            pinned to.
        InvalidValue: the text is no history.
        InvalidDuration: ``patience`` is none.
        Hung: the body waits for something that is neither recorded nor durable.

    Example::

        report = await replay(Path("run.json").read_text(), app)
        report.check()
    """
    recorded = history if isinstance(history, History) else load_history(history)
    run = recorded.run
    app.engine.registry.executing(run)
    clock = VirtualClock()
    clock.move_to(run.updated_at)
    journal = _Journal(recorded, clock)
    seconds = named_micros(patience, "patience") / 1e6
    with app.override(store=journal, services=services, ports=virtual_ports(clock)):
        async with app:
            return await _Replaying(app, recorded, journal, seconds).run()


class _Replaying:
    """One replay."""

    def __init__(self, app: App, recorded: History, journal: _Journal, patience: float) -> None:
        self._engine = app.engine
        self._recorded = recorded
        self._journal = journal
        self._patience = patience
        self._asked: list[str] = []

    async def run(self) -> Replay:
        loop = asyncio.get_running_loop()
        engine = self._engine
        executor = Executor(engine, _nothing)
        with ExitStack() as undo:
            install_factory(loop)
            undo.callback(remove_factory, loop)
            adrift.install()
            undo.callback(adrift.remove)
            undo.callback(setattr, engine, "stand_in", engine.stand_in)
            engine.stand_in = self._halt
            executor.start(self._claimed())
            (activation,) = executor.active.values() or (None,)
            try:
                await self._until_still(activation)
                return self._report()
            finally:
                await inside.drop_executor(executor)
                await inside.cut_off(engine)

    def _claimed(self) -> ClaimedRun:
        """Return the run as a worker would be given it now."""
        run = replace(
            self._recorded.run,
            status=Status.RUNNING,
            epoch=self._recorded.run.epoch + 1,
            grant=1,
            started_at=self._recorded.run.started_at or self._recorded.run.created_at,
        )
        recorded = (one for one in self._recorded.checkpoints if one.generation == run.generation)
        return ClaimedRun(run, tuple(recorded))

    def _halt(self, spec: StepSpec) -> StepSpec:
        """Return a step that executes nothing and is noted as asked for."""

        async def halt(*_: Any, **__: Any) -> Any:
            step = inside.executing()
            self._asked.append(spec.name if step is None else step[1].path)
            inside.block_branch()
            await asyncio.get_running_loop().create_future()

        return replace(spec, function=halt, is_async=True, timeout=None)

    async def _until_still(self, activation: Activation | None) -> None:
        """Wait until the body has ended, or can go on only with something new."""
        loop = asyncio.get_running_loop()
        since, quiet = loop.time(), 0
        while self._journal.verdict is None:
            if activation is None:  # its input does not fit any more: the verdict is on its way
                await asyncio.sleep(0)
                continue
            still = inside.is_blocked(activation) or self._journal.is_asked
            quiet = quiet + 1 if still else 0
            if quiet > QUIET_TURNS:
                return
            if loop.time() - since > self._patience:
                raise Hung(
                    f"the replay of run {self._recorded.run.run_id} of "
                    f"{self._recorded.run.definition!r} stands at {inside.where(activation)} for "
                    f"{self._patience:g} s, which is neither recorded nor a durable call"
                )
            await asyncio.sleep(0 if quiet else 0.001)

    def _report(self) -> Replay:
        run, verdict = self._recorded.run, self._journal.verdict
        mismatch = ended = error = None
        orphaned: Iterable[str] = ()
        same: bool | None = None
        match verdict:
            case Mismatched():
                mismatch = error_summary(verdict.error).message
            case Completed():
                ended = "completed"
                orphaned = [key.path for key in verdict.orphans]
                if run.status is Status.COMPLETED:
                    same = verdict.result == run.result
            case Failed() | Retrying():
                summary = error_summary(verdict.error)
                ended = "failed" if isinstance(verdict, Failed) else "retrying"
                error = f"{summary.type}: {summary.message}"
            case _:
                pass
        asked = (*self._asked, *self._journal.asked)
        return Replay(
            run.run_id, run.definition, mismatch, tuple(orphaned), asked, ended, error, same
        )


def _is_unawaited(transition: Transition) -> bool:
    """Tell whether the body goes on without waiting for a record."""
    if isinstance(transition, SaveCheckpoint):
        return transition.kind is StepKind.PATCH
    return isinstance(transition, WriteStream | SetProgress)


def _nothing() -> None:
    """Take note that a body has left: nobody waits for its slot."""


class _Journal(MemoryStore):
    """A store that holds one recorded run and takes nothing: what is written to it stays open.

    Attributes:
        verdict: how the body ended, once it has.
        asked: paths of what the body asked to have recorded.
    """

    def __init__(self, recorded: History, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self._recorded = recorded
        self.verdict: Verdict | None = None
        self.asked: list[str] = []

    @property
    def is_asked(self) -> bool:
        """Whether the body waits for something to be recorded."""
        return bool(self.asked)

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Note what was to be written, and never answer, but for what nobody waits for."""
        if all(map(_is_unawaited, batch)):
            return [Saved() for _ in batch]
        for transition in batch:
            match transition:
                case Settle():
                    self.verdict = transition.verdict
                case SaveCheckpoint() if not _is_unawaited(transition):
                    self.asked.append(transition.key.path)
                case CreateRun():
                    self.asked.append(transition.definition)
                case _:
                    pass
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody sets this future")

    async def get(self, run_id: str) -> RunRecord | None:  # noqa: ARG002 -- the contract's name
        """Return the recorded run: whatever the body waits for, it was there."""
        return self._recorded.run
