"""What a body may do durably: steps, joins of children, and values that are equal on replay.

A step is an ordinary function. Called inside a run it is executed once, its outcome is recorded,
and a replay gets the record; called anywhere else it just runs.
"""

from __future__ import annotations

import asyncio
import inspect
import random as _random
import time
import uuid as _uuid
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from functools import partial, update_wrapper
from hashlib import blake2b
from types import FunctionType
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import msgspec

from perdure import _late, defaults
from perdure._engine import late
from perdure._engine import scope as scopes
from perdure._engine.definition import StepSpec, check_function
from perdure._engine.scope import Call, Scope, call_site
from perdure._engine.unawaited import reads_as
from perdure.clock import SystemClock, to_datetime, to_micros_instant
from perdure.codec import Arguments, Schema, fingerprint, schema
from perdure.duration import Duration, named_micros
from perdure.errors import DefinitionError, NotInRun, PayloadTooLarge, UsageError, shown
from perdure.event import type_name
from perdure.handle import Run
from perdure.ids import Ids, check_id
from perdure.model.records import Micros, Status, StepKind
from perdure.retry import Backoff, RetryOn, RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Step(Generic[P, R]):
    """A decorated function: durable inside a run, itself everywhere else.

    Calling one that is written with ``async def`` fixes its identity at once and returns a
    coroutine, so ``gather(charge(a), charge(b))`` numbers its calls in the order they are written.
    One written with ``def`` is for bodies written with ``def``, where it blocks; in an async body
    write ``await step("name", function, …)``.
    """

    def __init__(self, spec: StepSpec) -> None:
        self._spec = spec
        update_wrapper(cast("Callable[..., Any]", self), spec.function)

    @property
    def name(self) -> str:
        """The name under which it is recorded."""
        return self._spec.name

    @property
    def spec(self) -> StepSpec:
        """How it is executed: for the layers beside."""
        return self._spec

    @property
    def function(self) -> Callable[P, R]:
        """The function that was decorated."""
        return self._spec.function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Execute the step, or return what is recorded."""
        scope = scopes.current()
        if scope is None:
            late.adrift.check(f"step {self._spec.name!r}")
            return cast("R", self._spec.function(*args, **kwargs))
        spec = _executed(self._spec, scope)
        if args or kwargs or spec.arguments.takes_any:
            digest, text = spec.arguments.fingerprint(args, kwargs)
        else:
            digest, text = b"", ""
        call = make_call(scope, spec, digest, text, call_site(2))
        durable = late.calls.perform(call, spec, args, kwargs)
        if spec.is_async:
            return cast("R", durable)
        return cast("R", late.calls.block_on(scope.activation, durable))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind like a function does, so that a method can be a step."""
        return self if instance is None else partial(cast("Callable[..., Any]", self), instance)

    def __repr__(self) -> str:
        return f"<step {self._spec.name!r}>"


def _executed(spec: StepSpec, scope: Scope) -> StepSpec:
    """Return how the step is executed: as it says, unless a test has put something in its place."""
    stand_in = scope.activation.engine.stand_in
    return spec if stand_in is None else stand_in(spec)


def make_call(scope: Scope, spec: StepSpec, digest: bytes, text: str, site: str) -> Call:
    """Fix the identity of a step's call; look for it under its older name too."""
    call = Call(scope, StepKind.STEP, spec.name, digest, text, site)
    if spec.was is not None:
        old = Call(scope, StepKind.STEP, spec.was, digest, text, site)
        if call.record is None and old.record is not None:
            return old
    return call


