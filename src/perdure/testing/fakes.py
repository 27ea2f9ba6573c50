"""Steps replaced for a test: by another function, or by a failure.

A fake is executed in the place of the step's function and recorded like it: its result passes the
step's codec, its errors are retried by the step's policy. A step called outside of a run is an
ordinary function and is not replaced.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

from msgspec.structs import replace

from perdure._engine.definition import StepSpec
from perdure._engine.registry import Registry
from perdure.errors import UsageError
from perdure.step import Step
from perdure.testing.failures import UnusedFake
from perdure.workflow import Workflow


@dataclass(slots=True)
class Fake:
    """What stands in for one step.

    Attributes:
        name: the step's.
        behind: what stands in where this one does not fail.
        calls: the positional and keyword arguments of each execution so far.
    """

    name: str
    function: Callable[..., Any] | None
    error: BaseException | type[BaseException] | None = None
    times: int | None = None
    behind: Fake | None = None
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(
        default_factory=list[tuple[tuple[Any, ...], dict[str, Any]]]
    )

    def stand_in(self, spec: StepSpec) -> StepSpec:
        """Return how the step is executed instead."""
        # The step's own function, when it comes to that, keeps its thread.
        threaded = not self.is_replaced and not spec.is_async

        async def execute(*args: Any, **kwargs: Any) -> Any:
            made = self.execute(spec.function, args, kwargs)
            return await made if inspect.isawaitable(made) else made

        def execute_in_thread(*args: Any, **kwargs: Any) -> Any:
            return self.execute(spec.function, args, kwargs)

        function = execute_in_thread if threaded else execute
        return replace(spec, function=function, is_async=not threaded)

    @property
    def is_replaced(self) -> bool:
        """Whether another function is executed than the step's own."""
        return self.function is not None or (self.behind is not None and self.behind.is_replaced)

    def execute(
        self, own: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note the execution and fail, or do what stands behind, or what the step itself does."""
        self.fail(args, kwargs)
        if self.behind is not None:
            return self.behind.execute(own, args, kwargs)
        return (own if self.function is None else self.function)(*args, **kwargs)

    def fail(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the execution, and raise if it is among those that are to fail."""
        self.calls.append((args, kwargs))
        if self.error is not None and (self.times is None or len(self.calls) <= self.times):
            raise self.error


class Fakes:
    """The fakes of one kit, by the name of their step."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._fakes: dict[str, Fake] = {}
        self._computed: set[str] = set()
        self._seen: set[str] = set()

    def add(
        self,
        step: Step[..., Any] | str,
        function: Callable[..., Any] | None,
        *,
        error: BaseException | type[BaseException] | None = None,
        times: int | None = None,
        computed: bool = False,
    ) -> Fake:
        """Replace a step; a failure is put before the fake that is there already.

        Raises:
            UsageError: a text names no step; the message suggests one.
        """
        name = step if isinstance(step, str) else step.name
        if isinstance(step, str):
            self._check(name, computed=computed)
        behind = self._fakes.get(name) if function is None else None
        fake = self._fakes[name] = Fake(name, function, error, times, behind)
        return fake

    def _check(self, name: str, *, computed: bool) -> None:
        if computed:
            self._computed.add(name)
            return
        decorated = self._registry.step_names()
        written = _texts_near(self._registry)
        if name in decorated or name in written:
            return
        known = [*decorated, *written]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(decorated)}"
        raise UsageError(
            f"no step named {name!r} is declared, nor is that text written in the code of a "
            f"definition; {hint} (pass computed=True where the name is computed)"
        )

    def stand_in(self, spec: StepSpec) -> StepSpec:
        """Return how a step is executed; see :data:`perdure._engine.engine.StandIn`."""
        self._seen.add(spec.name)
        fake = self._fakes.get(spec.name)
        return spec if fake is None else fake.stand_in(spec)

    def __bool__(self) -> bool:
        return bool(self._fakes)

    def check_used(self) -> None:
        """Raise for a fake of a computed name that no step had.

        Raises:
            UnusedFake: with the names that there were.
        """
        unused = sorted(self._computed - self._seen)
        if unused:
            seen = ", ".join(sorted(self._seen)) or "none"
            raise UnusedFake(f"no step named {unused[0]!r} was called; those called were: {seen}")


def _texts_near(registry: Registry) -> set[str]:
    """Return the texts written in the definitions' code and in the functions that it names.

    An inline step has its name only where it is called, so this is as much as can be known of it
    before that.
    """
    reached: dict[FunctionType, None] = {}
    pending: list[Any] = [definition.function for definition in registry]
    while pending:
        function = _function_of(pending.pop())
        if function is not None and function not in reached:
            reached[function] = None
            pending.extend(_named_in(function))
    return {text for function in reached for text in _texts(function.__code__)}


def _function_of(value: Any) -> FunctionType | None:
    if isinstance(value, Step):
        value = value.function  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- of whatever kind
    elif isinstance(value, Workflow):
        value = value.definition.function
    unwrapped: Any = inspect.unwrap(value) if callable(value) else None  # pyright: ignore[reportUnknownArgumentType]
    return unwrapped if isinstance(unwrapped, FunctionType) else None


def _named_in(function: FunctionType) -> Iterator[Any]:
    """Yield what the names in a function's code mean, as far as they are global or closed over."""
    names = set(_names(function.__code__))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            yield from (found for name in names if (found := vars(value).get(name)) is not None)
        elif isinstance(value, type):
            yield from vars(value).values()
        elif value is not None:
            yield value
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _names(constant)


def _texts(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif inspect.iscode(constant):
            yield from _texts(constant)
