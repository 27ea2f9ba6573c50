"""Declaring workflows and jobs, and the typed surface through which they are called.

A definition is one thing, whatever declared it; a job is a workflow whose body is one unit of
work. Every verb takes exactly the body's own arguments (without an injected ``Context``), so that
editors complete them and type checkers prove them; options never mix in: they go through
:meth:`Workflow.options`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from hashlib import blake2b
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

import msgspec

from perdure import defaults
from perdure._engine import late
from perdure._engine import scope as scopes
from perdure._engine.context import CallOptions, encode_options
from perdure._engine.definition import (
    Definition,
    Recurring,
    StepSpec,
    check_function,
    place_of,
    refuse_a_call,
)
from perdure._engine.engine import Engine
from perdure._engine.keys import NOTHING_SAID, FromArguments, KeyOf, OnTaken
from perdure._engine.scope import Call, call_site
from perdure._engine.unawaited import reads_as
from perdure.codec import Arguments
from perdure.context import Context
from perdure.duration import Duration, named_micros
from perdure.errors import (
    DefinitionError,
    InvalidValue,
    PerdureError,
    RunConflict,
    UsageError,
    shown,
)
from perdure.event import types_of
from perdure.handle import Run
from perdure.ids import check_id
from perdure.model.keys import KeyRule
from perdure.model.records import Micros, ParentClose, StepKind
from perdure.retention import Age, Retention, retention_given, retention_of_call
from perdure.retry import Backoff, RetryOn, RetryPolicy
from perdure.schedule import ScheduleHandle, put_schedule, timing_given
from perdure.step import Step, StepOptions, refuse_unknown
from perdure.timing import Missed, Timing, timing_of
from perdure.unique import Debounce, OnConflict, on_taken

if TYPE_CHECKING:
    from perdure._engine.services import Held
    from perdure.model.transitions import CreateRun, Outcome
    from perdure.telemetry import OfRun, On

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="OfRun")
F = TypeVar("F", bound=Callable[..., Any])

_NO_META = (str, bytes, int, float, list, tuple, set, frozenset)
"""What no app's meta can be, whatever schema it has."""

_PRIORITIES = range(-(2**31), 2**31)


class Options(msgspec.Struct, frozen=True):
    """What one call says beside its arguments; see :meth:`Workflow.options`."""

    id: str | None = None
    unique_key: str | None = None
    queue: str | None = None
    priority: int | None = None
    meta: object = None
    tags: tuple[str, ...] = ()
    timezone: str | None = None
    missed: Missed = Missed.ONCE
    schedule_key: str | None = None
    limit_key: str | None = None
    on_taken: OnTaken | None = None
    retention: Micros | None = None
    on_parent_close: ParentClose | None = None
    overrides: CallOptions = CallOptions()


_NO_OPTIONS = Options()


class Bound(msgspec.Struct, frozen=True):
    """A definition in an app: what a verb works with."""

    definition: Definition
    engine: Engine


Find: TypeAlias = Callable[[bool], Bound]
"""Says what a verb works with; told whether the verb is a durable one."""


