"""What the engine knows of a workflow, job or step: plain records, made by the authoring layer."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from perdure._engine import late
from perdure._engine.keys import NOTHING_SAID, KeyOf, OnTaken
from perdure.codec import Arguments, Schema
from perdure.errors import DefinitionError, DuplicateName, InvalidValue, UsageError, shown
from perdure.event import type_name
from perdure.model.records import Micros, ParentClose
from perdure.model.retention import DEFAULT, Retention
from perdure.retry import RetryPolicy
from perdure.timing import Missed, Timing, next_instant

if TYPE_CHECKING:
    from perdure._engine.services import Held
    from perdure.model.events import Listener
    from perdure.model.schedules import PutSchedule

Function: TypeAlias = Callable[..., Any]
"""A user's function: its result is a value (``def``) or an awaitable of one (``async def``)."""


def place_of(function: Function) -> str:
    """Return ``file:line`` of a function, for messages."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return repr(function)
    return f"{code.co_filename}:{code.co_firstlineno}"


def check_function(given: object, what: str) -> None:
    """Check that something can be a body or a step.

    Args:
        given: what was passed for the function.
        what: how a message calls its use, such as ``"a workflow"``.

    Raises:
        DefinitionError: it cannot be called, is the call of a function instead of the function,
            or is a generator function, of which a call executes nothing.
    """
    if inspect.iscoroutine(given):
        given.close()
        raise DefinitionError(
            f"{what} is made of a function, got the coroutine of a call; pass the function itself: "
            "`function`, not `function(argument)`"
        )
    if not callable(given):
        raise DefinitionError(f"{what} is made of a function, got {shown(given)}")
    inner: Any = given
    while isinstance(inner, partial):
        inner = inner.func
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise DefinitionError(
            f"{what} cannot be the generator function {inner.__qualname__}: calling it executes "
            "nothing of it; return a list in place of `yield`"
        )


def refuse_a_call(value: object, name: str) -> None:
    """Check that a body written with ``def`` did not return a call that it cannot await.

    Raises:
        UsageError: it did; the message says what to write.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise UsageError(
            f"the body of {name!r} is written with `def` and returned the coroutine of a call, "
            "which it cannot await; write it with `async def` (a decorator around it, too), or "
            'call steps with `step.sync("name", function, …)`'
        )


class StepSpec(msgspec.Struct):
    """How a step is executed.

    Args:
        name: the step's name, part of its identity.
        function: what to call.
        is_async: whether it is awaited on the loop or called in a thread.
        arguments: how its arguments are bound and fingerprinted; knows the result's schema.
        policy: its durable attempts.
        timeout: seconds an attempt may take; None for no limit.
        was: an older name under which records may still be found.
        at_most_once: its start is recorded before it, and what was started is not started again.
    """

    name: str
    function: Function
    is_async: bool
    arguments: Arguments
    policy: RetryPolicy
    timeout: float | None
    was: str | None = None
    at_most_once: bool = False
    _result: Schema[Any] | None = None

    @property
    def result(self) -> Schema[Any]:
        """The schema its result passes; resolved at first use, models may be declared later."""
        found = self._result
        if found is None:
            found = self._result = self.arguments.result
        return found


class Recurring(msgspec.Struct, frozen=True):
    """When a definition is started again and again.

    Args:
        key: of the schedule in the store.
        timing: checked.
        missed: what becomes of instants that nobody fired.
    """

    key: str
    timing: Timing
    missed: Missed


