"""Crash a workflow at every boundary: before and after each of its commits, one crash a run.

On memory the worker is abandoned: its store goes silent and its bodies are dropped; code in their
``finally`` still runs, as it does at every suspension, and records nothing. On SQLite a process of
its own is killed with SIGKILL.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args

from perdure._engine.engine import StandIn
from perdure.app import UNCHANGED, App, Unchanged
from perdure.codec.failures import decode_error, error_summary
from perdure.duration import Duration, to_micros
from perdure.errors import StepInterrupted, UsageError, shown
from perdure.model.records import Checkpoint, RunQuery, RunRecord, StepOutcome
from perdure.store import Store
from perdure.stores.memory import MemoryData, MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing._boundaries import Boundaries, InFlight
from perdure.testing._places import module_of, place_of
from perdure.testing._stage import Stage
from perdure.testing.clock import VirtualClock
from perdure.testing.effects import Effects
from perdure.testing.failures import NotCrashSafe
from perdure.workflow import Calls

Ledger: TypeAlias = Effects | list[Any] | Callable[[], Iterable[Any]]
"""Where a test's effects are read: a ledger, a list that steps append to, or a function."""

Where: TypeAlias = Literal["memory", "sqlite"]
"""On which store runs are crashed."""

Repeats: TypeAlias = Literal["in flight", "never"]
"""Which effects may happen once more than undisturbed; see :func:`crash_everywhere`."""

TRIES: Final = 3
"""How often a boundary is looked for that a run did not come to: threads may delay commits."""

MOST_PROBLEMS: Final = 10
"""Problems that a message lists."""


@dataclass(frozen=True, slots=True)
class Crashes:
    """What ``crash_everywhere`` did.

    Attributes:
        commits: those of the undisturbed run, in words, in order.
        visited: boundaries at which runs were crashed, on both sides; as many as commits.
        runs: the crashed and continued runs.
    """

    commits: tuple[str, ...]
    visited: int
    runs: int


@dataclass(slots=True)
class _End:
    """How the runs of one store ended, and what had happened by then."""

    runs: dict[str, _Ended]
    effects: Counter[Any]


@dataclass(frozen=True, slots=True)
class _Ended:
    """How one run ended: all that must be the same with and without crashes.

    ``interrupted`` are the steps that a crash ended, without their outcome.
    """

    name: str
    outcome: str
    result: bytes | None
    steps: Counter[tuple[Any, ...]] = field(hash=False)
    interrupted: Counter[tuple[Any, ...]] = field(hash=False)
    items: Counter[tuple[str, bytes | None]] = field(hash=False)


async def crash_everywhere(
    app: App,
    definition: Calls[..., Any],
    *args: Any,
    effects: Ledger | None = None,
    store: Where = "memory",
    repeats: Repeats = "in flight",
    kwargs: Mapping[str, Any] | None = None,
    patience: Duration = "10s",
    stand_in: StandIn | None = None,
    services: object = UNCHANGED,
) -> Crashes:
    """Crash a workflow before and after each of its commits, and let a fresh worker continue.

    First an undisturbed run tells its commits: every recorded step, every child run, every item of
    a stream, and every time the run leaves its worker. Then for each of them two runs are crashed,
    before it is applied and after it was applied but before the worker heard of it. All waits are
    skipped. Asserted is that

    - every run, children included, ends as undisturbed: status, result, error;
    - each step's outcome is recorded exactly once, and the same steps are;
    - each item of a stream is written exactly once;
    - each effect of the undisturbed run happened, and no other did;
    - an effect happened more often than undisturbed only where the step that made it was executing
      when its process died, so that nothing of it was recorded; and then only once more. That is
      what an engine can promise for effects outside of its store. With ``repeats="never"`` not even
      that is allowed: for steps that themselves see to it that repeating them has no effect;
    - a step that is ``at_most_once`` and was executing is recorded as interrupted, in the place of
      its outcome, and its effects may be missing;
    - as many boundaries were visited as the undisturbed run has commits, on both sides.

    Args:
        app: not connected.
        definition: the workflow or job, also with options.
        *args: the body's arguments.
        effects: where to read what happened; what was there before the call does not count. On
            SQLite it must outlive a process: an ``Effects``, or a function that reads something
            outside.
        store: ``"memory"``; or ``"sqlite"``, where each crash kills a process that imports the
            module of ``app`` and of the definition.
        repeats: see above.
        kwargs: the body's keyword arguments.
        patience: real time without progress after which a body hangs.
        stand_in: what is executed in the place of steps; a kit passes its fakes.
        services: the app's meanwhile; its own where left out. Other processes cannot be given any.

    Returns:
        How many commits, boundaries and runs there were.

    Raises:
        NotCrashSafe: with the boundary, and what was different.
        Hung: a run does not end, crashed or not.
        AppNotReady: the app is connected.
        UsageError: with SQLite, something that another process could not see.

    Example::

        report = await crash_everywhere(app, fulfil, order, effects=ledger)
        assert report.visited == len(report.commits)
    """
    _check_choice("store", store, get_args(Where))
    _check_choice("repeats", repeats, get_args(Repeats))
    kept_in = effects.path if isinstance(effects, Effects) else None
    directory = Path(tempfile.mkdtemp(prefix="perdure-crashes-"))
    try:
        ground: _Ground = _Memory()
        if store == "sqlite":
            if not isinstance(services, Unchanged):
                raise UsageError(
                    "services given by a test cannot be handed to the processes that are killed on "
                    'SQLite; let the app make its own, or use store="memory"'
                )
            ground = _Sqlite(directory, app, definition, effects, stand_in)
        seconds = to_micros(patience) / 1e6
        call = (args, dict(kwargs or {}))
        reader = _reader(effects)
        trial = _Trial(app, definition, call, reader, stand_in, services, seconds, ground)
        return await trial.run(repeats)
    finally:
        if isinstance(effects, Effects):
            effects.keep_in(kept_in)
        shutil.rmtree(directory)


