"""The app: definitions, a store and the services that bodies need, under one name.

There is no global registry: make as many apps as you like. An app without a store can run its
definitions here and now; everything durable needs one and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import datetime
from enum import Enum
from types import ModuleType, TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypeAlias,
    TypedDict,
    Unpack,
    cast,
    overload,
)

import msgspec
from msgspec.structs import replace

from perdure._engine import late
from perdure._engine.context import PLAIN_META, MetaSchema
from perdure._engine.definition import Definition, place_of
from perdure._engine.engine import Engine, Ports
from perdure._engine.registry import Registry
from perdure._engine.scope import call_site
from perdure._engine.unawaited import reads_as
from perdure._runtime import late as late_services
from perdure.clock import to_micros_instant
from perdure.codec import schema
from perdure.context import Context, Values
from perdure.declare import Declared
from perdure.duration import Duration, named_micros
from perdure.errors import AppNotReady, DefinitionError, RunNotFound, UsageError, shown
from perdure.event import type_name
from perdure.handle import (
    Event,
    EventEntry,
    ListenerEntry,
    Run,
    VersionEntry,
    WorkerEntry,
    event_entry,
    listener_entry,
    run_of,
    worker_entry,
)
from perdure.ids import check_id
from perdure.model.queues import Limits
from perdure.model.records import Count, RunQuery, Status
from perdure.model.retention import Prune, Pruned
from perdure.queue import Queue, QueueEntry, Rate, limits_given, queue_entries
from perdure.retention import Age, age_given
from perdure.retry import Backoff, RetryOn
from perdure.schedule import ScheduleEntry, ScheduleHandle, schedule_entry
from perdure.selection import Filters, Selection, refuse_unknown_filters
from perdure.step import Step, StepOptions, decorate, refuse_unknown
from perdure.workflow import (
    Declaration,
    Definable,
    Kind,
    RunDefaults,
    Settings,
    Workflow,
    asks_for_services,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar, deprecated

    from perdure._engine.services import Held
    from perdure.change import Change, SubscriberEntry
    from perdure.model.changes import ChangeKind
    from perdure.store import Store
    from perdure.telemetry import Hook, On

    Services_co = TypeVar("Services_co", covariant=True, default=Any)
    Meta_co = TypeVar("Meta_co", covariant=True, default=Any)
    N = TypeVar("N", default=Values)
else:
    from typing import TypeVar

    Services_co = TypeVar("Services_co", covariant=True)
    Meta_co = TypeVar("Meta_co", covariant=True)

    def deprecated(_: str) -> Callable[[Any], Any]:
        """Do nothing: type checkers alone look at it."""
        return lambda function: function


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
H = TypeVar("H", bound="Hook")

SURVIVES = {
    "process": "nothing but exceptions",
    "kill": "kill -9 of every process",
    "power": "loss of power",
}
"""What the durability classes of stores mean."""

Managed: TypeAlias = (
    Callable[[], AsyncIterator[T]]
    | Callable[[], Iterator[T]]
    | Callable[[], AbstractAsyncContextManager[T]]
    | Callable[[], AbstractContextManager[T]]
)
"""A factory with clean-up: a generator function, or one that returns a context manager."""

ServicesScope: TypeAlias = Literal["run", "process"]


class Unchanged(Enum):
    """The type of what :meth:`App.override` was not given."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