class StepOptions(msgspec.Struct, frozen=True):
    """What a decorator or ``step.options`` says about a step, checked."""

    name: str | None = None
    max_attempts: int | None = None
    backoff: Backoff | Callable[[int, BaseException], Duration] | None = None
    retry_on: RetryOn = None
    timeout: Duration | None = defaults.STEP_TIMEOUT
    was: str | None = None
    at_most_once: bool = False

    def spec(self, function: Callable[..., Any], name: str) -> StepSpec:
        """Return how a function is executed as a step of that name.

        Raises:
            DefinitionError, InvalidValue, InvalidDuration: the function, its name or an option
                does not do.
        """
        check_function(function, "a step")
        return StepSpec(
            name=check_name(name),
            function=function,
            is_async=_is_async(function),
            arguments=Arguments(function, anything=True),
            policy=self._policy(name),
            timeout=None
            if self.timeout is None
            else named_micros(self.timeout, f"timeout of step {name!r}") / 1e6,
            was=None if self.was is None else check_name(self.was, "was, a step's older name,"),
            at_most_once=self.at_most_once,
        )

    def check(self) -> None:
        """Refuse what no function could be a step with.

        Raises:
            DefinitionError, InvalidDuration: an option does not do.
        """
        self._policy("step.options(…)")
        if self.timeout is not None:
            named_micros(self.timeout, "timeout of step.options(…)")

    def _policy(self, name: str) -> RetryPolicy:
        if not isinstance(self.at_most_once, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"at_most_once of step {name!r} is true or false, got {shown(self.at_most_once)}"
            )
        if self.at_most_once:
            if self.max_attempts not in {None, 1} or self.backoff or self.retry_on is not None:
                raise DefinitionError(
                    f"step {name!r} is at_most_once, which leaves nothing to try again; drop "
                    "max_attempts, backoff and retry_on, or at_most_once"
                )
            return RetryPolicy(1)
        attempts = defaults.STEP_MAX_ATTEMPTS if self.max_attempts is None else self.max_attempts
        policy = RetryPolicy(attempts, retry_on=self.retry_on)
        return (
            policy
            if self.backoff is None
            else msgspec.structs.replace(policy, backoff=self.backoff)
        )


def check_name(name: str, what: str = "a step's name") -> str:
    """Return a step's name if it can be part of a path.

    Raises:
        DefinitionError: it is empty, too long, or contains ``/`` or begins with ``~``.
    """
    check_id(name, what)
    if "/" in name or name.startswith("~"):
        raise DefinitionError(
            f'{what} may not contain "/" nor begin with "~" (they structure paths), got {name!r}'
        )
    return name


def _is_async(function: Callable[..., Any]) -> bool:
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(inner, "__call__", None)  # noqa: B004 -- asks for a coroutine method, not callability
    )


_OTHER_WORDS: dict[str, str] = dict.fromkeys(("retries", "max_retries", "attempts"), "max_attempts")
"""What other libraries call it."""


def refuse_unknown(record: type[Any], options: Iterable[str]) -> None:
    """Raise for an option that a definition or a step does not have.

    Args:
        record: the dataclass or typed dictionary whose fields are the options.
        options: the names that were given.

    Raises:
        DefinitionError: the message suggests one that does.
    """
    known = [*inspect.get_annotations(record)]
    for name in options:
        if name not in known:
            close = _late.difflib.get_close_matches(name, [*known, *_OTHER_WORDS], n=1)
            hint = f"there are {', '.join(known)}"
            if close:
                hint = f"did you mean {_OTHER_WORDS.get(close[0], close[0])!r}?"
            raise DefinitionError(f"there is no option {name!r}; {hint}")


MOST_SPECS = 1_000
"""How many steps' functions are kept inspected: names may be made up at every call."""