class Definition(msgspec.Struct):
    """A workflow or job as the engine sees it.

    Args:
        name: unique in its app.
        function: the body.
        is_async: whether the body is awaited on the loop or called in a thread.
        arguments: how its input is encoded and decoded; knows the result's schema.
        policy: attempts of the whole run.
        timeout: seconds an attempt of the body may take on a worker; None for no limit.
        version: changes when the code does; see mismatch.
        queue, priority: where its runs wait and in which order, unless a call says otherwise.
        place: file and line, for messages.
        services: makes the context's services for whoever the text names; None where there is
            no app to make them.
        description, tags: for people.
        on: the types of the events that start it.
        where: says of such an event whether it is wanted; None for all.
        recurring: when it is started again and again; None for never.
        on_cancel: what is executed as a step when a run of it is cancelled that had begun; None
            for nothing.
        unique_key, limit_key: of its runs, unless a call says otherwise.
        on_taken: what becomes of a call whose unique_key is taken, unless it says otherwise.
        retention: for how long its ended runs are kept.
        on_parent_close: what becomes of a run of it that a body has started when that run ends,
            unless the call says otherwise.
        pinned: its runs end with the version that they began with.
        earlier: by version, the code that it was before and that may still be executed.
    """

    name: str
    function: Function
    is_async: bool
    arguments: Arguments
    policy: RetryPolicy
    timeout: float | None
    version: str
    queue: str
    priority: int
    place: str
    services: Callable[[str], Awaitable[Held]] | None
    description: str
    tags: tuple[str, ...]
    on: tuple[object, ...] = ()
    where: Callable[[Any], bool] | None = None
    recurring: Recurring | None = None
    on_cancel: StepSpec | None = None
    unique_key: KeyOf | None = None
    limit_key: KeyOf | None = None
    on_taken: OnTaken = NOTHING_SAID
    retention: Retention = DEFAULT
    on_parent_close: ParentClose = ParentClose.ABANDON
    pinned: bool = False
    earlier: dict[str, tuple[Function, Arguments]] = msgspec.field(
        default_factory=dict[str, tuple[Function, Arguments]]
    )
    _result: Schema[Any] | None = None
    _injects: bool | None = None

    @property
    def result(self) -> Schema[Any]:
        """The schema its result passes; resolved at first use, models may be declared later."""
        found = self._result
        if found is None:
            found = self._result = self.arguments.result
        return found

    def add_earlier(self, function: Function, arguments: Arguments, version: str) -> None:
        """Keep the code of an earlier version.

        Args:
            function: the body.
            arguments: of it.
            version: which its code had.

        Raises:
            DuplicateName: that version is the present one, or is there.
        """
        there = self.with_version(version)
        if there is not None:
            raise DuplicateName(
                f"{self.name!r} has version {version!r} already: {there.place}; say another one"
            )
        self.earlier[version] = (function, arguments)

    def with_version(self, version: str) -> Definition | None:
        """Return the definition with the code of a version; None where that is not here.

        What is not the code's is that of today.
        """
        if version == self.version:
            return self
        if version not in self.earlier:
            return None
        function, arguments = self.earlier[version]
        return msgspec.structs.replace(
            self,
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            arguments=arguments,
            version=version,
            place=place_of(function),
            where=None,
            _result=None,
            _injects=None,
        )

    def codes(self) -> list[Definition]:
        """Return the definition with each code that is here, the present one first."""
        earlier = [self.with_version(version) for version in self.earlier]
        return [self, *(one for one in earlier if one is not None)]

    def listeners(self) -> list[Listener]:
        """Return what is registered for it: one listener for each type that it listens to.

        Raises:
            DefinitionError: its body does not take one event as its argument.
        """
        if not self.on:
            return []
        parameter = self.arguments.only()
        if parameter is None:
            raise DefinitionError(
                f"{self.name!r} (declared at {self.place}) listens to events, so its body takes "
                "one argument, the event, beside its context; others need defaults"
            )
        return [
            late.model_events.Listener(
                type_name(one),
                self.name,
                parameter,
                self.version,
                self.queue,
                self.priority,
                self.tags,
            )
            for one in self.on
        ]

    def cleans(self) -> bool:
        """Tell whether there is something to do when a run of it is cancelled.

        Raises:
            DefinitionError: that asks for an argument that the body has not.
        """
        if self.on_cancel is None:
            return False
        for code in self.codes():
            unknown = set(self.on_cancel.arguments.needed()) - set(code.arguments.names)
            if unknown:
                raise DefinitionError(
                    f"on_cancel of {self.name!r} (declared at {code.place}) asks for "
                    f"{', '.join(sorted(unknown))}, which the body has no argument for; it has "
                    f"{', '.join(code.arguments.names) or 'none'}"
                )
        return True

    def put_schedule(self, now: Micros) -> PutSchedule | None:
        """Return what puts its schedule into the store; None where it has none.

        Raises:
            DefinitionError: its body cannot be called without arguments.
        """
        recurring = self.recurring
        if recurring is None:
            return None
        try:
            data = self.arguments.encode((), {})
        except InvalidValue as error:
            raise DefinitionError(
                f"{self.name!r} (declared at {self.place}) is started by its schedule, so its body "
                f"needs no arguments: {error}; give them defaults, or use .schedule(…) with them"
            ) from error
        schedule = late.schedules.Schedule(
            recurring.key,
            recurring.timing,
            self.name,
            data,
            self.version,
            self.queue,
            self.priority,
            tags=self.tags,
            missed=recurring.missed,
            from_code=True,
            limit_key=None if self.limit_key is None else self.limit_key(data),
        )
        return late.schedules.PutSchedule(schedule, next_instant(recurring.timing, now))

    @property
    def injects(self) -> bool:
        """Whether its signature asks for the context."""
        found = self._injects
        if found is None:
            found = self._injects = bool(self.arguments.injected)
        return found