class App(Generic[Services_co, Meta_co]):
    """Definitions bound to a store.

    Args:
        store: where runs live: a URL (``sqlite:///shop.db``, ``sqlite:////var/shop.db`` for an
            absolute path, ``memory://``; ``?namespace=…`` separates apps on one store), or a Store
            object. None for an app that only runs things here and now.
        services: what bodies find in ``ctx.services``: an object, or a factory, which is anything
            that can be called, a class too. A factory returns the object or an awaitable of it; one
            with clean-up is a generator function, sync or async, that yields the object once, or
            returns a context manager, sync or async, around it. What is written with ``def`` is
            called on the event loop and must be quick.
        services_scope: how often a factory is called. ``"run"``: whenever a body that asks for its
            context begins on a worker, so once for each attempt, and again after a suspension; it
            is cleaned up when the body has ended, failed, left its worker or been cancelled.
            ``"process"``: when the app is connected, and cleaned up with its last close.
            Where the factory raises, the attempt fails as if the body had raised it, or ``connect``
            does. A clean-up sees what the body raised, as an ``async with`` would; where it raises
            or takes longer than 10 s, that is logged and changes nothing.
        meta: a TypedDict, dataclass, pydantic model or msgspec struct that says what calls give as
            ``options(meta=…)`` and bodies find in ``ctx.meta``: ``Context[Services, RequestMeta]``.
            Without it, a mapping of names to plain values.
        ports: clock, randomness, ids and threads; a simulation replaces them.

    Raises:
        UsageError: no store answers to that URL, or ``services_scope`` is none.
        DefinitionError: ``meta`` is no such class.

    Example::

        app = App("sqlite:///shop.db")

        @app.workflow
        async def fulfil(order_id: str) -> str: ...

        async with app:
            run = await fulfil.enqueue("o1")
    """

    # pyright takes what a type variable stands for from the default of its parameter, mypy from its
    # own and does not let the parameter have one.
    @overload
    def __init__(
        self: App[None, N],
        store: str | Store | None = None,
        *,
        services: None = None,
        meta: type[N] = PLAIN_META,  # type: ignore[assignment]
        ports: Ports | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: App[T, N],
        store: str | Store | None = None,
        *,
        services: Managed[T],
        services_scope: ServicesScope = "run",
        meta: type[N] = PLAIN_META,  # type: ignore[assignment]
        ports: Ports | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: App[T, N],
        store: str | Store | None = None,
        *,
        services: Callable[[], Awaitable[T]],
        services_scope: ServicesScope = "run",
        meta: type[N] = PLAIN_META,  # type: ignore[assignment]
        ports: Ports | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: App[T, N],
        store: str | Store | None = None,
        *,
        services: Callable[[], T],
        services_scope: ServicesScope = "run",
        meta: type[N] = PLAIN_META,  # type: ignore[assignment]
        ports: Ports | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: App[T, N],
        store: str | Store | None = None,
        *,
        services: T,
        meta: type[N] = PLAIN_META,  # type: ignore[assignment]
        ports: Ports | None = None,
    ) -> None: ...
    def __init__(
        self,
        store: str | Store | None = None,
        *,
        services: Any = None,
        services_scope: ServicesScope | None = None,
        meta: Any = PLAIN_META,
        ports: Ports | None = None,
    ) -> None:
        _check_scope(services, services_scope)
        self._registry = Registry()
        self._services = services
        self._services_scope = services_scope or "run"
        self._whole: Held | None = None
        self._held: Held | None = None
        opened = late.url.open_store(store) if isinstance(store, str) else _checked_store(store)
        self._engine = Engine(opened, self._registry, _checked_ports(ports))
        self._engine.meta = MetaSchema(meta)
        self._declared: list[_InApp] = []
        self._included: set[Step[..., Any]] = set()
        self._defaults: dict[Kind, RunDefaults] = {"workflow": {}, "job": {}}
        self._users = 0
        self._connecting = asyncio.Lock()
        self._put_back: Callable[[], None] | None = None

    if not TYPE_CHECKING:

        def __class_getitem__(cls, given: Any) -> Any:
            """Fill in a missing meta."""
            return super().__class_getitem__(given if isinstance(given, tuple) else (given, Any))

    def __repr__(self) -> str:
        return repr(self._engine)

    @property
    def engine(self) -> Engine:
        """The machinery that workers and handles share."""
        return self._engine

    # --- declaring -------------------------------------------------------------------------------

    @overload
    def workflow(  # type: ignore[overload-overlap]  # a Misfit is another thing
        self,
        function: Callable[Concatenate[Context[Services_co, Meta_co], P], Coroutine[Any, Any, R]],
        /,
    ) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self, function: Callable[Concatenate[Context[Services_co, Meta_co], P], R], /
    ) -> Workflow[P, R]: ...
    @overload
    @deprecated("the app's services or meta do not satisfy the body's Context[…]")
    def workflow(self, function: Callable[Concatenate[Context[Any, Any], P], R], /) -> Misfit: ...
    @overload
    def workflow(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def workflow(self, function: Callable[P, R], /) -> Workflow[P, R]: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def workflow(self, /, **options: Unpack[Settings]) -> Decorator[Services_co, Meta_co]: ...
    def workflow(
        self, function: Callable[..., Any] | None = None, /, **options: Unpack[Settings]
    ) -> Any:
        """Declare a workflow: a body made of durable calls.

        Args:
            function: the body, ``async def`` or ``def``.
            name: its name; the function's by default. It must be unique in the app.
            max_attempts: attempts of the whole run; recorded steps are not repeated by a new one.
                This and the next six are what :meth:`configure` says by default.
            backoff: the delay before the next attempt.
            retry_on: exception classes or a predicate; None for every ``Exception``.
            timeout: how long one attempt of the body may hold a worker; None for no limit.
            queue, priority: where its runs wait and in which order (smaller is sooner).
            retention: for how long its ended runs are kept: a duration, ``"forever"``, or a
                :class:`~perdure.Retention` that says it by how they ended; 30 days by default. A
                starting worker puts it into the store, where it then holds for all of its runs.
            on: the class of the events that start it, or the name of their type; a list or a union
                for several. The body takes the event as its argument. A starting worker registers
                it in the store, and from then on :meth:`publish` starts a run, also from a process
                that does not know the workflow.
            cron, every: start it again and again, with no arguments: a cron expression or alias,
                or an interval. A starting worker puts the schedule into the store, and takes it out
                where the option is gone; see :meth:`Workflow.schedule`.
            timezone, missed: of that schedule.
            schedule_key: of that schedule; the definition's name by default. Say the old name where
                the definition was renamed, and no instant is lost or repeated.
            where: a plain function of such an event: a run whose event it returns false for ends
                completed, with the reason ``declined``, before its body begins.
            unique_key, limit_key: of its runs, where a call does not say one: the name of an
                argument, or a function of all arguments, by their names, that returns the key, or
                None for none.
                Runs that an event starts have neither; those of a schedule have no ``unique_key``.
            on_conflict, unique_for, debounce: what becomes of a call whose ``unique_key`` is taken;
                see :meth:`Workflow.options`.
            version: changes when the code does; a digest of the function's code by default.
            pinned: a run goes on with the version with which it began, and waits for a worker that
                has that: the definition needs a ``version``, and keeps the code of earlier ones
                with :meth:`Workflow.earlier`. By default a run goes on with any.
            on_cancel: a function that is executed as a step when a run is cancelled that had begun,
                before it ends. It is given those of the body's arguments that it has parameters
                for, by name, and may ask for the context as a body does.
            on_parent_close: what becomes of a run of it that a body has started when that run ends:
                ``"abandon"`` (the default), ``"cancel"`` or ``"wait"``; see
                :meth:`Workflow.options`.
            description: for people; the docstring by default.
            tags: for people.

        Raises:
            DefinitionError, DuplicateName: it is declared wrongly.
        """
        return self._declare("workflow", function, options)

    @overload
    def job(  # type: ignore[overload-overlap]  # a Misfit is another thing
        self,
        function: Callable[Concatenate[Context[Services_co, Meta_co], P], Coroutine[Any, Any, R]],
        /,
    ) -> Workflow[P, R]: ...
    @overload
    def job(
        self, function: Callable[Concatenate[Context[Services_co, Meta_co], P], R], /
    ) -> Workflow[P, R]: ...
    @overload
    @deprecated("the app's services or meta do not satisfy the body's Context[…]")
    def job(self, function: Callable[Concatenate[Context[Any, Any], P], R], /) -> Misfit: ...
    @overload
    def job(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def job(self, function: Callable[P, R], /) -> Workflow[P, R]: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def job(self, /, **options: Unpack[Settings]) -> Decorator[Services_co, Meta_co]: ...
    def job(
        self, function: Callable[..., Any] | None = None, /, **options: Unpack[Settings]
    ) -> Any:
        """Declare a job: a workflow whose body is one unit of work.

        It takes the same options as :meth:`workflow`; a job has 3 attempts and a timeout of
        1 hour unless said otherwise.
        """
        return self._declare("job", function, options)

    @overload
    def step(self, function: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def step(self, /, **options: Unpack[StepSettings]) -> StepDecorator: ...
    def step(
        self, function: Callable[..., Any] | None = None, /, **options: Unpack[StepSettings]
    ) -> Any:
        """Declare a step; see :class:`perdure.step.StepVerb`. Its name is unique in the app.

        Args:
            function: what the step does, ``async def`` or ``def``.
            name: part of its identity; the function's name by default.
            max_attempts: how often it is tried in all; 3 by default.
            backoff, retry_on: as for a workflow.
            timeout: how long one attempt may take; 1 hour by default, None for no limit.
            was: the name it had before it was renamed, so that runs in flight find their records.
            at_most_once: record its start before its function is called, which costs one more
                write, and never call that again, whatever happens: not after an error, not by a
                retry of the run. Where a crash leaves it open whether it took effect, the body
                meets :class:`~perdure.errors.StepInterrupted`. Only a restart begins anew.

        Raises:
            DefinitionError, DuplicateName: it is declared wrongly.
        """
        refuse_unknown(StepOptions, options)
        chosen = StepOptions(**options)

        def declare(function: Callable[..., Any]) -> Step[..., Any]:
            if isinstance(function, Definable):
                raise DefinitionError(
                    f"a step is made of a plain function, got {function!r}; in a body, start it "
                    f"with `await {function.name}.enqueue(…)` or `await {function.name}.run(…)`"
                )
            made = decorate(function, chosen)
            self._registry.add_step(made.name, place_of(function))
            self._included.add(made)
            return made

        return declare if function is None else declare(function)

    def _declare(self, kind: Kind, function: Callable[..., Any] | None, settings: Settings) -> Any:
        def declare(function: Callable[..., Any]) -> Workflow[..., Any]:
            return Workflow(self._define(kind, function, settings), self._engine)

        return declare if function is None else declare(function)

    def _define(self, kind: Kind, function: Callable[..., Any], settings: Settings) -> Definition:
        made = self._make(kind, function, settings)
        self._registry.add(made.definition)
        self._declared.append(made)
        return made.definition

    def _make(self, kind: Kind, function: Callable[..., Any], settings: Settings) -> _InApp:
        declaration = Declaration.of(kind, self._defaults[kind], settings)
        made = _InApp(kind, settings, declaration.define(function, self._hold_services))
        self._check_services(made)
        return made

    def include(
        self,
        *given: ModuleType
        | Step[..., Any]
        | Declared[..., Any, Services_co, Meta_co]
        | Iterable[ModuleType | Step[..., Any] | Declared[..., Any, Services_co, Meta_co]],
    ) -> None:
        """Take definitions in that were declared without an app: all that is given, or nothing.

        Args:
            *given: what ``@workflow``, ``@job`` and ``@step`` of ``perdure`` made, or modules, of
                which everything such is taken that stands in their namespace; lists, too. Taking
                something in twice changes nothing.

        Raises:
            DuplicateName: another definition or step of that name is in this app already.
            DefinitionError: a body asks for services, and this app has none.
            UsageError: something else was given.

        Example::

            app = App("sqlite:///shop.db", services=Services())
            app.include(orders, mails.send_mail)
        """
        found = dict.fromkeys(_taken_from(given))
        steps = [each for each in found if isinstance(each, Step) and each not in self._included]
        made = {
            each: self._make(each.kind, each.function, each.settings)
            for each in found
            if isinstance(each, Declared) and each not in self._registry.included
        }
        self._registry.add_all(
            (each.definition for each in made.values()),
            ((step.name, place_of(step.function)) for step in steps),
        )
        self._included.update(steps)
        self._declared.extend(made.values())
        for declared, in_app in made.items():
            in_app.definition.earlier = declared.definition.earlier  # also what comes later
            self._registry.included[declared] = in_app.definition
            declared.bound_to(self._engine)

    def configure(
        self,
        *,
        workflow: RunDefaults | None = None,
        job: RunDefaults | None = None,
        payload_limit: int | None = None,
        event_retention: Age = None,
    ) -> None:
        """Say what holds in this app where a definition or a call does not say otherwise.

        It holds for the definitions before this call and after it, until the app is used for the
        first time. What is not named stays as it was.

        Args:
            workflow: any of ``max_attempts``, ``backoff``, ``retry_on``, ``timeout``, ``queue``,
                ``priority`` and ``retention``, for its workflows.
            job: the same for its jobs.
            payload_limit: bytes of one encoded input, meta, result or error; 1 MiB by default.
            event_retention: for how long published events are kept, and runs may take them;
                ``"forever"``, or a duration, 30 days by default.

        Raises:
            AppNotReady: the app was connected or has run something already.
            DefinitionError, UsageError, InvalidDuration: an option does not exist, or is wrong.

        Example::

            app.configure(job={"max_attempts": 10, "queue": "jobs"}, payload_limit=4 << 20)
        """
        if self._engine.is_used:
            raise AppNotReady(
                "the app is in use: its defaults are settled; call configure(…) before it is "
                "connected or runs something"
            )
        limit = self._engine.payload_limit
        if payload_limit is not None:
            limit = _checked_limit(payload_limit)
        kept_for = self._engine.event_retention
        if event_retention is not None:
            kept_for = age_given(event_retention, "event_retention")
        chosen: dict[Kind, RunDefaults] = {
            "workflow": {**self._defaults["workflow"], **_checked_defaults("workflow", workflow)},
            "job": {**self._defaults["job"], **_checked_defaults("job", job)},
        }
        for kind, of_app in chosen.items():
            Declaration.of(kind, of_app, {"name": f"every {kind}"}).define(_nothing, None)
        settled = [
            Declaration.of(each.kind, chosen[each.kind], each.settings).define(
                each.definition.function, None
            )
            for each in self._declared
        ]
        self._engine.payload_limit = limit
        self._engine.event_retention = kept_for
        self._defaults = chosen
        for each, found in zip(self._declared, settled, strict=True):
            each.definition.policy = found.policy
            each.definition.timeout = found.timeout
            each.definition.queue = found.queue
            each.definition.priority = found.priority
            each.definition.retention = found.retention

    # --- listening -------------------------------------------------------------------------------

    def on(self, kind: type[H], /) -> On[H]:
        """Listen to what happens in this process: the decorated function is told afterwards.

        A listener changes nothing: what it raises is logged. It is told at most once, in order per
        run, after the store has what it is told; see ``docs/hooks.md``.

        Args:
            kind: a class of :mod:`perdure.telemetry`: ``RunFailed``, or one that others derive
                from, such as ``StepHook`` for all that happens to steps.

        Returns:
            The decorator. The function takes the record: ``async def`` is awaited on the loop,
            where it must not block; ``def`` is called in a thread, where it may. What the
            decorator makes can still be called, and its ``off()`` ends the listening.

        Raises:
            UsageError: it is no such class.

        Example::

            @app.on(telemetry.RunFailed)
            async def alert(failed: telemetry.RunFailed) -> None:
                if not failed.will_retry:
                    await page(f"{failed.name} {failed.run_id}: {failed.error.message}")
        """
        return self._engine.hooks.on(kind)

    # --- services --------------------------------------------------------------------------------

    def _check_services(self, declared: _InApp) -> None:
        """Raise where a body asks for services that this app does not have.

        Raises:
            DefinitionError: with what to write.
        """
        if self._services is not None:
            return
        codes = declared.definition.codes()
        try:
            asking = [code for code in codes if asks_for_services(code.arguments)]
        except DefinitionError:
            # A class that is declared further down in the module; looked at again by connect().
            declared.is_checked = False
            return
        declared.is_checked = True
        for code in asking:
            raise DefinitionError(
                f"{code.name!r} at {code.place} asks for services in its Context[…], "
                "and the app has none; write App(…, services=…), or a bare Context where the body "
                "needs the meta, the id or the attempt alone"
            )

    async def _hold_services(self, what: str) -> Held:
        if self._held is not None:
            return self._held
        return await late.services.hold(self._services, what)

    async def _open_services(self) -> None:
        if self._services_scope == "process":
            self._whole = await late.services.hold(self._services, "the app")
            self._held = late.services.Held(self._whole.value)

    # --- connecting ------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the store, and see that it can be reached and read.

        ``async with app:`` does it, and closes it again. What the store promises of an acknowledged
        write is logged.

        Raises:
            AppNotReady: the app has no store.
            StoreError: the store cannot be used; nothing was created or changed.
            DefinitionError: a body asks for services, and the app has none.
            Exception: what the factory of services for the process raised.
        """
        self._engine.check_loop()
        async with self._connecting:
            if not self._users:
                await self._open()
            self._users += 1

    async def _open(self) -> None:
        for declared in self._declared:
            if not declared.is_checked or declared.definition.earlier:
                self._check_services(declared)
        await self._engine.open()
        try:
            await self._open_services()
        except BaseException:
            await self._engine.close()
            raise
        self._engine.tell_ready()
        offers = self._engine.store.capabilities
        late.telemetry.Log("perdure.app").info(
            "app connected",
            store=offers.name,
            acknowledged_writes_survive=SURVIVES.get(offers.durability, offers.durability),
        )

    async def close(self) -> None:
        """Write what is pending and close the store, when its last user leaves."""
        self._engine.check_loop()
        async with self._connecting:
            if self._users:
                self._users -= 1
                if not self._users:
                    await self._close()
                    self._end_override()

    def _end_override(self) -> None:
        """Put back what an override left that ended while the app was connected."""
        put_back = self._put_back
        self._put_back = None
        if put_back is not None:
            put_back()

    async def _close(self) -> None:
        whole, self._whole, self._held = self._whole, None, None
        try:
            await self._engine.close()
        finally:
            if whole is not None:
                await whole.release(None)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @contextmanager
    def override(
        self,
        *,
        store: str | Store | Unchanged | None = UNCHANGED,
        services: object = UNCHANGED,
        ports: Ports | Unchanged = UNCHANGED,
    ) -> Generator[Self]:
        """Swap what the app stands on, for tests, and put it back at the end.

        Definitions, steps and handles stay what they are; what is left out stays as it was.

        Args:
            store: a URL, a store, or None for an app without one.
            services: as for the constructor.
            ports: as for the constructor.

        Raises:
            AppNotReady: the app is connected, now or at the end: what runs cannot change its store.
            UsageError: no store answers to that URL.

        Example::

            with app.override(store="memory://", services=FakeServices()):
                async with app, Worker(app):
                    assert await (await fulfil.enqueue("o1")).result() == "packed"
        """
        self._refuse_if_connected("before the app is connected")
        engine, before = self._engine, (self._engine.configured, self._engine.ports, self._services)
        was_used = engine.is_used
        opened = late.url.open_store(store) if isinstance(store, str) else store
        engine.equip(
            before[0] if isinstance(opened, Unchanged) else _checked_store(opened),
            before[1] if isinstance(ports, Unchanged) else _checked_ports(ports),
        )
        self._services = before[2] if isinstance(services, Unchanged) else services
        self._connecting = asyncio.Lock()  # it belongs to the loop in which it was waited for

        def put_back() -> None:
            self._services = before[2]
            self._connecting = asyncio.Lock()
            engine.equip(before[0], before[1])
            engine.is_used = was_used

        try:
            yield self
            self._refuse_if_connected("until the app is closed: end `async with app:` before it")
        finally:
            if self._users:  # it stands on what it was given until it is closed
                self._put_back = put_back
            else:
                put_back()

    def _refuse_if_connected(self, when: str) -> None:
        if self._users:
            raise AppNotReady(f"the app is connected; override(…) holds {when}")

    # --- looking ---------------------------------------------------------------------------------

    def get(self, run_id: str) -> Run[Any]:
        """Return the handle of a run by its id, whether or not there is one.

        Its result is decoded without an annotation; ``fulfil.get(…)`` knows the type.

        Raises:
            InvalidValue: no run can have such an id.
        """
        return Run(check_id(run_id, "run id"), self._engine, schema(Any))

    async def runs(
        self,
        *,
        status: Status | str | Iterable[Status | str] = (),
        name: str | Iterable[str] = (),
        reason: str | None = None,
        queue: str | None = None,
        unique_key: str | None = None,
        limit_key: str | None = None,
        tag: str | None = None,
        parent: Run[Any] | str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        text: str | None = None,
        id_prefix: str | None = None,
        version: str | None = None,
        limit: int = 100,
        before: Run[Any] | str | None = None,
    ) -> list[Run[Any]]:
        """Return the newest runs that match; every argument narrows.

        Args:
            status: ``failed`` and so on; several are alternatives.
            name: of their definition, which other processes may define; several are alternatives.
            reason: ``crash`` with ``failed`` shows the runs that killed their workers.
            queue: exactly.
            unique_key: exactly; of ended runs, too.
            limit_key: exactly.
            tag: one of theirs, exactly.
            parent: whose body started them.
            created_after: an aware datetime; from this instant on.
            created_before: an aware datetime; before this instant.
            text: a part of the id, the definition's name, the unique_key or a tag; capitals
                ``A`` to ``Z`` do not matter.
            id_prefix: how the id begins.
            version: the one that they are pinned to; of those that are not, the one that they were
                created from.
            limit: 1 to 1,000.
            before: the run that ended the page before this one, for the next page. What is
                written between two pages makes no run appear twice or vanish.

        Raises:
            UsageError: there is no such status or reason, or another argument is wrong.
            UnknownDefinition: neither has this app a definition of that name, nor is there a run.
            RunNotFound: there is no run ``before``.

        Example::

            page = await app.runs(status="failed", name="fulfil")
            while page:
                for run in page:
                    await run.retry()
                page = await app.runs(status="failed", name="fulfil", before=page[-1])
        """
        _check_limit(limit)
        query = _query_of(
            status=status,
            name=name,
            reason=reason,
            queue=queue,
            unique_key=unique_key,
            limit_key=limit_key,
            tag=tag,
            parent=parent,
            created_after=created_after,
            created_before=created_before,
            text=text,
            id_prefix=id_prefix,
            version=version,
        )
        self._engine.check_loop()
        page = await self._seq_of(_id_of(before, "before"))
        await late_services.queries.check_known(query, self._registry, self._engine.store)
        found = await self._engine.store.list_runs(replace(query, limit=limit, before=page))
        return [run_of(run, self._engine) for run in found]

    def select(self, **filters: Unpack[Filters]) -> Selection:
        """Return the runs that match, to be counted, looped over, or asked something together.

        Args:
            **filters: those of :meth:`runs`; every one narrows. None at all means every run.

        Raises:
            UsageError: there is no such filter, status or reason, or another argument is wrong.

        Example::

            stuck = app.select(status="failed", name="charge")
            if await stuck.count() < 1_000:
                bulk = await stuck.retry()
                print(len(bulk.done), "are tried again")
        """
        refuse_unknown_filters(filters)
        return Selection(self._engine, _query_of(**filters))

    async def counts(self, *, by_definition: bool = False, by_queue: bool = False) -> list[Count]:
        """Return how many runs there are of each status, all as of one instant.

        The store keeps them: however many runs there are, it takes the same time.

        Args:
            by_definition: count each definition apart.
            by_queue: count each queue apart.

        Example::

            for count in await app.counts(by_definition=True):
                print(count.definition, count.status, count.runs)
        """
        for what, given in (("by_definition", by_definition), ("by_queue", by_queue)):
            if type(given) is not bool:
                raise UsageError(f"{what} is true or false, got {shown(given)}")
        self._engine.check_loop()
        return await self._engine.store.counts(by_definition=by_definition, by_queue=by_queue)

    async def prune(
        self,
        *,
        older_than: Duration | None = None,
        status: Status | str | Iterable[Status | str] = (),
        name: str | Iterable[str] = (),
        dry_run: bool = False,
    ) -> Pruned:
        """Remove ended runs now, with everything that is kept of them.

        Without arguments: what a worker removes by itself within a minute, which is what is over
        by its retention, published events too, as the app of the newest worker says. A run that
        has not ended is never removed, nor is one that another may still ask for: that has a wait
        for it, or has started it and is not completed.

        Args:
            older_than: instead of their retention: those that ended at least so long ago.
            status: ``completed``, ``failed`` or ``cancelled``; several are alternatives.
            name: of their definition; several are alternatives.
            dry_run: count only.

        Returns:
            How many ``runs`` and ``events`` were removed, or would be.

        Raises:
            InvalidDuration, UsageError: an argument is wrong.
            UnknownDefinition: neither has this app a definition of that name, nor is there a run.

        Example::

            await app.prune(older_than="7d", status="completed", name="send_mail")
        """
        if type(dry_run) is not bool:
            raise UsageError(f"dry_run is true or false, got {shown(dry_run)}")
        query = late_services.queries.ended_query(status, name)
        age = None if older_than is None else named_micros(older_than, "older_than")
        is_all = age is None and not query.statuses and not query.definitions
        asked = Prune(
            late_services.pruner.BATCH,
            None,
            age,
            query.statuses,
            query.definitions,
            events=is_all,
        )
        self._engine.check_loop()
        await late_services.queries.check_known(query, self._registry, self._engine.store)
        if dry_run:
            return await self._engine.store.prunable(asked)
        return await late_services.pruner.prune(self._engine, asked)

    # --- events ----------------------------------------------------------------------------------

    def publish(
        self,
        event: object,
        /,
        *,
        type: type[Any] | str | None = None,
        key: str | None = None,
        id: str | None = None,
    ) -> Coroutine[Any, Any, Event]:
        """Publish an event: it starts each workflow that listens, and satisfies waits for it.

        When this returns, the runs exist, whether or not their code is in this process; each
        stands or falls on its own. Inside a body this is a durable call: the event is published
        once however often the body replays.

        Args:
            event: a value of a class of events: a dataclass, a pydantic model, a msgspec struct.
            type: its class or the name of its type, where that is not the value's own class, as for
                a TypedDict.
            key: what a wait may ask for, such as an order's id.
            id: of the event: publishing the same again changes nothing. A new one by default.

        Raises:
            EventConflict: the id is taken by another event.
            InvalidValue: the event cannot be encoded; nothing is published.
            PayloadTooLarge: encoded it is over the limit.
            UsageError: it has no type.
            AppNotReady: the app has no store or is not connected.

        Example::

            event = await app.publish(OrderPlaced("o1", 499), key="o1")
            print(await event.runs())
        """
        going = late.sending.publish(
            self._engine, late.sending.Outgoing.of(event, type, key, id), call_site(2)
        )
        return self._published(going)

    @reads_as("publish(…) without `await`")
    async def _published(self, going: Coroutine[Any, Any, str]) -> Event:
        return Event(await going, self._engine)

    async def events(
        self,
        *,
        type: type[Any] | str | None = None,
        key: str | None = None,
        run: Run[Any] | str | None = None,
        limit: int = 100,
        before: Event | EventEntry | str | None = None,
    ) -> list[EventEntry]:
        """Return the newest events that match; every argument narrows.

        Args:
            type: their class, or the name of their type.
            key: exactly.
            run: that they were sent to.
            limit: 1 to 1,000.
            before: the event that ended the page before this one, for the next page.

        Raises:
            UsageError: an argument is wrong.
        """
        _check_limit(limit)
        self._engine.check_loop()
        given = before if isinstance(before, str | None) else before.id
        query = late.model_events.EventQuery(
            type=None if type is None else type_name(type),
            key=late_services.queries.optional_id(key, "key"),
            run_id=_id_of(run, "run"),
            limit=limit,
            before=await self._seq_of_event(given),
        )
        return [event_entry(one) for one in await self._engine.store.events(query)]

    async def _seq_of_event(self, event_id: str | None) -> int | None:
        if event_id is None:
            return None
        query = late.model_events.EventQuery(event_id=check_id(event_id, "before"), limit=1)
        for found in await self._engine.store.events(query):
            return found.seq
        raise UsageError(f"there is no event {event_id!r} to begin the page before")

    async def listeners(self) -> list[ListenerEntry]:
        """Return which workflows are started by which events, of every process."""
        self._engine.check_loop()
        return [listener_entry(one) for one in await self._engine.store.listeners()]

    async def unlisten(
        self, name: str | Definable[..., Any], /, *, type: type[Any] | str | None = None
    ) -> None:
        """Let events start a workflow no more; runs that they started stand.

        A worker that still has it with ``on=`` registers it again when it starts.

        Args:
            name: of the definition, which other processes may define.
            type: of the events; None for all that it listens to.

        Raises:
            InvalidValue, UsageError: an argument is wrong.
        """
        definition = name.name if isinstance(name, Definable) else check_id(name, "name")
        self._engine.check_loop()
        await self._engine.committer.submit(
            late.model_events.Unlisten(definition, None if type is None else type_name(type))
        )

    async def schedules(self) -> list[ScheduleEntry]:
        """Return all schedules in the order of their keys, whoever put them."""
        self._engine.check_loop()
        return [schedule_entry(one) for one in await self._engine.store.schedules()]

    def schedule(self, key: str) -> ScheduleHandle:
        """Return the handle of a schedule by its key, whether or not there is one.

        Raises:
            InvalidValue: no schedule can have such a key.
        """
        return ScheduleHandle(key, self._engine)

    def queue(
        self,
        name: str,
        /,
        *,
        concurrency: int | None = None,
        rate: Rate | None = None,
        concurrency_per_key: int | None = None,
        rate_per_key: Rate | None = None,
    ) -> Queue:
        """Return a queue by its name; with any limit, declare that it has these.

        The limits that are declared are set by each worker of the app that starts, and hold for
        all workers of whatever process. A run that is over one stays queued until there is room,
        and takes neither a slot nor the turn of others meanwhile. A run that waits (for a time, an
        event, a child, its next attempt) has no slot.

        Args:
            name: what definitions and calls name with ``queue=``.
            concurrency: at most so many of its runs work at once, on all workers.
            rate: so many of its runs start in a time; one that goes on after a wait is no start.
            concurrency_per_key: as ``concurrency``, for each ``options(limit_key=…)`` apart.
            rate_per_key: as ``rate``, for each ``limit_key`` apart.

        Raises:
            InvalidValue: no queue can have such a name.
            UsageError: one of the limits is none.
            DefinitionError: it is declared with other limits already.

        Example::

            app.queue("mail", concurrency=20, rate=Rate(100, "1m", burst=10), concurrency_per_key=1)
        """
        found = Queue(name, self._engine)
        limits = limits_given(concurrency, rate, concurrency_per_key, rate_per_key)
        if limits != Limits():
            self._engine.declare_queue(name, limits)
        return found

    async def queues(self) -> list[QueueEntry]:
        """Return the queues that have limits, are paused or have runs, in order of their names."""
        return [*(await queue_entries(self._engine)).values()]

    # --- changes ---------------------------------------------------------------------------------

    def changes(
        self,
        *,
        after: Change | str | None = None,
        name: str | Iterable[str] = (),
        run: Run[Any] | str | None = None,
        kind: ChangeKind | str | Iterable[ChangeKind | str] = (),
        follow: bool = False,
    ) -> AsyncGenerator[Change, None]:
        """Read what has happened to runs, whichever process brought it about, oldest first.

        The changes of one run come in the order in which they happened, and none is skipped. They
        are kept for seven days, of each namespace the newest million.

        Args:
            after: the change that was read last, or its position; from the oldest on by default.
            name: of a workflow or job, which other processes may define; several are alternatives.
            run: of this one.
            kind: ``completed`` and so on; several are alternatives.
            follow: do not stop at the newest, but wait for what comes.

        Raises:
            CursorExpired: while reading: what followed on ``after`` is gone.
            UnknownDefinition: while reading: there is no definition of that name, nor a run.
            UsageError: there is no such kind, or another argument is wrong.
            InvalidValue: a name or an id is none, or ``after`` is no position.

        Example::

            async for change in app.changes(kind=["completed", "failed"], follow=True):
                print(change.at, change.name, change.run_id, change.kind)
        """
        wanted = late_services.change.Wanted.of(name, kind, _id_of(run, "run"))
        if type(follow) is not bool:
            raise UsageError(f"follow is true or false, got {shown(follow)}")
        start = late_services.change.position_of(after)
        return late_services.change.read(self._engine, wanted, start, follow=follow)

    async def position(self) -> str:
        """Return the position of the newest change: what follows on it has not happened yet."""
        self._engine.check_loop()
        return await self._engine.store.position()

    def subscribe(
        self,
        subscriber: str,
        /,
        *,
        after: Change | str | None = None,
        name: str | Iterable[str] = (),
        kind: ChangeKind | str | Iterable[ChangeKind | str] = (),
    ) -> AsyncGenerator[Change, None]:
        """Read changes as a named subscriber, which goes on where it was; each at least once.

        A change is acknowledged when the loop asks for the next one. What is acknowledged is stored
        at the end of each hundred changes, once a second, and when the loop is left; after a crash
        the subscriber is given what came since again. ``change.position`` tells whether it did a
        thing already. Let one process read under one name: of two, each may be given every change.

        Args:
            subscriber: its name.
            after: where a new subscriber begins; the oldest change by default, and
                ``await app.position()`` for what comes from now on.
            name: of a workflow or job; several are alternatives.
            kind: ``completed`` and so on; several are alternatives.

        Raises:
            CursorExpired: while reading: it was away for longer than changes are kept.
            UnknownDefinition, UsageError, InvalidValue: as for ``changes``.

        Example::

            async for change in app.subscribe("billing", kind="completed"):
                await bill(change.run_id, request_id=change.position)
        """
        wanted = late_services.change.Wanted.of(name, kind, None)
        check_id(subscriber, "subscriber")
        start = late_services.change.position_of(after)
        return late_services.change.subscribe(self._engine, subscriber, wanted, start)

    async def subscribers(self) -> list[SubscriberEntry]:
        """Return the named subscribers and how far they have come, in the order of their names."""
        return await late_services.change.subscribers(self._engine)

    async def unsubscribe(self, subscriber: str, /) -> bool:
        """Forget a named subscriber; the next one of that name begins anew.

        Returns:
            Whether there was one.

        Raises:
            InvalidValue: no subscriber can have such a name.
        """
        check_id(subscriber, "subscriber")
        return await late_services.change.unsubscribe(self._engine, subscriber)

    async def workers(self) -> list[WorkerEntry]:
        """Return the registered workers of every process, in order of registration.

        One that died stays until another worker finds out; ``beat_at`` tells since when it gives
        no sign of life.
        """
        self._engine.check_loop()
        store = self._engine.store
        leader = (await store.leader()).worker_id
        return [worker_entry(worker, leader) for worker in await store.workers()]

    async def versions(self) -> list[VersionEntry]:
        """Return which versions of definitions live runs need and workers have, by name.

        What no run needs may be removed from the code: a version with ``pinned`` 0.
        """
        self._engine.check_loop()
        store = self._engine.store
        return late_services.queries.version_entries(await store.pins(), await store.workers())

    async def _seq_of(self, run_id: str | None) -> int | None:
        if run_id is None:
            return None
        found = await self._engine.store.get(run_id)
        if found is None:
            raise RunNotFound(f"there is no run {run_id!r} here, or its retention has ended")
        return found.seq


class _InApp(msgspec.Struct):
    """A definition of an app, with what its decorator said.

    Attributes:
        is_checked: whether it is known what services its body asks for.
    """

    kind: Kind
    settings: Settings
    definition: Definition
    is_checked: bool = True


class Misfit:
    """What type checkers make of a body whose ``Context[…]`` this app does not satisfy."""


def _check_limit(given: object) -> None:
    if type(given) is not int or not 1 <= given <= 1000:
        raise UsageError(f"limit must be a whole number from 1 to 1000, got {shown(given)}")


class StepSettings(TypedDict, total=False):
    """What ``@app.step(…)`` takes; :meth:`App.step` explains each."""

    name: str | None
    max_attempts: int
    backoff: Backoff | Callable[[int, BaseException], Duration] | None
    retry_on: RetryOn
    timeout: Duration | None
    was: str | None
    at_most_once: bool


class Decorator(Generic[Services_co, Meta_co]):
    """The type of ``@app.workflow(…)`` and ``@app.job(…)`` with options."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a Misfit is another thing
        self,
        function: Callable[Concatenate[Context[Services_co, Meta_co], P], Coroutine[Any, Any, R]],
        /,
    ) -> Workflow[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[Services_co, Meta_co], P], R], /
    ) -> Workflow[P, R]: ...
    @overload
    @deprecated("the app's services or meta do not satisfy the body's Context[…]")
    def __call__(self, function: Callable[Concatenate[Context[Any, Any], P], R], /) -> Misfit: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Workflow[P, R]: ...  # pyright: ignore[reportOverlappingOverload]
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Declare the function."""
        raise NotImplementedError


class StepDecorator:
    """The type of ``@app.step(…)`` with options."""

    def __call__(self, function: Callable[P, R], /) -> Step[P, R]:
        """Declare the step."""
        raise NotImplementedError


def _id_of(run: Run[Any] | str | None, what: str) -> str | None:
    return run.id if isinstance(run, Run) else late_services.queries.optional_id(run, what)


def _checked_store(given: Store | None) -> Store | None:
    if given is None or callable(getattr(given, "apply", None)):
        return given
    raise UsageError(
        f'an app\'s store is a URL such as "sqlite:///app.db" or a store object, got {shown(given)}'
    )


def _checked_ports(given: Ports | None) -> Ports:
    if given is None:
        return Ports()
    if not isinstance(cast("object", given), Ports):
        raise UsageError(f"ports are given as Ports(…), got {shown(given)}")
    return given


def _query_of(**filters: Unpack[Filters]) -> RunQuery:
    """Return the query of checked filters."""
    after, before = filters.get("created_after"), filters.get("created_before")
    return late_services.queries.run_query(
        status=filters.get("status", ()),
        name=filters.get("name", ()),
        reason=filters.get("reason"),
        queue=filters.get("queue"),
        unique_key=filters.get("unique_key"),
        tag=filters.get("tag"),
        parent_id=_id_of(filters.get("parent"), "parent"),
        created_after=None if after is None else to_micros_instant(after),
        created_before=None if before is None else to_micros_instant(before),
        text=filters.get("text"),
        id_prefix=filters.get("id_prefix"),
        limit_key=filters.get("limit_key"),
        version=filters.get("version"),
    )


async def _nothing() -> None:
    """A body to try defaults on."""


def _check_scope(services: object, scope: object) -> None:
    if scope is None:
        return
    if scope not in ("run", "process"):
        raise UsageError(f'services_scope is "run" or "process", got {shown(scope)}')
    if not callable(services):
        raise UsageError(
            "services_scope says how often a factory is called; these services are no factory but "
            f"an object, which all runs share: {shown(services)}"
        )


def _taken_from(given: Iterable[Any]) -> Iterator[Declared[..., Any] | Step[..., Any]]:
    """Yield the declarations and steps that were given, stand in modules, or in lists."""
    for each in given:
        if isinstance(each, Declared | Step):
            yield cast("Declared[..., Any] | Step[..., Any]", each)
        elif isinstance(each, ModuleType):
            values: list[Any] = [*vars(each).values()]
            yield from (value for value in values if isinstance(value, Declared | Step))
        elif isinstance(each, Iterable) and not isinstance(each, str | bytes):
            yield from _taken_from(cast("Iterable[object]", each))
        else:
            raise UsageError(
                "include(…) takes modules and what @workflow, @job and @step of perdure made, got "
                f"{shown(each)}"
            )


def _checked_defaults(kind: Kind, given: object) -> RunDefaults:
    if given is None:
        return {}
    if not _is_options(given):
        raise UsageError(
            f'defaults are a mapping of options to values such as {kind}={{"max_attempts": 3}}, '
            f"got {shown(given)}"
        )
    return cast("RunDefaults", given)


def _is_options(given: object) -> bool:
    return isinstance(given, Mapping) and all(
        isinstance(name, str) for name in cast("Mapping[object, object]", given)
    )


def _checked_limit(given: object) -> int:
    if type(given) is not int or given < 1:
        raise UsageError(f"payload_limit is a whole number of bytes, got {shown(given)}")
    return given