class Inline:
    """Calls any function as a step, named where it is called; get one from ``step.options``."""

    def __init__(self, options: StepOptions) -> None:
        self._options = options
        self._specs: dict[tuple[str, Callable[..., Any]], StepSpec] = {}

    @overload
    def __call__(
        self, name: str, function: Callable[P, Coroutine[Any, Any, T]], /,
        *args: P.args, **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, T]: ...  # fmt: skip
    @overload
    def __call__(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    def __call__(
        self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Execute ``function(*args, **kwargs)`` as a step of that name.

        A ``def`` is called in a thread, an ``async def`` awaited.
        """
        return self.make(name, function, args, kwargs, call_site(2))

    def sync(self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do the same for a body written with ``def``: block until it is done.

        Raises:
            NotInRun: called on the event loop's thread.
        """
        scope = scopes.current()
        if scope is None:
            late.adrift.check(f"step {name!r}")
            check_name(name)
            if not callable(function):
                raise UsageError(_not_callable(name, function))
            check_function(function, "a step")
            return function(*args, **kwargs)
        return cast(
            "T",
            late.calls.block_on(
                scope.activation, self.make(name, function, args, kwargs, call_site(2))
            ),
        )

    def make(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        site: str,
    ) -> Coroutine[Any, Any, Any]:
        """Fix the identity of the call and return the coroutine that carries it out."""
        if not callable(function):
            raise UsageError(_not_callable(name, function))
        if isinstance(function, Step):
            function = cast("Step[..., Any]", function).function
        scope = scopes.current()
        spec = self.spec_of(name, function)
        if scope is None:
            late.adrift.check(f"step {name!r}")
            return _just_run(spec, args, kwargs)
        spec = _executed(spec, scope)
        digest, text = fingerprint(args, kwargs) if args or kwargs else (b"", "")
        return late.calls.perform(make_call(scope, spec, digest, text, site), spec, args, kwargs)

    def spec_of(self, name: str, function: Callable[..., Any]) -> StepSpec:
        """Return how a function is executed under a name: for the layers beside."""
        # Keeping the spec saves inspecting the function at every call: 12 us. One that was made in
        # a body is another at the next call and must be let go, with all that it closes over.
        if type(function) is not FunctionType or "<locals>" in function.__qualname__:
            return self._options.spec(function, name)
        spec = self._specs.get((name, function))
        if spec is None:
            if len(self._specs) >= MOST_SPECS:
                self._specs.clear()
            spec = self._specs[name, function] = self._options.spec(function, name)
        return spec


def _not_callable(name: str, given: object) -> str:
    if inspect.iscoroutine(given):
        given.close()
        return (
            f"step({name!r}, …) was given a coroutine; pass the function and its arguments apart: "
            f"`await step({name!r}, function, argument)`, not `function(argument)`"
        )
    return f"step({name!r}, …) takes a function, got {shown(given)}"


@reads_as("step(…) without `await`")
async def _just_run(spec: StepSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if spec.is_async:
        return await spec.function(*args, **kwargs)
    result = await asyncio.to_thread(spec.function, *args, **kwargs)
    return await result if inspect.isawaitable(result) else result


class StepVerb(Inline):
    """``step``: a decorator for functions, and a call that makes any function a step.

    Example::

        @step(max_attempts=5, timeout="30s")
        async def charge(order_id: str, cents: int) -> str: ...

        payment = await charge("o1", 499)
        await step("reserve", reserve_stock, "o1")
        await step.options(max_attempts=1)("notify", notify, "o1")
    """

    @overload
    def __call__(
        self, name: str, function: Callable[P, Coroutine[Any, Any, T]], /,
        *args: P.args, **kwargs: P.kwargs,
    ) -> Coroutine[Any, Any, T]: ...  # fmt: skip
    @overload
    def __call__(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        max_attempts: int = ...,
        backoff: Backoff | Callable[[int, BaseException], Duration] | None = None,
        retry_on: RetryOn = None,
        timeout: Duration | None = ...,
        was: str | None = None,
        at_most_once: bool = False,
    ) -> Callable[[Callable[P, R]], Step[P, R]]: ...
    def __call__(self, name: Any = None, function: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        """Decorate, or call a function as a step; see the class."""
        if isinstance(name, str):
            if function is None:
                raise UsageError(f"step({name!r}) needs the function to call as well")
            return self.make(name, function, args, kwargs, call_site(2))
        if name is None:
            refuse_unknown(StepOptions, kwargs)
            return partial(decorate, options=StepOptions(**kwargs))
        if function is not None or kwargs:
            raise UsageError('write @step, @step(option=…) or `await step("name", function, …)`')
        return decorate(name, StepOptions())

    def options(
        self,
        *,
        max_attempts: int | None = None,
        backoff: Backoff | Callable[[int, BaseException], Duration] | None = None,
        retry_on: RetryOn = None,
        timeout: Duration | None = defaults.STEP_TIMEOUT,
        at_most_once: bool = False,
    ) -> Inline:
        """Return ``step`` as an inline call with other attempts, back-off or timeout.

        Args:
            max_attempts: how often it is tried in all, the first included; None for 3.
            backoff: how long to wait in between.
            retry_on: exception classes or a predicate; None for every ``Exception``.
            timeout: how long one attempt may take; None for no limit.
            at_most_once: record the start before the function is called, which costs one more
                write, and never call it again: see :meth:`App.step`.

        Raises:
            DefinitionError, InvalidDuration: an option does not do.
        """
        chosen = StepOptions(
            None, max_attempts, backoff, retry_on, timeout, at_most_once=at_most_once
        )
        chosen.check()
        return Inline(chosen)


def decorate(function: Callable[P, R], options: StepOptions) -> Step[P, R]:
    """Return the step that a decorator makes of a function.

    Raises:
        DefinitionError: it has no name of its own and is given none.
    """
    check_function(function, "a step")
    if isinstance(function, Step):
        raise DefinitionError(f"{function!r} is a step already")
    name = options.name
    if name is None:
        name = getattr(function, "__name__", "")
        if not name or name == "<lambda>":
            raise DefinitionError(f"{shown(function)} has no name; write a `def`, or pass name=…")
    return Step(options.spec(function, name))


step = StepVerb(StepOptions())
"""Decorator and inline call; see :class:`StepVerb`."""


# --- bodies written with def -----------------------------------------------------------------


def block_on(call: Coroutine[Any, Any, T], /) -> T:
    """Carry out a durable call in code written with ``def``, and return its result.

    What an ``async def`` body awaits, a body or a step written with ``def`` blocks on: starting a
    child, its result, ``gather``, a verb of a run. ``sleep``, ``wait_for_event`` and steps
    (``step.sync``, and decorated ones that are written with ``def``) block there by themselves. It
    works in a body that is run here and now, too.

    Args:
        call: the coroutine of the call.

    Raises:
        UsageError: it is no coroutine.
        NotInRun: called elsewhere, or on the event loop's thread.

    Example::

        @app.workflow
        def fulfil(order_id: str) -> str:
            run = block_on(ship.enqueue(order_id))
            return block_on(run.result())
    """
    if not inspect.iscoroutine(call):
        raise UsageError(
            f"block_on takes a durable call, such as job.enqueue(…), got {shown(call)}; steps and "
            "sleeps of a body written with `def` block by themselves"
        )
    scope = scopes.current()
    if scope is not None:
        return cast("T", late.calls.block_on(scope.activation, call))
    here = late.undoing.here_and_now()
    if here is None or late.calls.on_a_loop():
        call.close()
        raise NotInRun(
            "block_on is for bodies and steps that are written with `def`; elsewhere, write `await`"
        )
    return cast("T", asyncio.run_coroutine_threadsafe(call, here.loop).result())


# --- joins -----------------------------------------------------------------------------------


async def gather(*runs: Run[T]) -> list[T]:
    """Wait for runs to end and return their results, in the order given.

    Inside a body this is one join: suspended, the body is woken once, when the last of them has
    ended, however many there are.

    Args:
        runs: handles, usually of children started by this body.

    Raises:
        RunFailed, RunCancelled: of the first, in the order given, that has no result; all of them
            have ended by then.
    """
    for run in runs:
        _check_run(run)
    scope = scopes.current()
    if scope is None:
        return list(await asyncio.gather(*(run.result() for run in runs)))
    if any(run.engine is not scope.activation.engine for run in runs):
        raise UsageError("gather joins runs of the body's own app; await the others one by one")
    join = scope.activation.next_join()
    site = call_site(1)
    calls = [run.result_call(scope, site) for run in runs]
    endings = await asyncio.gather(
        *(
            late.children.child_ending(call, run.id, join)
            for call, run in zip(calls, runs, strict=True)
        )
    )
    # One error is raised, but a retry of the body asks after all that ended without a result.
    failed = tuple(
        call.key
        for call, ending in zip(calls, endings, strict=True)
        if ending.status is not Status.COMPLETED
    )
    return [run.unwrap(ending, failed) for run, ending in zip(runs, endings, strict=True)]


def _check_run(given: object) -> None:
    found = type(given).__name__
    if isinstance(given, Run):
        return
    if inspect.iscoroutine(given):
        given.close()
        raise UsageError(
            "gather joins runs, got a coroutine; write `gather(await job.enqueue(…), …)` to join "
            "children, and asyncio.gather(…) to await steps side by side"
        )
    hint = "; write gather(*runs)" if isinstance(given, list | tuple) else ""
    raise UsageError(f"gather joins runs (what enqueue returns), got <{found}>{hint}")


# --- waits for a time --------------------------------------------------------------------------


def sleep(duration: Duration, /, *, name: str = "sleep") -> Coroutine[Any, Any, None]:
    """Wait durably: a body that does nothing else leaves its worker and costs nothing meanwhile.

    When it ends is recorded before the wait begins, by the store's clock: a kill, another worker
    or a clock that jumps change nothing, and neither does another ``duration`` in the code of a
    run in flight. It is never early, and late by at most a second if a slot is free. In a body
    written with ``def`` it blocks. Outside of a run it is an ordinary sleep.

    Args:
        duration: how long: ``"3d"``, a ``timedelta``, ISO 8601; at most a thousand years.
        name: part of its identity, for bodies with several sleeps that may be reordered in flight.

    Raises:
        InvalidDuration: it is none.
        UsageError: it stands inside ``asyncio.timeout``.

    Example::

        await sleep("1h")
    """
    return _sleep(named_micros(duration, "sleep"), check_name(name), str(duration), call_site(2))


def sleep_until(instant: datetime, /, *, name: str = "sleep") -> Coroutine[Any, Any, None]:
    """Wait durably until an instant; see :func:`sleep`. One that has passed is no wait.

    Args:
        instant: an aware datetime.
        name: as for :func:`sleep`.

    Raises:
        InvalidValue: the datetime is naive.
    """
    due = to_micros_instant(instant)
    scope = scopes.current()
    here = SystemClock().now() if scope is None else scope.activation.engine.store_now()
    return _sleep(max(0, due - here), check_name(name), instant.isoformat(), call_site(2))


def _sleep(delay: Micros, name: str, text: str, site: str) -> Coroutine[Any, Any, None]:
    scope = scopes.current()
    if scope is None:
        late.adrift.check(f"{name}({text})")
        if late.calls.on_a_loop() or late.undoing.here_and_now() is None:
            return asyncio.sleep(delay / 1e6)
        time.sleep(delay / 1e6)
        return cast("Coroutine[Any, Any, None]", None)  # as below
    call = Call(scope, StepKind.SLEEP, name, b"", text, site)
    waiting = late.calls.sleep(call, delay)
    if late.calls.on_a_loop():
        return waiting
    late.calls.block_on(scope.activation, waiting)
    return cast("Coroutine[Any, Any, None]", None)  # a `def` body looks at no result


# --- code that changes under runs in flight ------------------------------------------------------


def patched(name: str, /) -> bool:
    """Tell whether this run goes by the new code at a place that has changed.

    True for a run that comes here for the first time, False for one that had passed this place
    when the call was not there yet. What is answered first holds for the whole run: it is recorded
    and the same on every replay, in every branch and each time the body comes by that name. Once
    ``perdure check`` finds no run in flight that goes by the old code, the call and that code can
    be removed.

    Outside of a run, and where the body is run here and now, it is True.

    Args:
        name: of the change; as a step's.

    Raises:
        DefinitionError, InvalidValue: it is no name.

    Example::

        if patched("weigh first"):
            await weigh(order)
        await pack(order)
    """
    scope = scopes.current()
    check_name(name, "a patch's name")
    return True if scope is None else late.patches.decide(scope.activation, name, call_site(2))


# --- how far a run is ----------------------------------------------------------------------------

_said: Schema[Any] = schema(Any)


def progress(value: Any, /) -> None:
    """Say how far the run is, for people who look at it meanwhile.

    Called in a body or in a step, as often as one likes: it waits for nothing, the last word
    counts, and it is written at most twice a second and before the run leaves its worker. What a
    body says while it replays what is recorded was said before, and is left out. Whoever has the
    run reads it with ``run.progress()``.

    Outside of any run, and where a body is run here and now, the value is checked and dropped.

    Args:
        value: whatever JSON can say, up to a KiB: ``0.4``, ``"packed 4 of 10"``,
            ``{"done": 4, "of": 10}``.

    Raises:
        InvalidValue: it cannot be encoded.
        PayloadTooLarge: it is over a KiB.
        NotInRun: called in a thread that the body started by itself.

    Example::

        for number, parcel in enumerate(parcels):
            progress(number / len(parcels))
            await pack(parcel)
    """
    data = _said.encode(value, verb="progress()")
    if len(data) > defaults.PROGRESS_LIMIT:
        raise PayloadTooLarge(
            f"what progress() says is {len(data):,} bytes encoded, the limit is "
            f"{defaults.PROGRESS_LIMIT:,}; give out what is longer in a stream"
        )
    scope = scopes.current()
    if scope is None:
        late.adrift.check("progress()")
    else:
        late.progress.say(scope, data)


# --- what a step may ask about itself ----------------------------------------------------------


_compensations = Inline(StepOptions())


@overload
def compensate(function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
@overload
def compensate(
    name: str, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
) -> None: ...
def compensate(first: Any, /, *args: Any, **kwargs: Any) -> None:
    """Register a call that undoes what the body has done, should the run fail or be cancelled so.

    It writes nothing and may be called as often as there is something to undo: before the step that
    it undoes, where a failure of that may leave its effect, or after it. When no attempt of the run
    is left, and after ``run.cancel(compensate=True)``, the registered calls are executed, the last
    one first, each as a step with its own attempts; one that fails keeps none of the others from
    being executed, and the run ends ``failed`` with the reason ``compensation``.

    Args:
        first: a step or a function; or a name under which to record it, and then the function.
        *args: of the call.
        **kwargs: of the call.

    Raises:
        NotInRun: called outside of a body.
        UsageError: called in a step, or in a body that is run inline, whose calls are not made
            again on a replay; or it was given no function.
        InvalidValue: the arguments do not fit.

    Example::

        @app.workflow
        async def book(trip: str) -> str:
            flight = await reserve_flight(trip)
            compensate(cancel_flight, flight)
            return await reserve_hotel(trip)  # should it fail, the flight is cancelled
    """
    name: str | None = None
    if isinstance(first, str):
        name, (first, *rest) = first, args or (None,)
        args = tuple(rest)
    if not callable(first):
        raise UsageError(
            "compensate takes a step or a function and its arguments, got "
            f"{shown(cast('object', first))}; write compensate(refund, payment)"
        )
    if isinstance(first, Step):
        spec = cast("Step[..., Any]", first).spec
        if name is not None:
            spec = msgspec.structs.replace(spec, name=check_name(name))
    else:
        called = name or str(getattr(first, "__name__", ""))
        spec = _compensations.spec_of(check_name(called), first)
    digest, text = spec.arguments.fingerprint(args, kwargs)
    made = late.undoing.Compensation(spec, args, kwargs, digest, text, call_site(2))
    scope = scopes.current()
    if scope is None:
        if not late.undoing.register_here(made):
            raise NotInRun("compensate() undoes what a body did; it was called outside of one")
        return
    late.undoing.register(scope, made)


class CurrentStep(msgspec.Struct, frozen=True):
    """What a step may know of the call that executes it.

    Attributes:
        run_id: of the run it is a step of; None where it was called outside of any.
        path: of the step, as the history shows it.
        attempt: which this is, counted from 1.
        idempotency_key: 32 hexadecimal digits that are the same at every attempt, retry of the
            run, replay and worker, and of no other call: to be handed to what the step asks for
            an effect, so that it can tell a second request from the first. A restarted run has
            others.
    """

    run_id: str | None
    path: str
    attempt: int
    idempotency_key: str


_OUTSIDE = Ids()


def current_step() -> CurrentStep:
    """Return what the step that calls this may know of its call.

    Code that is called outside of any run finds a key of its own each time, so that a step stays
    an ordinary function.

    Raises:
        NotInRun: called in a body, outside of its steps.

    Example::

        @step
        async def charge(order_id: str, cents: int) -> str:
            headers = {"Idempotency-Key": current_step().idempotency_key}
            ...
    """
    scope = scopes.current()
    if scope is None:
        return CurrentStep(None, "", 1, _OUTSIDE.run_id().replace("-", ""))
    if scope.attempt is None:
        raise NotInRun("current_step() is for the code of a step; it was called in a body")
    call, attempt = scope.attempt
    run = scope.activation.run
    key = blake2b(f"{run.run_id}\0{run.generation}\0".encode(), digest_size=16)
    key.update(call.inner_digest())
    return CurrentStep(run.run_id, call.path, attempt, key.hexdigest())


# --- events --------------------------------------------------------------------------------------


@overload
def wait_for_event(
    event: type[T],
    /,
    *,
    key: str | None = None,
    timeout: Duration | None = None,
    name: str | None = None,
) -> Coroutine[Any, Any, T]: ...
@overload
def wait_for_event(
    event: str,
    /,
    *,
    key: str | None = None,
    timeout: Duration | None = None,
    name: str | None = None,
) -> Coroutine[Any, Any, Any]: ...
def wait_for_event(
    event: type[Any] | str,
    /,
    *,
    key: str | None = None,
    timeout: Duration | None = None,
    name: str | None = None,
) -> Coroutine[Any, Any, Any]:
    """Wait durably for an event that was published, or sent to this run, and return it.

    It takes the oldest one that fits and was accepted since the run was created: an event may
    come before the wait begins. Each event satisfies one wait of a run; the one that started the
    run satisfies none. A body that does nothing else leaves its worker meanwhile.

    Args:
        event: the class of the event, or the name of its type; then it is what JSON makes of it.
        key: only one that was published with this key, such as an order's id; None for any.
        timeout: how long to wait at most, counted by the store's clock from the first time that
            the body comes here; None for as long as it takes.
        name: part of the wait's identity; the type's name by default.

    Raises:
        EventTimeout: none came in time, now and on every replay. An event that was accepted in time
            is taken however late a worker looks, and one that came later never is.
        NotInRun: called outside of a run.
        UsageError: inside a step or ``asyncio.timeout``, or ``event`` is no type of events.
        InvalidValue: the event does not fit its class.

    Example::

        try:
            packed = await wait_for_event(Packed, key=order.id, timeout="3d")
        except EventTimeout:
            await remind(order)
    """
    type_ = type_name(event)
    micros = None if timeout is None else named_micros(timeout, "timeout")
    if key is not None:
        check_id(key, "an event's key")
    path = check_name(type_ if name is None else name, "the name of a wait")
    scope = _scope_for("wait_for_event", "waits for an event on behalf of a run")
    kind = StepKind.WAIT_FOR_EVENT
    call = Call(scope, kind, path, late.events.key_digest(key), key or "", call_site(2))
    wanted = late.events.Wanted(
        type_, key, micros, schema(Any if isinstance(event, str) else event)
    )
    waiting = late.events.take_event(call, wanted)
    return waiting if late.calls.on_a_loop() else late.calls.block_on(scope.activation, waiting)


# --- values that are equal on replay -----------------------------------------------------------


def _scope_for(what: str, does: str = "derives its value from a run") -> Scope:
    scope = scopes.current()
    if scope is None:
        raise NotInRun(f"{what}() {does}; it was called outside of one")
    return scope


def now() -> datetime:
    """Return the time of the newest recorded step this code has seen, aware, in UTC.

    It stands still between steps, needs no write, and is equal on replay.

    Raises:
        NotInRun: called outside of a run.
    """
    return to_datetime(_scope_for("now").newest)


def uuid() -> _uuid.UUID:
    """Return a UUID derived from the run and the place of the call: equal on replay.

    Raises:
        NotInRun: called outside of a run.
    """
    return _uuid.UUID(bytes=_drawn("uuid"), version=4)


def random() -> _random.Random:
    """Return a random number generator seeded by the run and the place of the call.

    Raises:
        NotInRun: called outside of a run.
    """
    return _random.Random(_drawn("random"))  # noqa: S311 -- equal on replay is the point


def _drawn(what: str) -> bytes:
    scope = _scope_for(what)
    number = scope.draws
    scope.draws = number + 1
    seed = f"{scope.activation.seed}\0{number}\0{what}".encode()
    return blake2b(seed + scope.digest, digest_size=16).digest()