def _check_choice(what: str, given: object, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise UsageError(f"{what} is {' or '.join(map(repr, choices))}, got {shown(given)}")


class _Ground(Protocol):
    """Where runs live and die."""

    def fresh(self) -> None:
        """Begin with no data."""
        ...

    def store(self, clock: VirtualClock) -> Store:
        """Return one more unopened store on the data."""
        ...

    async def crash(self, trial: _Trial, number: int, *, before: bool) -> Counter[Any] | None:
        """Crash a life at a commit; return the effects in flight, None if it did not get there."""
        ...


class _Memory:
    """Dictionaries that outlive the worker which is abandoned."""

    def fresh(self) -> None:
        self._dead: set[str] = set()
        self._data = MemoryData(departed=self._dead)

    def store(self, clock: VirtualClock) -> Store:
        return MemoryStore(clock=clock, data=self._data)

    async def crash(self, trial: _Trial, number: int, *, before: bool) -> Counter[Any] | None:
        clock = VirtualClock()
        in_flight = InFlight(trial.read, trial.stand_in)
        store = Boundaries(
            self.store(clock), crash_at=number, before=before, applied=in_flight.applied
        )
        stage = trial.stage(store.store, clock, in_flight.stand_in)
        stage.is_dead = lambda: store.is_dead
        await stage.connect()
        try:
            await stage.work()
            await stage.finish(_none_left)
        finally:
            self._dead.add(stage.worker.worker_id)
            await stage.crash()
        return in_flight.effects() if store.is_dead else None


class _Sqlite:
    """A file, and processes of their own that are killed."""

    def __init__(
        self,
        directory: Path,
        app: App,
        definition: Calls[..., Any],
        effects: Ledger | None,
        stand_in: StandIn | None,
    ) -> None:
        if isinstance(effects, list):
            raise UsageError(
                "effects in a list die with the process that is killed; on SQLite pass an "
                "Effects(), declared beside the app, or a function that reads what outlives it"
            )
        if stand_in is not None:
            raise UsageError("fakes do not reach the process that is killed; crash on memory")
        self._directory = directory
        self._effects = effects
        self._lives = 0
        self._victim = {
            "app": place_of(app, "the app"),
            "definition": module_of(definition.definition.function, "the definition"),
            "effects": None if effects is None else place_of(effects, "the effects"),
        }

    def fresh(self) -> None:
        self._lives += 1
        self._home = self._directory / str(self._lives)
        self._home.mkdir()
        if isinstance(self._effects, Effects):
            self._effects.keep_in(self._home / "effects")

    def store(self, clock: VirtualClock) -> Store:
        return SqliteStore(self._home / "crash.db", clock=clock)

    async def crash(self, trial: _Trial, number: int, *, before: bool) -> Counter[Any] | None:
        order = {
            **self._victim,
            "home": str(self._home),
            "commit": number,
            "before": before,
            "patience": trial.patience,
        }
        done = await asyncio.to_thread(self._run, json.dumps(order))
        if done.returncode == 0:
            return None
        note = self._home / "crashed"
        if not note.exists():
            raise NotCrashSafe(
                f"the process that was to be killed at commit {number} ended by itself with "
                f"status {done.returncode}:\n{done.stderr.decode(errors='replace')}"
            )
        began = json.loads(note.read_text())
        return Counter() if began is None else Counter(trial.read()[began:])

    def _run(self, order: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(  # noqa: S603 -- this Python, with arguments of our own
            [sys.executable, "-m", "perdure.testing._victim", order],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )


class _Trial:
    """One workflow, crashed everywhere."""

    def __init__(  # noqa: PLR0917 -- one function makes it, with all it was given
        self,
        app: App,
        definition: Calls[..., Any],
        call: tuple[tuple[Any, ...], dict[str, Any]],
        read: Callable[[], list[Any]],
        stand_in: StandIn | None,
        services: object,
        patience: float,
        ground: _Ground,
    ) -> None:
        self.app = app
        self.definition = definition
        self.read = read
        self._services = services
        self.stand_in = stand_in
        self.patience = patience
        self._args, self._kwargs = call
        self._ground = ground
        self._lives = 0

    async def run(self, repeats: Repeats) -> Crashes:
        boundaries, undisturbed = await self._undisturbed()
        commits = tuple(boundaries.commits)
        problems: list[str] = []
        visited = 0
        for number, commit in enumerate(commits, 1):
            reached = True
            for before in (True, False):
                side = "before" if before else "after"
                place = f"crashed {side} commit {number} of {len(commits)} ({commit})"
                found = await self._crashed(number, before=before)
                if found is None:
                    reached = False
                    problems.append(
                        f"{place}: not reached in {TRIES} tries; its commits depend on timing"
                    )
                    continue
                in_flight, end = found
                allowed = in_flight if repeats == "in flight" else Counter[Any]()
                problems += [f"{place}: {what}" for what in _compared(undisturbed, end, allowed)]
            visited += reached
        if problems:
            more = len(problems) - MOST_PROBLEMS
            shown = problems[:MOST_PROBLEMS] + ([f"… and {more} more"] if more > 0 else [])
            raise NotCrashSafe("\n  ".join(["not the undisturbed end:", *shown]))
        return Crashes(commits, visited, 2 * len(commits))

    async def _undisturbed(self) -> tuple[Boundaries, _End]:
        begun = await self._begin()
        clock = VirtualClock()
        boundaries = Boundaries(self._ground.store(clock))
        stage = self.stage(boundaries.store, clock)
        await stage.connect()
        try:
            await stage.work()
            await stage.finish(_none_left)
            return boundaries, await self._end(stage, begun)
        finally:
            await stage.stop()

    async def _crashed(self, number: int, *, before: bool) -> tuple[Counter[Any], _End] | None:
        for _ in range(TRIES):
            begun = await self._begin()
            in_flight = await self._ground.crash(self, number, before=before)
            if in_flight is not None:
                return in_flight, await self._continued(begun)
        return None

    async def _continued(self, begun: int) -> _End:
        """Let a fresh worker finish what a crashed one left."""
        clock = VirtualClock()
        stage = self.stage(self._ground.store(clock), clock)
        await stage.connect()
        try:
            clock.move_to(max(run.updated_at for run in await stage.runs(RunQuery())))
            await stage.work()
            await stage.finish(_none_left)
            return await self._end(stage, begun)
        finally:
            await stage.stop()

    async def _begin(self) -> int:
        """Create the run on fresh data, its id the same each time; return how many effects were."""
        self._ground.fresh()
        clock = VirtualClock()
        stage = Stage(self.app, self._ground.store(clock), clock, services=self._services)
        await stage.connect()
        try:
            await self.definition.enqueue(*self._args, **self._kwargs)
            return len(self.read())
        finally:
            await stage.stop()

    def stage(self, store: Store, clock: VirtualClock, stand_in: StandIn | None = None) -> Stage:
        """Return one more life; no two draw the same tokens."""
        self._lives += 1
        stand_in = self.stand_in if stand_in is None else stand_in
        patience, seed = self.patience, self._lives
        return Stage(
            self.app,
            store,
            clock,
            services=self._services,
            patience=patience,
            seed=seed,
            stand_in=stand_in,
        )

    async def _end(self, stage: Stage, begun: int) -> _End:
        runs = {run.run_id: run for run in await stage.runs(RunQuery())}
        ended = {run_id: await self._ended(stage, run) for run_id, run in runs.items()}
        return _End(ended, Counter(self.read()[begun:]))

    async def _ended(self, stage: Stage, run: RunRecord) -> _Ended:
        history = await stage.store.history(run.run_id)
        assert history is not None
        steps: Counter[tuple[Any, ...]] = Counter()
        interrupted: Counter[tuple[Any, ...]] = Counter()
        for record in history.checkpoints:
            step = (record.key.path, record.key.k, record.kind.value, record.text)
            if _is_interrupted(record):
                interrupted[step] += 1
            else:
                steps[*step, record.outcome.value] += 1
        outcome = run.status.value
        if run.error is not None:
            summary = error_summary(run.error)
            outcome += f" ({summary.type}: {summary.message})"
        items: Counter[tuple[str, bytes | None]] = Counter()
        for stream in history.streams:
            async for value in _values(stage.store, run.run_id, stream.name):
                items[stream.name, value] += 1
        return _Ended(run.definition, outcome, run.result, steps, interrupted, items)


async def _values(store: Store, run_id: str, stream: str) -> AsyncIterator[bytes | None]:
    """Yield what is written to a stream of a run, as it is stored."""
    number = last = 0
    while number < last or not number:
        page = await store.stream(run_id, stream, number)
        assert page is not None
        last = page.last
        for entry in page.entries:
            number = entry.number
            yield entry.value


def _is_interrupted(record: Checkpoint) -> bool:
    """Tell whether a crash has ended a step that begins at most once."""
    if record.outcome is not StepOutcome.ERROR or record.value is None:
        return False
    return isinstance(decode_error(record.value), StepInterrupted)


def _none_left(left: list[RunRecord]) -> bool:
    return not left


def _reader(effects: Ledger | None) -> Callable[[], list[Any]]:
    """Return how to read the effects, as things that can be counted."""

    def read() -> list[Any]:
        if effects is None:
            return []
        if isinstance(effects, Effects):
            return list(effects.read())
        found: Iterable[Any] = effects() if callable(effects) else effects
        return [each if isinstance(each, str) else repr(each) for each in found]

    return read


def _compared(undisturbed: _End, end: _End, allowed: Counter[Any]) -> list[str]:
    """Return in words how a crashed end differs from the undisturbed one."""
    problems: list[str] = []
    for run_id, expected in undisturbed.runs.items():
        found = end.runs.get(run_id)
        if found is None:
            problems.append(f"run {run_id} of {expected.name!r} was not created")
        else:
            problems += _compared_runs(run_id, expected, found)
    problems += [
        f"run {run_id} of {found.name!r} was created, too"
        for run_id, found in end.runs.items()
        if run_id not in undisturbed.runs
    ]
    missing = sum(ended.interrupted.total() for ended in end.runs.values())
    for effect in undisturbed.effects | end.effects:
        usual, times = undisturbed.effects[effect], end.effects[effect]
        if not usual - missing <= times <= usual + allowed[effect]:
            problems.append(f"effect {effect!r} happened {times} times, undisturbed {usual}")
    return problems


def _compared_runs(run_id: str, expected: _Ended, found: _Ended) -> list[str]:
    problems: list[str] = []
    what = f"run {run_id} of {expected.name!r}"
    if found.outcome != expected.outcome:
        problems.append(f"{what} ended {found.outcome}, undisturbed {expected.outcome}")
    elif found.result != expected.result:
        problems.append(f"{what} returned {found.result!r}, undisturbed {expected.result!r}")
    interrupted = found.interrupted.copy()
    for step in expected.steps | found.steps:
        *call, outcome = step
        missing = expected.steps[step] - found.steps[step]
        if 0 < missing <= interrupted[tuple(call)]:
            interrupted[tuple(call)] -= missing
        elif missing:
            path, _, _, text = call
            problems.append(
                f"{what} recorded {path}({text}) as {outcome} {found.steps[step]} times, "
                f"undisturbed {expected.steps[step]}"
            )
    problems += [f"{what} interrupted {path}({text})" for path, _, _, text in +interrupted]
    # A step that is not executed again leaves off where it was.
    wrong = found.items - expected.items
    if not found.interrupted:
        wrong += expected.items - found.items
    for stream, value in sorted(wrong, key=repr):
        problems.append(
            f"{what} wrote {value!r} to stream {stream!r} {found.items[stream, value]} times, "
            f"undisturbed {expected.items[stream, value]}"
        )
    return problems