class Calls(Generic[P, R]):
    """The verbs of one definition, with the options of one call.

    Inside a body, ``enqueue`` and ``delay`` are durable calls: the child is started once however
    often the body replays, and ``run`` executes the other body as part of this one.
    """

    def __init__(self, find: Find, options: Options) -> None:
        self._find = find
        self._options = options
        self._encoded_options = encode_options(options.overrides)

    @property
    def definition(self) -> Definition:
        """What the engine knows of it, in the app that is meant here."""
        return self._find(False).definition

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the body here and now: no store, no worker; inside a run, as part of it.

        The arguments, the meta and the result pass the codec just as they would on a worker. As
        part of a run the body finds that run's meta, unless the call says otherwise. Of the options
        of a call only ``meta`` means something here: the others are about durable runs.

        Returns:
            The body's result.

        Raises:
            InvalidValue: an argument or the result does not fit its annotation.
            Exception: what the body raises.
        """
        scope = scopes.current()
        bound = self._find(False)
        definition = bound.definition
        data = definition.arguments.encode(args, kwargs)
        if scope is None:
            return self._run_here(bound, data)
        fingerprint, text = definition.arguments.fingerprint(args, kwargs)
        call = Call(scope, StepKind.STEP, definition.name, fingerprint, text, call_site(2))
        return late.calls.perform_inline(call, lambda: self._body(bound, data), definition.result)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Run[R]]:
        """Create a durable run; when this returns, it survives whatever happens.

        Returns:
            The run's handle. With ``id`` or ``unique_key`` taken by a run of the same definition
            and input, that run's handle; so it is where a window, a debounce or ``skip`` says so,
            whatever its input.

        Raises:
            InvalidValue: an argument does not fit; nothing is stored.
            PayloadTooLarge: the encoded input is over the limit; nothing is stored.
            RunConflict: the id or key is taken by a run of another definition or input.
            AppNotReady: the app has no store or is not connected.
            StoreError: the store could not take it.
        """
        return self._start(args, kwargs, 0)

    def delay(
        self, delay: Duration, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Run[R]]:
        """Create a durable run that starts no earlier than after ``delay``.

        Args:
            delay: ``"10m"``, ``"1h30m"``, ISO 8601 (``"PT10M"``) or a ``timedelta``, counted by
                the store's clock from the moment it accepts the run.
            *args: the body's own arguments.
            **kwargs: the body's own arguments.

        Returns, raises: as :meth:`enqueue`, InvalidDuration, and UsageError with the option
            ``debounce``, which says when a run starts.
        """
        micros = named_micros(delay, "delay")
        if self._on_taken(self.definition).delay:
            raise UsageError("debounce= says when the run starts; write enqueue(…)")
        return self._start(args, kwargs, micros)

    def schedule(
        self, when: str | Duration, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, ScheduleHandle]:
        """Start a run with these arguments again and again, from now on.

        When this returns it survives whatever happens. The same again changes nothing; with another
        time or options under the same key it is replaced. Each instant is fired exactly once, by
        any worker, however many there are and whether or not they know the definition. An instant
        that passed while nobody was there is late: by the option ``missed``, ``once`` starts one
        run for the newest of them, ``all`` one for each (at most 100), and ``skip`` none where it
        is more than a minute late.

        Args:
            when: a cron expression (``"0 8 * * MON-FRI"``, with seconds in front if there are six
                fields, or an alias such as ``"@daily"``), or an interval (``"5m"``, a timedelta).
            *args: the body's own arguments.
            **kwargs: the body's own arguments.

        Returns:
            The schedule's handle. Its key is the option ``schedule_key``, or follows from the
            definition and the arguments.

        Raises:
            InvalidSchedule, InvalidDuration: ``when`` or the option ``timezone`` is none.
            InvalidValue, PayloadTooLarge: an argument does not fit; nothing is stored.
            UsageError: in a body, outside of its steps; or with ``id`` or ``unique_key``, which
                name one run.
            AppNotReady: the app has no store or is not connected.

        Example::

            await send_mail.options(timezone="Europe/Vienna").schedule("0 8 * * *", "a@b.c")
        """
        scope = scopes.current()
        if scope is not None and not scope.in_step:
            raise UsageError("schedule(…) is no durable call; call it in a step of the body")
        if self._options.id is not None or self._options.unique_key is not None:
            raise UsageError("options(id=…) and options(unique_key=…) name one run, not many")
        self._refuse_on_parent_close()
        timing = timing_given(when, self._options.timezone)
        bound = self._find(True)
        return self._put_schedule(bound, timing, self._input(bound, args, kwargs))

    @reads_as("schedule(…) without `await`")
    async def _put_schedule(self, bound: Bound, timing: Timing, data: bytes) -> ScheduleHandle:
        definition, options = bound.definition, self._options
        key = options.schedule_key
        if key is None:
            key = f"{definition.name}:{blake2b(data, digest_size=6).hexdigest()}"
        template = self._transition(bound, data, self._meta(bound), delay=0, run_id="template")
        schedule = late.schedules.Schedule(
            key,
            timing,
            definition.name,
            data,
            template.version,
            template.queue,
            template.priority,
            template.meta,
            template.options,
            template.tags,
            options.missed,
            limit_key=template.limit_key,
            retention=template.retention,
        )
        await put_schedule(bound.engine, schedule)
        return ScheduleHandle(key, bound.engine)

    def enqueue_many(
        self, calls: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]]
    ) -> Coroutine[Any, Any, list[Run[R] | PerdureError]]:
        """Create many runs, each standing or falling on its own, in few round trips.

        Inside a body this is one durable call: it is recorded once, whatever the number, and the
        children are started once however often the body replays. ``gather(*runs)`` joins them.

        Args:
            calls: for each run its positional and its keyword arguments.

        Returns:
            In the order given: the run's handle, or the error that kept it from being created.

        Raises:
            UsageError: called with an ``id`` or ``unique_key`` option, which name one run, or with
                something that is no list of calls.

        Example::

            runs = await convert.enqueue_many([((name,), {}) for name in names])
        """
        _check_calls(calls)
        if self._options.id is not None or self._options.unique_key is not None:
            raise UsageError("options(id=…) and options(unique_key=…) name one run, not many")
        bound = self._find(True)
        scope = scopes.current()
        if scope is None or scope.activation.engine is not bound.engine:
            self._refuse_on_parent_close()
        each_input = (self._input_or_error(bound, each, n) for n, each in enumerate(calls))
        if scope is None:
            return self._create_many(bound, each_input, None)
        inputs = list(each_input)
        fingerprint = blake2b(digest_size=16)
        for data in inputs:
            given = data if isinstance(data, bytes) else b""
            fingerprint.update(len(given).to_bytes(8, "big") + given)
        text = f"{len(inputs)} calls"
        name, site = bound.definition.name, call_site(2)
        call = Call(scope, StepKind.ENQUEUE, name, fingerprint.digest(), text, site)
        if scope.activation.engine is not bound.engine:  # as for a single one
            return self._create_many(bound, inputs, late.children.child_id(call))
        return self._create_many_in_run(bound, call, inputs)

    # --- here and now ----------------------------------------------------------------------------

    @reads_as("run(…) without `await`")
    async def _run_here(self, bound: Bound, data: bytes) -> R:
        value = await self._to_the_end(bound, data)
        verb = f"{bound.definition.name!r} returned"
        result: R = bound.definition.result.round_trip(value, verb=verb)[1]
        return result

    async def _to_the_end(self, bound: Bound, data: bytes) -> Any:
        """Run a body here and now, again with other input as often as it continues as new."""
        continuing = late.continuing
        while True:
            try:
                with continuing.running_here(bound.definition):
                    return await self._body(bound, data)
            except continuing.GoesOn as signal:
                data = signal.data

    async def _body(self, bound: Bound, data: bytes) -> Any:
        definition = bound.definition
        bound.engine.is_used = True
        args, kwargs = definition.arguments.decode(data)
        if not definition.injects:
            if self._options.meta is not None:
                bound.engine.meta.encode(self._options.meta)
            return await self._compensated(definition, args, kwargs)
        meta = self._meta_here(bound)
        held = late.services.Held(None)
        if definition.services is not None:
            held = await definition.services(f"{definition.name!r}, which is run here and now")
        context = Context(held.value, meta)
        args, kwargs = definition.arguments.inject(args, kwargs, context)
        try:
            result = await self._compensated(definition, args, kwargs)
        except BaseException as error:
            await held.release(error)
            raise
        await held.release(None)
        return result

    def _meta_here(self, bound: Bound) -> Any:
        scope = scopes.current()
        if self._options.meta is None and scope is not None:
            around = scope.activation
            if around.engine is bound.engine:
                return bound.engine.meta.decode(around.run.meta)
        return bound.engine.meta.seen(self._options.meta)

    async def _compensated(
        self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a body; where it fails outside of any run, undo what it has registered."""
        if scopes.current() is not None:
            return await self._call(definition, args, kwargs)
        with late.undoing.collecting() as registered:
            try:
                return await self._call(definition, args, kwargs)
            except Exception as error:
                await late.undoing.undo_here(registered, error)
                raise

    async def _call(
        self, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if definition.is_async:
            return await definition.function(*args, **kwargs)
        scope = scopes.current()
        if scope is None:
            value = await asyncio.to_thread(definition.function, *args, **kwargs)
        else:
            pool = scope.activation.engine.body_pool
            value = await late.calls.in_pool(pool, definition.function, args, kwargs)
        refuse_a_call(value, definition.name)
        return value

    # --- durably ---------------------------------------------------------------------------------

    def _start(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], delay: int
    ) -> Coroutine[Any, Any, Run[R]]:
        bound = self._find(True)
        data = self._input(bound, args, kwargs)
        scope = scopes.current()
        if scope is None or scope.activation.engine is not bound.engine:
            self._refuse_on_parent_close()
        if scope is None:
            meta = self._meta(bound)
            run_id = self._options.id
            create = self._transition(bound, data, meta, delay=delay, run_id=run_id)
            return self._create(bound, create)
        fingerprint = blake2b(data, digest_size=16).digest()
        site = call_site(3)
        call = Call(scope, StepKind.ENQUEUE, bound.definition.name, fingerprint, "", site)
        create = self._child(bound, call, data, delay)
        if scope.activation.engine is not bound.engine:
            # A run of another app is no child; its derived id makes every replay create it again
            # to the same effect.
            return self._create(bound, create)
        policy = self._options.on_parent_close or bound.definition.on_parent_close
        create = msgspec.structs.replace(create, on_parent_close=policy)
        return self._create_in_run(bound, call, create)

    def _input(self, bound: Bound, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        definition = bound.definition
        data = definition.arguments.encode(args, kwargs)
        if len(data) > bound.engine.payload_limit:
            bound.engine.within_limit(data, f"the input of {definition.name!r}")
        return data

    def _meta(self, bound: Bound) -> bytes | None:
        meta = bound.engine.meta.encode(self._options.meta)
        return None if meta is None else bound.engine.within_limit(meta, "meta")

    def _transition(
        self, bound: Bound, data: bytes, meta: bytes | None, *, delay: int, run_id: str | None
    ) -> CreateRun:
        definition, options = bound.definition, self._options
        ids = bound.engine.ids
        unique_key, limit_key = options.unique_key, options.limit_key
        if unique_key is None and definition.unique_key is not None:
            unique_key = definition.unique_key(data)
        if limit_key is None and definition.limit_key is not None:
            limit_key = definition.limit_key(data)
        rule: KeyRule | None = None
        if unique_key is not None:
            on_taken = self._on_taken(definition)
            rule = on_taken.rule
            delay = delay or on_taken.delay
        return late.transitions.CreateRun(
            run_id or ids.run_id(),
            definition.name,
            data,
            ids.token(),
            definition.version,
            options.queue or definition.queue,
            definition.priority if options.priority is None else options.priority,
            unique_key,
            meta,
            self._encoded_options,
            options.tags or definition.tags,
            delay,
            limit_key=limit_key,
            key_rule=rule,
            retention=options.retention,
        )

    def _on_taken(self, definition: Definition) -> OnTaken:
        return self._options.on_taken or definition.on_taken

    @reads_as("enqueue(…) without `await`")
    async def _create(self, bound: Bound, create: CreateRun) -> Run[R]:
        bound.engine.check_loop()
        answer = await bound.engine.committer.submit(create)
        return self._handle(bound, await self._accepted(bound, create, answer))

    def _child(self, bound: Bound, call: Call, data: bytes, delay: int) -> CreateRun:
        meta = self._meta(bound)
        if self._options.id is not None:
            return self._transition(bound, data, meta, delay=delay, run_id=self._options.id)
        run_id = late.children.child_id(call)
        create = self._transition(bound, data, meta, delay=delay, run_id=run_id)
        return msgspec.structs.replace(create, token=late.children.child_token(run_id))

    def _refuse_on_parent_close(self) -> None:
        """Check that the call says nothing of a parent, as there is none.

        Raises:
            UsageError: it does.
        """
        if self._options.on_parent_close is not None:
            raise UsageError(
                "options(on_parent_close=…) says what becomes of a run when the body that started "
                "it is over; there is no such body here: enqueue it in a body of the same app"
            )

    @reads_as("enqueue(…) without `await`")
    async def _create_in_run(self, bound: Bound, call: Call, create: CreateRun) -> Run[R]:
        bound.engine.check_loop()
        run_id = await late.children.start_child(
            call, create, lambda answer: self._accepted(bound, create, answer)
        )
        return self._handle(bound, run_id)

    async def _accepted(self, bound: Bound, create: CreateRun, answer: Outcome) -> str:
        match answer:
            case late.transitions.Created():
                if answer.replaced is not None:
                    await late.telling.replaced(bound.engine, answer.replaced)
                if answer.closed:
                    await late.telling.closed(bound.engine, answer.closed)
                return answer.run_id
            case late.transitions.Exists() if answer.same:
                return answer.run_id
            case late.transitions.Exists():
                by_key = create.unique_key is not None and answer.run_id != create.run_id
                if by_key and self._on_taken(bound.definition).skips:
                    return answer.run_id
                what = f"unique_key {create.unique_key!r}" if by_key else f"id {answer.run_id!r}"
                instead = ', or on_conflict="skip"' if by_key else ""
                raise RunConflict(
                    f"cannot start {bound.definition.name!r}: {what} belongs to a run of another "
                    f"definition or input; use a new one, or the same arguments{instead}",
                    run_id=answer.run_id,
                )
            case _:
                raise AssertionError(f"a create was answered with {answer!r}")

    @reads_as("enqueue_many(…) without `await`")
    async def _create_many(
        self, bound: Bound, inputs: Iterable[bytes | PerdureError], place: str | None
    ) -> list[Run[R] | PerdureError]:
        bound.engine.check_loop()
        submit = bound.engine.committer.submit
        meta = self._meta(bound)
        results: list[Any] = []
        for index, data in enumerate(inputs):
            if (index + 1) % late.committer.MAX_BATCH == 0:
                # Let the committer write what there is while the rest is being encoded.
                await asyncio.sleep(0)
            create = self._nth(bound, data, meta, place, index)
            if isinstance(create, PerdureError):
                results.append(create)
            else:
                results.append((create, submit(create)))
        for index, result in enumerate(results):
            if not isinstance(result, PerdureError):
                try:
                    create, answer = result
                    run_id = await self._accepted(bound, create, await answer)
                    results[index] = self._handle(bound, run_id)
                except PerdureError as error:
                    results[index] = error
        return results

    @reads_as("enqueue_many(…) without `await`")
    async def _create_many_in_run(
        self, bound: Bound, call: Call, inputs: list[bytes | PerdureError]
    ) -> list[Run[R] | PerdureError]:
        bound.engine.check_loop()
        meta = self._meta(bound)
        policy = self._options.on_parent_close or bound.definition.on_parent_close
        place = late.children.child_id(call)

        def create(index: int, data: bytes | PerdureError) -> CreateRun | PerdureError:
            made = self._nth(bound, data, meta, place, index)
            if isinstance(made, PerdureError):
                return made
            return msgspec.structs.replace(made, on_parent_close=policy)

        started = await late.children.start_children(
            call,
            lambda: [create(index, data) for index, data in enumerate(inputs)],
            lambda create, answer: self._accepted(bound, create, answer),
        )
        return [
            one if isinstance(one, PerdureError) else self._handle(bound, one) for one in started
        ]

    def _nth(
        self,
        bound: Bound,
        data: bytes | PerdureError,
        meta: bytes | None,
        place: str | None,
        index: int,
    ) -> CreateRun | PerdureError:
        """Return the create of one of many runs, or what keeps it from being started.

        Args:
            bound: what to create it with.
            data: its input, or what is wrong with it.
            meta: encoded, of all of them.
            place: in a body, the id that the call stands for: theirs follow from it.
            index: of the run, from 0.
        """
        if isinstance(data, PerdureError):
            return data
        run_id = None if place is None else late.children.nth_child_id(place, index)
        try:
            made = self._transition(bound, data, meta, delay=0, run_id=run_id)
        except PerdureError as error:
            return error
        if run_id is None:
            return made
        return msgspec.structs.replace(made, token=late.children.child_token(run_id))

    def _input_or_error(self, bound: Bound, each: Any, index: int) -> bytes | PerdureError:
        try:
            return self._input(bound, *_checked_call(each, index))
        except PerdureError as error:
            return error

    def _handle(self, bound: Bound, run_id: str) -> Run[R]:
        return Run(run_id, bound.engine, bound.definition.result)


def _check_calls(given: object) -> None:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise UsageError(
            "enqueue_many takes an iterable of calls, each a pair such as ((1, 2), {}), got "
            f"<{type(given).__name__}>"
        )


def _checked_call(given: Any, index: int) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(given, tuple | list) and len(given) == 2:  # pyright: ignore[reportUnknownArgumentType]
        args, kwargs = given  # pyright: ignore[reportUnknownVariableType]
        if type(args) is tuple and type(kwargs) is dict:  # pyright: ignore[reportUnknownArgumentType]
            return args, kwargs  # pyright: ignore[reportUnknownVariableType]  # 0.5 us less
        if isinstance(args, tuple | list) and isinstance(kwargs, Mapping):
            return tuple(args), kwargs  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    found = type(cast("object", given)).__name__
    raise InvalidValue(
        "each call of enqueue_many is a pair of a tuple of arguments and a mapping, such as "
        f'((1, 2), {{}}) or ((), {{"a": 1}}), got <{found}> at $[{index}]',
        path=f"$[{index}]",
    )


class Definable(Calls[P, R]):
    """What a decorator makes of a function: its verbs, and :meth:`options` for one call.

    Args:
        definition: what the engine knows of it.
        find: says in which app a verb is meant.
    """

    def __init__(self, definition: Definition, find: Find) -> None:
        super().__init__(find, _NO_OPTIONS)
        self._definition = definition
        self.__doc__ = definition.description or None

    @property
    def name(self) -> str:
        """Its name, unique in the app."""
        return self._definition.name

    @property
    def definition(self) -> Definition:
        """What the engine knows of it."""
        return self._definition

    def get(self, run_id: str) -> Run[R]:
        """Return the handle of a run of this definition by its id, whether or not there is one.

        Raises:
            InvalidValue: no run can have such an id.
        """
        return self._handle(self._find(True), check_id(run_id, "run id"))

    def options(
        self,
        *,
        id: str | None = None,
        unique_key: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        meta: object = None,
        tags: tuple[str, ...] = (),
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: Duration | None = None,
        timezone: str | None = None,
        missed: Literal["skip", "once", "all"] = "once",
        schedule_key: str | None = None,
        limit_key: str | None = None,
        on_conflict: OnConflict | None = None,
        unique_for: Duration | None = None,
        debounce: Debounce | None = None,
        retention: Age = None,
        on_parent_close: OnParentClose | None = None,
    ) -> Calls[P, R]:
        """Return the same verbs with options for one call.

        Args:
            id: the run's id, 1 to 255 characters; starting the same again returns the run, with
                other input it is a conflict. Unique until retention ends.
            unique_key: at most one run of this definition with this key is unfinished; instead of
                the definition's.
            queue: instead of the definition's.
            priority: instead of the definition's; a smaller one is claimed sooner.
            meta: values of this one request, handed to the body in its context: a mapping of names
                to values, or what the app's ``meta=`` says. It is checked when the run is
                accepted; nothing is stored where it does not fit.
            tags: for people, instead of the definition's.
            max_attempts: of the whole run, instead of the definition's.
            backoff: the delay before the next attempt, instead of the definition's. Not a function:
                it is stored with the run.
            timeout: how long one attempt may hold a worker, instead of the definition's.
            timezone: of ``schedule``: an IANA name; UTC by default.
            missed: of ``schedule``: what becomes of instants that nobody fired; see there.
            schedule_key: of ``schedule``: by which it is found again.
            limit_key: under which the queue's limits by key count this run: a customer, a host.
                See ``app.queue``. Instead of the definition's.
            on_conflict: what becomes of a call whose ``unique_key`` is taken: with ``"raise"`` it
                finds the run that has it, or raises RunConflict where that has other input; with
                ``"skip"`` it finds the run whatever its input; with ``"replace"`` it cancels the
                run and takes its place. This and the next two are instead of all three of the
                definition; where neither says one, it is ``"raise"``.
            unique_for: the ``unique_key`` is taken so long from the call that starts a run, also
                once that has ended: a throttle. It counts for calls that say ``unique_for``.
            debounce: a call of the ``unique_key`` replaces the input of a run that has not started,
                and has it wait anew.
            retention: for how long the run is kept after its end, however it ends, instead of what
                the definition says; ``"forever"``, or a duration.
            on_parent_close: what becomes of a run that a body starts when that body's run ends,
                instead of what the definition says: with ``"abandon"`` it goes on; with
                ``"cancel"`` it is cancelled if it has not ended; with ``"wait"`` the body is not
                over before it has ended, and it is cancelled where its parent is, times out or
                crashes.

        Raises:
            InvalidValue, InvalidDuration, UsageError: an option is wrong, or two exclude each
                other.
        """
        policy = checked_missed(missed)
        names = {
            "schedule_key": schedule_key,
            "limit_key": limit_key,
            "id": id,
            "unique_key": unique_key,
            "queue": queue,
        }
        for what, name in names.items():
            if name is not None:
                check_id(name, what)
        if max_attempts is not None:
            RetryPolicy(max_attempts)
        if priority is not None:
            check_priority(priority)
        if isinstance(meta, _NO_META):
            raise UsageError(
                f"meta is a mapping of names to values, got {shown(cast('object', meta))}"
            )
        if backoff is not None and not isinstance(cast("object", backoff), Backoff):
            raise UsageError(
                "the back-off of one call is stored with its run, so it must be constant(…), "
                f"linear(…) or exponential(…), got {shown(backoff)}"
            )
        seconds = None
        if timeout is not None:
            seconds = named_micros(timeout, f"timeout of {self.name!r}") / 1e6
        overrides = CallOptions(max_attempts, backoff, seconds)
        has_key = unique_key is not None or self._definition.unique_key is not None
        given = Options(
            id,
            unique_key,
            queue,
            priority,
            meta,
            check_tags(tags),
            timezone,
            policy,
            schedule_key,
            limit_key,
            on_taken(on_conflict, unique_for, debounce, has_key=has_key),
            retention_of_call(retention),
            None if on_parent_close is None else parent_close(on_parent_close),
            overrides,
        )
        return Calls(self._find, given)

    def earlier(self, version: str) -> Callable[[F], F]:
        """Keep the code of an earlier version, for the runs that are pinned to it.

        A worker that has it lets them end on it; whatever is not pinned, or to nothing that is
        here, goes on with the present code. Only the body is of that version: attempts, timeout,
        ``on_cancel`` and whatever else the definition says hold for it, too. ``where`` alone is not
        asked again about the event that started such a run.

        Args:
            version: which it had as ``version=``.

        Returns:
            A decorator, which returns the function as it is.

        Raises:
            DuplicateName: that version is the present one, or was given before.
            DefinitionError: it is no function.
            InvalidValue: that is no version.

        Example::

            @app.workflow(version="2", pinned=True)
            async def fulfil(order_id: str) -> str: ...

            @fulfil.earlier("1")
            async def fulfil_1(order_id: str) -> str: ...
        """
        check_id(version, "version")

        def keep(function: F) -> F:
            check_body(function, "an earlier version")
            self._definition.add_earlier(function, Arguments(function, is_context), version)
            return function

        return keep

    def continue_as_new(self, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        """End this run's generation, and let the run begin again with other arguments.

        It is called in the run's own body, which ends there: like a suspension it raises what
        ``except Exception`` does not catch, branches are cancelled, and clean-up in ``finally``
        records nothing. So a body that would loop for ever, and whose record would grow for ever,
        keeps nothing but its arguments.

        The run is the same: its id, ``unique_key``, options, children and what it gave out in
        streams stay, and whoever awaits its result awaits that of the last generation. What was
        recorded of it is forgotten: steps, attempts, timers. Events that it has taken stay taken,
        others are there for the next generation. A cancel or a restart that was asked for before
        wins; after a pause the next generation waits.

        Where the body is run here and now, it is run again here and now.

        Args:
            *args: of the body, as for ``enqueue``.
            **kwargs: of the body.

        Raises:
            InvalidValue: an argument does not fit; the body goes on.
            PayloadTooLarge: the encoded input is over the limit.
            UsageError: called in a step, in a body run inline or in a run of another definition;
                or the body has registered compensations, which would be forgotten.
            NotInRun: called outside of a body.

        Example::

            @app.workflow
            async def poll(cursor: str) -> None:
                for _ in range(100):
                    cursor = await fetch(cursor)
                    await sleep("1m")
                poll.continue_as_new(cursor)
        """
        bound = self._find(False)
        data = self._input(bound, args, kwargs)
        scope = scopes.current()
        if scope is None:
            late.adrift.check("continue_as_new()")
            count = late.undoing.count_here()
            late.continuing.go_on_here(bound.definition, data, count)
        late.continuing.go_on(scope, bound.definition, data)

    def __call__(self, *_: P.args, **__: P.kwargs) -> NoReturn:
        """Refuse: calling a definition could mean two things.

        Raises:
            UsageError: always; it names both.
        """
        raise UsageError(
            f"{self.name}(…) could mean two things: write `await {self.name}.run(…)` to run it "
            f"here and now, `await {self.name}.enqueue(…)` to create a durable run"
        )

    def __repr__(self) -> str:
        return f"<workflow {self.name!r} at {self._definition.place}>"


class Workflow(Definable[P, R]):
    """A workflow or job of an app. Made by its decorators, not by hand."""

    def __init__(self, definition: Definition, engine: Engine) -> None:
        bound = Bound(definition, engine)
        super().__init__(definition, lambda _: bound)
        self._engine = engine

    def on(self, kind: type[H], /) -> On[H]:
        """Listen to what happens in runs of this definition; otherwise like ``app.on``.

        Args:
            kind: a class of :mod:`perdure.telemetry` that belongs to runs or their steps.

        Raises:
            UsageError: it is no such class.

        Example::

            @fulfil.on(telemetry.RunCompleted)
            def count(completed: telemetry.RunCompleted) -> None: ...
        """
        return self._engine.hooks.on(kind, self.name)


# --- declaring -------------------------------------------------------------------------------


def is_context(annotation: Any) -> bool:
    """Tell whether a parameter so annotated is injected."""
    return annotation is Context or get_origin(annotation) is Context


def asks_for_services(arguments: Arguments) -> bool:
    """Tell whether a body cannot do without its app's services: ``Context[Services]``.

    A bare ``Context``, ``Context[None]``, ``Context[object]`` and ``Context[Any]`` ask for none.

    Raises:
        DefinitionError: its annotations name something that does not exist (yet).
    """
    asked = [get_args(annotation)[:1] for annotation in arguments.injected_annotations()]
    return any(named and named[0] not in (None, type(None), object, Any) for named in asked)


Kind: TypeAlias = Literal["workflow", "job"]
OnParentClose: TypeAlias = Literal["abandon", "cancel", "wait"]


class RunDefaults(TypedDict, total=False):
    """What ``app.configure(…)`` takes for all workflows or all jobs of an app."""

    max_attempts: int
    backoff: Backoff | Callable[[int, BaseException], Duration] | None
    retry_on: RetryOn
    timeout: Duration | None
    queue: str
    priority: int
    retention: Retention | Age


class Settings(RunDefaults, total=False):
    """What ``@workflow(…)`` and ``@job(…)`` take; :meth:`App.workflow` explains each."""

    name: str | None
    version: str | None
    description: str | None
    tags: tuple[str, ...]
    on: object
    where: Callable[[Any], bool] | None
    cron: str | None
    every: Duration | None
    timezone: str | None
    missed: Literal["skip", "once", "all"]
    schedule_key: str | None
    on_cancel: Callable[..., Any] | None
    unique_key: FromArguments | None
    limit_key: FromArguments | None
    on_conflict: OnConflict | None
    unique_for: Duration | None
    debounce: Debounce | None
    on_parent_close: OnParentClose
    pinned: bool


class Declaration(msgspec.Struct, frozen=True):
    """What holds of a definition: its decorator's word, else its app's, else the table's."""

    max_attempts: int
    timeout: Duration | None
    queue: str
    priority: int
    retention: Retention | Age
    name: str | None = None
    backoff: Backoff | Callable[[int, BaseException], Duration] | None = None
    retry_on: RetryOn = None
    version: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    on: object = None
    where: Callable[[Any], bool] | None = None
    cron: str | None = None
    every: Duration | None = None
    timezone: str | None = None
    missed: Literal["skip", "once", "all"] = "once"
    schedule_key: str | None = None
    on_cancel: Callable[..., Any] | None = None
    unique_key: FromArguments | None = None
    limit_key: FromArguments | None = None
    on_conflict: OnConflict | None = None
    unique_for: Duration | None = None
    debounce: Debounce | None = None
    on_parent_close: OnParentClose = defaults.ON_PARENT_CLOSE
    pinned: bool = False

    @classmethod
    def of(cls, kind: Kind, of_app: RunDefaults, settings: Settings) -> Self:
        """Return what holds of a definition.

        Args:
            kind: names the row of the table of defaults.
            of_app: what its app was configured with.
            settings: what its decorator says.

        Raises:
            DefinitionError: there is no such option; the message suggests one that there is.
        """
        refuse_unknown(Settings, settings)
        refuse_unknown(RunDefaults, of_app)
        merged: dict[str, Any] = {**defaults.OF_DEFINITIONS[kind], **of_app, **settings}
        return cls(**merged)

    def define(
        self, function: Callable[..., Any], services: Callable[[str], Awaitable[Held]] | None
    ) -> Definition:
        """Return the definition of a body declared so.

        Raises:
            DefinitionError, InvalidValue, InvalidDuration: something about it is wrong; the message
                names the place, or the name and the option.
        """
        check_body(function, "a workflow or job")
        place = place_of(function)
        name = name_of(function) if self.name is None else self.name
        check_id(name, f"the name of the definition at {place}")
        policy = RetryPolicy(self.max_attempts, retry_on=self.retry_on)
        if self.backoff is not None:
            policy = msgspec.structs.replace(policy, backoff=self.backoff)
        arguments = Arguments(function, is_context)
        events = () if self.on is None else types_of(self.on)
        _check_where(self.where, events, name)
        return Definition(
            name=name,
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            arguments=arguments,
            policy=policy,
            timeout=None
            if self.timeout is None
            else named_micros(self.timeout, f"timeout of {name!r}") / 1e6,
            version=code_version(function)
            if self.version is None
            else check_id(self.version, "version"),
            queue=check_id(self.queue, "queue"),
            priority=check_priority(self.priority),
            place=place,
            services=services,
            description=inspect.getdoc(function) or ""
            if self.description is None
            else check_description(self.description),
            tags=check_tags(self.tags),
            on=events,
            where=self.where,
            recurring=self._recurring(name),
            on_cancel=None if self.on_cancel is None else _on_cancel(self.on_cancel, name),
            unique_key=None
            if self.unique_key is None
            else KeyOf(self.unique_key, "unique_key", name, arguments),
            limit_key=None
            if self.limit_key is None
            else KeyOf(self.limit_key, "limit_key", name, arguments),
            on_taken=on_taken(self.on_conflict, self.unique_for, self.debounce, has_key=True)
            or NOTHING_SAID,
            retention=retention_given(self.retention, f"retention of {name!r}"),
            on_parent_close=parent_close(self.on_parent_close),
            pinned=self._is_pinned(name),
        )

    def _is_pinned(self, name: str) -> bool:
        if not isinstance(self.pinned, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"pinned is true or false, got {shown(self.pinned)}")
        if self.pinned and self.version is None:
            raise DefinitionError(
                f"pinned=True of {name!r} needs version=…: without one the version follows from "
                "the code, so that every edit, and another Python, would leave its runs behind"
            )
        return self.pinned

    def _recurring(self, name: str) -> Recurring | None:
        missed = checked_missed(self.missed)
        if self.cron is None and self.every is None:
            if self.timezone is not None or self.schedule_key is not None:
                raise DefinitionError(
                    f"timezone= and schedule_key= of {name!r} belong to a schedule; say when: "
                    "cron=… or every=…"
                )
            return None
        key = name if self.schedule_key is None else check_id(self.schedule_key, "schedule_key")
        return Recurring(key, timing_of(self.cron, self.every, self.timezone), missed)


def check_body(function: Callable[..., Any], what: str) -> None:
    """Check that something can be the body of a definition.

    Raises:
        DefinitionError: it is no plain function.
    """
    check_function(function, what)
    if isinstance(function, Step | Calls | type):
        raise DefinitionError(
            f"{what} is made of a plain function, got "
            f"{shown(cast('object', function))}; call steps and other definitions from its body"
        )


def checked_missed(given: object) -> Missed:
    """Return the policy for instants that nobody fired.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return Missed(given)  # type: ignore[arg-type]  # that is what is asked here
    except ValueError:
        raise UsageError(f"missed is 'skip', 'once' or 'all', got {shown(given)}") from None


def parent_close(given: object) -> ParentClose:
    """Return what becomes of a run when the body of its parent is over.

    Raises:
        UsageError: there is no policy of that name.
    """
    try:
        return ParentClose(given)  # type: ignore[arg-type]  # that is what is asked here
    except ValueError:
        raise UsageError(
            f"on_parent_close is 'abandon', 'cancel' or 'wait', got {shown(given)}"
        ) from None


def _on_cancel(given: object, name: str) -> StepSpec:
    """Return how what a definition does when a run is cancelled is executed: as a step.

    Raises:
        DefinitionError: it is no function.
    """
    check_function(given, f"on_cancel of {name!r}")
    function = cast("Callable[..., Any]", given)
    if isinstance(function, Step):
        function = cast("Step[..., Any]", function).function
    spec = StepOptions().spec(function, "on_cancel")
    return msgspec.structs.replace(spec, arguments=Arguments(function, is_context))


def _check_where(where: object, events: tuple[object, ...], name: str) -> None:
    if where is None:
        return
    if not callable(where) or inspect.iscoroutinefunction(where):
        raise DefinitionError(
            f"where= of {name!r} is a plain function of an event that returns true or false, got "
            f"{shown(where)}"
        )
    if not events:
        raise DefinitionError(f"where= of {name!r} chooses among events; say which: on=…")


def check_priority(given: object) -> int:
    """Return the priority if it is one.

    Raises:
        UsageError: it is no whole number of 32 bits.
    """
    if type(given) is not int or given not in _PRIORITIES:
        raise UsageError(f"priority must be a whole number of 32 bits, got {shown(given)}")
    return given


def check_description(given: object) -> str:
    """Return the description if it is a text.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(given, str):
        raise UsageError(f"description must be a text, got {shown(given)}")
    return given


def check_tags(given: object) -> tuple[str, ...]:
    """Return the tags if they are some.

    Raises:
        UsageError: it is no tuple or list of texts.
        InvalidValue: one of them is no usable text.
    """
    if not isinstance(given, tuple | list):
        raise UsageError(f'tags are a tuple of texts such as ("nightly",), got {shown(given)}')
    return tuple(check_id(tag, "a tag") for tag in cast("tuple[str, ...]", given))


def name_of(function: Callable[..., Any]) -> str:
    """Return the name a function declares itself by.

    Raises:
        DefinitionError: it has none (a lambda).
    """
    name: str = getattr(function, "__name__", "")
    if not name or name == "<lambda>":
        raise DefinitionError(
            f"{shown(function)} has no name to be found by after a restart; write a `def`, or pass "
            "name=…"
        )
    return name


def code_version(function: Callable[..., Any]) -> str:
    """Return a short digest of a function's own code, which changes when it is edited.

    Nested functions count; functions that it calls do not.
    """
    hasher = blake2b(digest_size=6)
    pending: list[Any] = [getattr(inspect.unwrap(function), "__code__", None)]
    while pending:
        code = pending.pop()
        if code is None:
            continue
        hasher.update(code.co_code)
        hasher.update(repr(code.co_names).encode())
        for constant in code.co_consts:
            if inspect.iscode(constant):
                pending.append(constant)
            else:
                hasher.update(_constant_text(constant).encode("utf-8", "backslashreplace"))
    return hasher.hexdigest()


def _constant_text(constant: Any) -> str:
    if isinstance(constant, frozenset):
        # The order of a set's repr differs from process to process.
        return str(sorted(map(repr, cast("frozenset[object]", constant))))
    return repr(constant)
