"""Where a run is restarted or forked, found in its history, and the create of a fork."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

import msgspec

from perdure._engine.definition import StepSpec
from perdure.codec import Schema, schema
from perdure.errors import InvalidValue, RunConflict, UsageError, shown
from perdure.ids import check_id
from perdure.model.lineage import cause_of_fork
from perdure.model.records import Checkpoint, History, StepKey, StepKind
from perdure.model.transitions import Created, CreateRun, Exists, ForkRun, Missing, Outcome, Refused

if TYPE_CHECKING:
    from perdure._engine.engine import Engine

_anything: Schema[Any] = schema(Any)
_NO_CALLS: Final = frozenset({StepKind.PATCH, StepKind.ORIGIN})
_MOST_NAMED: Final = 12
"""Recorded steps that a message names."""


class Decorated(Protocol):
    """A function that was decorated as a step."""

    @property
    def name(self) -> str:
        """Under which it is recorded."""
        ...

    @property
    def spec(self) -> StepSpec:
        """How it is executed."""
        ...


def path_of(given: object, what: str) -> str:
    """Return the path of a step that is named by itself or by its path.

    Raises:
        UsageError: it is neither.
    """
    name = given if isinstance(given, str) else getattr(given, "name", None)
    is_step = isinstance(given, str) or isinstance(getattr(given, "spec", None), StepSpec)
    if not is_step or not isinstance(name, str):
        raise UsageError(
            f"{what} takes a step or its path as the history shows it, got {shown(given)}"
        )
    return name


class Place(msgspec.Struct, frozen=True):
    """A call among those that a run has recorded.

    Args:
        path: of the call.
        occurrence: which of that path, counted from 1 in the order of recording.
    """

    path: str
    occurrence: int

    @classmethod
    def of(cls, step: object, occurrence: object) -> Self | None:
        """Return the place that a caller means; None for the start.

        Raises:
            UsageError: there can be no such place.
        """
        if isinstance(occurrence, bool) or not isinstance(occurrence, int) or occurrence < 1:
            raise UsageError(
                f"occurrence counts the calls of a step from 1, got {shown(occurrence)}"
            )
        if step is None:
            if occurrence != 1:
                raise UsageError("occurrence= says which call of from_step=, and that was not said")
            return None
        return cls(path_of(step, "from_step"), occurrence)

    def find(self, history: History) -> Checkpoint:
        """Return its record.

        Raises:
            UsageError: there is none.
        """
        records = [one for one in calls_of(history) if one.key.path == self.path]
        if len(records) < self.occurrence:
            raise UsageError(_not_recorded(history, self.path, len(records), self.occurrence))
        return records[self.occurrence - 1]


def calls_of(history: History) -> list[Checkpoint]:
    """Return the calls that a run has recorded in its present generation, in order."""
    generation = history.run.generation
    return [
        one
        for one in history.checkpoints
        if one.generation == generation and one.kind not in _NO_CALLS
    ]


def _not_recorded(history: History, path: str, times: int, occurrence: int) -> str:
    run_id = history.run.run_id
    if times:
        return f"step {path!r} is recorded {times} times in run {run_id}, not {occurrence}"
    paths = list(dict.fromkeys(one.key.path for one in calls_of(history)))
    close = get_close_matches(path, paths, 1)
    if close:
        return f"no step {path!r} is recorded in run {run_id}; did you mean {close[0]!r}?"
    if not paths:
        return f"no step {path!r} is recorded in run {run_id}, nor any other"
    named = ", ".join(map(repr, paths[:_MOST_NAMED]))
    more = "" if len(paths) <= _MOST_NAMED else f" and {len(paths) - _MOST_NAMED} more"
    return f"no step {path!r} is recorded in run {run_id}; there are {named}{more}"


# --- fork ------------------------------------------------------------------------------------


class Fork(msgspec.Struct, frozen=True):
    """What a caller wants of a fork.

    Args:
        place: the first call that is not kept; None where it follows from ``results``.
        input: arguments that are to be others, by name.
        results: what steps are to have returned.
        id: of the new run; None for a new one.
        pin: the version that it is pinned to; None for none.
    """

    place: Place | None
    input: Mapping[str, object] | None
    results: tuple[tuple[object, object], ...]
    id: str | None
    pin: str | None

    @classmethod
    def of(
        cls,
        place: Place | None,
        input: object,
        results: object,
        id: object,
        pin: str | None,
    ) -> Self:
        """Return what a caller wants.

        Raises:
            UsageError: it cannot be.
        """
        if input is not None and not isinstance(input, Mapping):
            raise UsageError(f"input= takes a mapping of names to values, got {shown(input)}")
        if results is not None and not isinstance(results, Mapping):
            raise UsageError(f"results= takes a mapping of steps to values, got {shown(results)}")
        wanted = tuple(cast("Mapping[object, object]", results or {}).items())
        chosen = None if id is None else check_id(cast("str", id), "run id")
        return cls(place, cast("Mapping[str, object] | None", input), wanted, chosen, pin)


async def fork(engine: Engine, history: History, plan: Fork) -> str:
    """Start a run that goes on from what another has recorded; return its id.

    Raises:
        UsageError, InvalidValue: what is wanted does not fit what is recorded.
        RunConflict: the id belongs to another run.
    """
    create = _create(engine, history, plan)
    run = history.run
    asked: CreateRun | ForkRun = create
    if plan.place is not None or plan.results:
        before, results = _edits(history, plan)
        asked = ForkRun(create, run.run_id, run.generation, before, results)
    answer: Outcome = await engine.committer.submit(asked)
    match answer:
        case Created():
            return create.run_id
        case Exists():
            there = await engine.store.get(create.run_id)
            if answer.same and there is not None and there.caused_by == create.caused_by:
                return create.run_id  # it was forked under this id before
            raise RunConflict(
                f"cannot fork run {run.run_id}: id {answer.run_id!r} belongs to another run",
                run_id=answer.run_id,
            )
        case Missing() | Refused():
            raise UsageError(
                f"run {run.run_id} was restarted or removed while it was to be forked; try again"
            )
        case _:
            raise AssertionError(f"a fork was answered with {answer!r}")


def _create(engine: Engine, history: History, plan: Fork) -> CreateRun:
    run = history.run
    definition = engine.registry.find(run.definition)
    data = run.input
    if plan.input:
        if definition is None:
            raise UsageError(
                f"this app has no definition {run.definition!r}, so that the input of run "
                f"{run.run_id} cannot be changed"
            )
        data = definition.arguments.changed(data, plan.input)
        engine.within_limit(data, f"the input of {run.definition!r}")
    return CreateRun(
        plan.id or engine.ids.run_id(),
        run.definition,
        data,
        engine.ids.token(),
        run.version if definition is None else definition.version,
        run.queue,
        run.priority,
        meta=run.meta,
        options=run.options,
        tags=run.tags,
        caused_by=cause_of_fork(run.run_id),
        limit_key=run.limit_key,
        retention=run.retention,
        pin=plan.pin,
    )


def _edits(
    history: History, plan: Fork
) -> tuple[StepKey | None, tuple[tuple[StepKey, bytes], ...]]:
    """Return the first call that is not kept, and the results that are put in."""
    calls = calls_of(history)
    end = len(calls) if plan.place is None else calls.index(plan.place.find(history))
    results: list[tuple[StepKey, bytes]] = []
    last = -1
    for step, value in plan.results:
        number = _only(history, calls, path_of(step, "results"))
        if number >= end:
            raise UsageError(
                f"results= has step {calls[number].key.path!r}, which is not kept: it is not "
                f"recorded before {calls[end].key.path!r}"
            )
        results.append((calls[number].key, _encoded(step, value)))
        last = max(last, number)
    if plan.place is None:
        end = last + 1
    return calls[end].key if end < len(calls) else None, tuple(results)


def _only(history: History, calls: list[Checkpoint], path: str) -> int:
    found = [number for number, one in enumerate(calls) if one.key.path == path]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(_not_recorded(history, path, 0, 1))
    raise UsageError(
        f"step {path!r} is recorded {len(found)} times in run {history.run.run_id}; which of them "
        "is to have another result cannot be said"
    )


def _encoded(step: object, value: object) -> bytes:
    """Return what a step is to have returned as bytes.

    What a path stands for is not known: there the value must be one that reads the same under
    every annotation.

    Raises:
        InvalidValue: it does not fit, or cannot be one of those.
    """
    if not isinstance(step, str):
        spec = cast("Decorated", step).spec  # path_of has looked
        result: Schema[Any] = spec.result
        return result.round_trip(value)[0]
    data = _anything.encode(value, verb=f"the result of step {step!r} is")
    if msgspec.json.decode(data) != value:
        raise InvalidValue(
            f"the result of step {step!r} is {shown(value)}, which is written differently for "
            "different annotations; name the step itself instead of its path",
            path="$",
        )
    return data
