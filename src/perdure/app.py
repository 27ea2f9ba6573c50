"""The app: definitions, a store and the services that bodies need, under one name.

There is no global registry: make as many apps as you like. An app without a store can run its
definitions here and now; everything durable needs one and says so.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from types import TracebackType
from typing import (
    Any,
    Concatenate,
    Final,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)
from urllib.parse import parse_qsl, unquote, urlsplit

from perdure import defaults
from perdure._engine.engine import Engine, Ports
from perdure._engine.registry import Registry
from perdure.clock import to_micros_instant
from perdure.codec import Schema, schema
from perdure.context import Context
from perdure.duration import Duration
from perdure.errors import AppNotReady, DefinitionError, RunNotFound, UsageError, shown
from perdure.handle import Run, WorkerEntry, worker_entry
from perdure.ids import check_id
from perdure.model.records import REASONS, Count, RunQuery, Status
from perdure.retry import Backoff, RetryOn
from perdure.step import Step, StepOptions, decorate, refuse_unknown
from perdure.store import Store
from perdure.telemetry import Hook, On
from perdure.workflow import Declaration, Workflow, place_of

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
H = TypeVar("H", bound=Hook)

STORES = {"memory": "perdure.stores.memory", "sqlite": "perdure.stores.sqlite"}
"""The module of each URL scheme; it has ``from_url(path, options)``. Loaded when asked for."""


_NO_PATH = re.compile("[\x00\ud800-\udfff]")


class Unchanged(Enum):
    """The type of what :meth:`App.override` was not given."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


class App:
    """Definitions bound to a store.

    Args:
        store: where runs live: a URL (``sqlite:///shop.db``, ``sqlite:////var/shop.db`` for an
            absolute path, ``memory://``; ``?namespace=…`` separates apps on one store), or a Store
            object. None for an app that only runs things here and now.
        services: what bodies find in ``ctx.services``: an object, or a function (sync or async)
            that makes it for each run.
        ports: clock, randomness, ids and threads; a simulation replaces them.

    Raises:
        UsageError: no store answers to that URL.

    Example::

        app = App("sqlite:///shop.db")

        @app.workflow
        async def fulfil(order_id: str) -> str: ...

        async with app:
            run = await fulfil.enqueue("o1")
    """

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        services: object = None,
        ports: Ports | None = None,
    ) -> None:
        self._registry = Registry()
        self._services = services
        opened = open_store(store) if isinstance(store, str) else _checked_store(store)
        self._engine = Engine(opened, self._registry, _checked_ports(ports))
        self._users = 0
        self._connecting = asyncio.Lock()

    @property
    def engine(self) -> Engine:
        """The machinery that workers and handles share."""
        return self._engine

    # --- declaring -------------------------------------------------------------------------------

    @overload
    def workflow(
        self, function: Callable[Concatenate[Context[S], P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...
    @overload
    def workflow(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def workflow(self, function: Callable[Concatenate[Context[S], P], R], /) -> Workflow[P, R]: ...
    @overload
    def workflow(self, function: Callable[P, R], /) -> Workflow[P, R]: ...
    @overload
    def workflow(self, /, **options: Unpack[Settings]) -> Decorator: ...
    def workflow(
        self, function: Callable[..., Any] | None = None, /, **options: Unpack[Settings]
    ) -> Any:
        """Declare a workflow: a body made of durable calls.

        Args:
            function: the body, ``async def`` or ``def``.
            name: its name; the function's by default. It must be unique in the app.
            max_attempts: attempts of the whole run; recorded steps are not repeated by a new one.
            backoff: the delay before the next attempt.
            retry_on: exception classes or a predicate; None for every ``Exception``.
            timeout: how long one attempt of the body may hold a worker; None for no limit.
            queue, priority: where its runs wait and in which order (smaller is sooner).
            version: changes when the code does; a digest of the function's code by default.
            description: for people; the docstring by default.
            tags: for people.

        Raises:
            DefinitionError, DuplicateName: it is declared wrongly.
        """
        options.setdefault("max_attempts", defaults.WORKFLOW_MAX_ATTEMPTS)
        options.setdefault("timeout", None)
        refuse_unknown(Declaration, options)
        return self._declare(function, Declaration(**options))

    @overload
    def job(
        self, function: Callable[Concatenate[Context[S], P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...
    @overload
    def job(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def job(self, function: Callable[Concatenate[Context[S], P], R], /) -> Workflow[P, R]: ...
    @overload
    def job(self, function: Callable[P, R], /) -> Workflow[P, R]: ...
    @overload
    def job(self, /, **options: Unpack[Settings]) -> Decorator: ...
    def job(
        self, function: Callable[..., Any] | None = None, /, **options: Unpack[Settings]
    ) -> Any:
        """Declare a job: a workflow whose body is one unit of work.

        It takes the same options as :meth:`workflow`; a job has 3 attempts and a timeout of
        1 hour unless said otherwise.
        """
        options.setdefault("max_attempts", defaults.JOB_MAX_ATTEMPTS)
        options.setdefault("timeout", defaults.JOB_TIMEOUT)
        refuse_unknown(Declaration, options)
        return self._declare(function, Declaration(**options))

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

        Raises:
            DefinitionError, DuplicateName: it is declared wrongly.
        """
        refuse_unknown(StepOptions, options)
        chosen = StepOptions(**options)

        def declare(function: Callable[..., Any]) -> Step[..., Any]:
            if isinstance(function, Workflow):
                raise DefinitionError(
                    f"a step is made of a plain function, got {function!r}; in a body, start it "
                    f"with `await {function.name}.enqueue(…)` or `await {function.name}.run(…)`"
                )
            made = decorate(function, chosen)
            self._registry.add_step(made.name, place_of(function))
            return made

        return declare if function is None else declare(function)

    def _declare(self, function: Callable[..., Any] | None, declaration: Declaration) -> Any:
        def declare(function: Callable[..., Any]) -> Workflow[..., Any]:
            definition = declaration.define(function, self._make_services)
            self._registry.add(definition)
            return Workflow(definition, self._engine)

        return declare if function is None else declare(function)

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

    async def _make_services(self) -> Any:
        made: Any = self._services
        if callable(made) and not isinstance(made, type):
            made = made()
            if inspect.isawaitable(made):
                made = await made
        return made

    # --- connecting ------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Open the store. ``async with app:`` does it, and closes it again.

        Raises:
            AppNotReady: the app has no store.
            StoreError: the store cannot be used; nothing was created or changed.
        """
        self._engine.check_loop()
        async with self._connecting:
            if not self._users:
                await self._engine.open()
            self._users += 1

    async def close(self) -> None:
        """Write what is pending and close the store, when its last user leaves."""
        async with self._connecting:
            if self._users:
                self._users -= 1
                if not self._users:
                    await self._engine.close()

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
        opened = open_store(store) if isinstance(store, str) else store
        engine.equip(
            before[0] if isinstance(opened, Unchanged) else _checked_store(opened),
            before[1] if isinstance(ports, Unchanged) else _checked_ports(ports),
        )
        self._services = before[2] if isinstance(services, Unchanged) else services
        self._connecting = asyncio.Lock()  # it belongs to the loop in which it was waited for
        try:
            yield self
            self._refuse_if_connected("until the app is closed: end `async with app:` before it")
        finally:
            self._users = 0
            self._services = before[2]
            self._connecting = asyncio.Lock()
            engine.equip(before[0], before[1])

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
        tag: str | None = None,
        parent: Run[Any] | str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        text: str | None = None,
        id_prefix: str | None = None,
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
            tag: one of theirs, exactly.
            parent: whose body started them.
            created_after: an aware datetime; from this instant on.
            created_before: an aware datetime; before this instant.
            text: a part of the id, the definition's name, the unique_key or a tag; capitals
                ``A`` to ``Z`` do not matter.
            id_prefix: how the id begins.
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
        if type(limit) is not int or not 1 <= limit <= 1000:
            raise UsageError(f"limit must be a whole number from 1 to 1000, got {shown(limit)}")
        if reason is not None:
            _check_one_of("reason", reason, REASONS)
        statuses = _statuses(status)
        self._engine.check_loop()
        names = tuple(check_id(one, "name") for one in _several(name))
        query = RunQuery(
            statuses=statuses,
            definitions=names,
            reason=reason,
            parent_id=_id_of(parent, "parent"),
            queue=_optional(queue, "queue"),
            unique_key=_optional(unique_key, "unique_key"),
            tag=_optional(tag, "tag"),
            created_after=None if created_after is None else to_micros_instant(created_after),
            created_before=None if created_before is None else to_micros_instant(created_before),
            text=_optional(text, "text"),
            id_prefix=_optional(id_prefix, "id_prefix"),
            limit=limit,
            before=await self._seq_of(_id_of(before, "before")),
        )
        for one in names:
            await self._check_known(one)
        found = await self._engine.store.list_runs(query)
        return [Run(run.run_id, self._engine, self._result_of(run.definition)) for run in found]

    async def _check_known(self, name: str) -> None:
        """Raise for a name that nobody knows, with a suggestion where one is written alike.

        An app that defines nothing is a client of others, and takes any name.
        """
        if not len(self._registry) or self._registry.find(name) is not None:
            return
        if not await self._engine.store.list_runs(RunQuery(definitions=(name,), limit=1)):
            self._registry[name]

    async def counts(self, *, by_definition: bool = False, by_queue: bool = False) -> list[Count]:
        """Return how many runs there are of each status, all as of one instant.

        The store reads every run for it: ask once a second, not once a request.

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

    async def workers(self) -> list[WorkerEntry]:
        """Return the registered workers of every process, in order of registration.

        One that died stays until another worker finds out; ``beat_at`` tells since when it gives
        no sign of life.
        """
        self._engine.check_loop()
        return [worker_entry(worker) for worker in await self._engine.store.workers()]

    async def _seq_of(self, run_id: str | None) -> int | None:
        if run_id is None:
            return None
        found = await self._engine.store.get(run_id)
        if found is None:
            raise RunNotFound(f"there is no run {run_id!r} here, or its retention has ended")
        return found.seq

    def _result_of(self, name: str) -> Schema[Any]:
        definition = self._registry.find(name)
        return schema(Any) if definition is None else definition.result


class Settings(TypedDict, total=False):
    """What ``@app.workflow(…)`` and ``@app.job(…)`` take; :meth:`App.workflow` explains each."""

    name: str | None
    max_attempts: int
    backoff: Backoff | Callable[[int, BaseException], Duration] | None
    retry_on: RetryOn
    timeout: Duration | None
    queue: str
    priority: int
    version: str | None
    description: str | None
    tags: tuple[str, ...]


class StepSettings(TypedDict, total=False):
    """What ``@app.step(…)`` takes; :meth:`App.step` explains each."""

    name: str | None
    max_attempts: int
    backoff: Backoff | Callable[[int, BaseException], Duration] | None
    retry_on: RetryOn
    timeout: Duration | None
    was: str | None


class Decorator:
    """The type of ``@app.workflow(…)`` and ``@app.job(…)`` with options."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[S], P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context[S], P], R], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Workflow[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Declare the function."""
        raise NotImplementedError


class StepDecorator:
    """The type of ``@app.step(…)`` with options."""

    def __call__(self, function: Callable[P, R], /) -> Step[P, R]:
        """Declare the step."""
        raise NotImplementedError


def _id_of(run: Run[Any] | str | None, what: str) -> str | None:
    return run.id if isinstance(run, Run) else _optional(run, what)


def _optional(given: str | None, what: str) -> str | None:
    return None if given is None else check_id(given, what)


def _several(given: object) -> tuple[Any, ...]:
    """Return what was given as one or as several."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return tuple(cast("Any", given))
    return (given,)


def _statuses(given: Status | str | Iterable[Status | str]) -> tuple[Status, ...]:
    """Return the statuses of these names.

    Raises:
        UsageError: there is none of that name; the message suggests or lists those that there are.
    """
    names = _several(given)
    for name in names:
        _check_one_of("status", name, tuple(Status))
    return tuple(Status(name) for name in names)


def _check_one_of(what: str, given: object, known: tuple[str, ...]) -> None:
    if given in known:
        return
    close = difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else []
    hint = f"did you mean {str(close[0])!r}?" if close else f"there are {', '.join(known)}"
    raise UsageError(f"there is no {what} {shown(given)}; {hint}")


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


def open_store(url: str) -> Store:
    """Return the unopened store of a URL.

    Raises:
        UsageError: the URL has no known scheme, or an option that the store does not know.
        InvalidValue: its namespace is no name.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{url!r} is no URL of a store: {error}") from error
    module = STORES.get(parts.scheme)
    if module is None:
        known = ", ".join(f"{scheme}://" for scheme in sorted(STORES))
        raise UsageError(
            f"no store answers to {url!r}; this version knows {known} "
            '(a file is "sqlite:///relative.db" or "sqlite:////absolute.db")'
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = unquote(parts.netloc + parts.path)
    if _NO_PATH.search(path):
        raise UsageError(f"{url!r} names no file: a path holds no NUL and no lone surrogate")
    if "namespace" in options:
        check_id(options["namespace"], "namespace")
    store: Store = importlib.import_module(module).from_url(path, options)
    return store
