"""How records reach their listeners: in order per run, beside the work, never into it.

What is told is queued and delivered by a few tasks of the app's loop, so a slow listener holds up
neither a run nor, until all of those tasks are busy with slow ones, the listeners of other runs.
The records of one run (or worker, or app) form a lane and are delivered one after another.
Nothing is kept across processes: a record that was not delivered when the process ends is gone.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar

from perdure.errors import UsageError
from perdure.telemetry._hooks import KINDS, AppHook, Hook, OfRun, StepHook, WorkerHook
from perdure.telemetry._logs import Log

H = TypeVar("H", bound=Hook)
R = TypeVar("R")

log = Log("perdure.hooks")

BACKLOG = 10_000
"""Records that may wait for their listeners; beyond it the newest are dropped, and counted."""

AT_ONCE = 16
"""Records that are with their listeners at the same time, each of another lane."""

THREADS = 4
"""Threads for listeners written with ``def``: apart from those of steps, which must not wait."""

DRAIN_LIMIT = 5.0
"""Seconds that listeners are given when the app closes."""


class Listener(Generic[H, R]):
    """A function that listens. It can still be called; :meth:`off` ends the listening.

    Made by ``app.on`` and ``workflow.on``, not by hand.
    """

    def __init__(self, function: Callable[[H], R], off: Callable[[], None]) -> None:
        self.function = function
        self._off = off

    def __call__(self, hook: H, /) -> R:
        """Call the function."""
        return self.function(hook)

    def off(self) -> None:
        """Listen no more. What was told before is still delivered; twice is harmless."""
        self._off()

    def __repr__(self) -> str:
        return f"<listener {_name_of(self.function)}>"


class On(Generic[H]):
    """The decorator that ``app.on`` and ``workflow.on`` return."""

    def __init__(self, hooks: Hooks, kind: type[H], name: str | None) -> None:
        self._hooks = hooks
        self._kind = kind
        self._name = name

    def __call__(self, function: Callable[[H], R], /) -> Listener[H, R]:
        """Begin to listen.

        Args:
            function: takes the record. With ``async def`` it is awaited on the loop, where it must
                not block; with ``def`` it is called in a thread, where it may.

        Raises:
            UsageError: it does not take one argument.
        """
        entry = _Entry(self._kind, self._name, _checked(function))
        return Listener(function, self._hooks.add(entry))


class _Entry:
    __slots__ = ("failures", "function", "is_async", "kind", "name")

    def __init__(self, kind: type[Hook], name: str | None, function: Callable[[Any], Any]) -> None:
        self.kind = kind
        self.name = name
        self.function = function
        self.is_async = _is_async(function)
        self.failures = 0

    def hears(self, hook: Hook) -> bool:
        """Tell whether this is for the entry's function."""
        return isinstance(hook, self.kind) and (
            self.name is None or (isinstance(hook, OfRun) and hook.name == self.name)
        )


class Hooks:
    """The listeners of one app, and what is on its way to them.

    Attributes:
        kinds: the kinds that somebody listens to. Whoever has something to tell looks here first,
            and makes no record in vain: ``if hooks.kinds and RunStarted in hooks.kinds``.
        of_steps: whether steps are among them, which saves 2 us a step where they are not.
        dropped: records that were dropped because too many waited.
    """

    def __init__(self) -> None:
        self.kinds: frozenset[type[Hook]] = frozenset()
        self.of_steps = False
        self.dropped = 0
        self._entries: tuple[_Entry, ...] = ()
        self._lanes: dict[str, deque[tuple[Hook, tuple[_Entry, ...]]]] = {}
        self._ready: deque[str] = deque()
        self._waiting = 0
        self._delivering = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: ThreadPoolExecutor | None = None

    # --- listening -------------------------------------------------------------------------------

    def on(self, kind: type[H], name: str | None = None) -> On[H]:
        """Return the decorator that makes a function listen.

        Args:
            kind: a class of :mod:`perdure.telemetry`; one that others derive from is all of them.
            name: only of this definition's runs; None for all.

        Raises:
            UsageError: it is no such class, or with ``name`` none that belongs to runs.
        """
        _check_kind(kind, OfRun if name is not None else Hook)
        return On(self, kind, name)

    def add(self, entry: _Entry) -> Callable[[], None]:
        """Take a listener in; return what takes it out again."""

        def remove() -> None:
            self._set([kept for kept in self._entries if kept is not entry])

        self._set([*self._entries, entry])
        return remove

    def _set(self, entries: list[_Entry]) -> None:
        self._entries = tuple(entries)
        self.kinds = frozenset(
            kind for kind in KINDS for entry in entries if issubclass(kind, entry.kind)
        )
        self.of_steps = any(issubclass(kind, StepHook) for kind in self.kinds)

    # --- telling ---------------------------------------------------------------------------------

    def tell(self, hook: Hook) -> None:
        """Queue a record for whoever listens to it now. It never raises and never waits."""
        entries = tuple(entry for entry in self._entries if entry.hears(hook))
        if not entries or self._loop is None:
            return
        if self._waiting >= BACKLOG:
            self._drop(hook)
            return
        self._waiting += 1
        key = _lane_of(hook)
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append((hook, entries))
            return
        self._lanes[key] = deque([(hook, entries)])
        self._ready.append(key)
        if self._delivering < AT_ONCE:
            self._delivering += 1
            # A context of its own: the code that tells may be a body, and a listener is not in it.
            task = asyncio.Task(self._deliver(), loop=self._loop, context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _drop(self, hook: Hook) -> None:
        self.dropped += 1
        if self.dropped in (1, 10, 100) or self.dropped % 1000 == 0:
            log.warning(
                "hooks dropped; too many wait for slow listeners",
                kind=type(hook).__name__,
                dropped=self.dropped,
                waiting=self._waiting,
            )

    async def _deliver(self) -> None:
        """Deliver one record of each lane in turn until none is left."""
        try:
            while self._ready:
                await self._deliver_next()
        finally:
            self._delivering -= 1

    async def _deliver_next(self) -> None:
        key = self._ready.popleft()
        lane = self._lanes[key]
        hook, entries = lane.popleft()
        try:
            for entry in entries:
                await self._call(entry, hook)
        finally:
            self._waiting -= 1
            if lane:
                self._ready.append(key)
            else:
                del self._lanes[key]

    async def _call(self, entry: _Entry, hook: Hook) -> None:
        try:
            if entry.is_async:
                await entry.function(hook)
                return
            answer = await self._in_thread(entry.function, hook)
            if inspect.isawaitable(answer):  # `lambda failed: alert(failed)`, say
                await answer
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the app closes and has no more patience
            self._failed(entry, hook, error)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the listener's alone
            self._failed(entry, hook, error)

    def _in_thread(self, function: Callable[[Any], Any], hook: Hook) -> asyncio.Future[Any]:
        assert self._loop is not None, "what is delivered was told on a loop"
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="perdure-hook")
        return self._loop.run_in_executor(self._pool, lambda: Context().run(function, hook))

    def _failed(self, entry: _Entry, hook: Hook, error: BaseException) -> None:
        entry.failures += 1
        fields = {
            "listener": _name_of(entry.function),
            "kind": type(hook).__name__,
            "failures": entry.failures,
            **_place_of(hook),
        }
        log.write(logging.ERROR, "listener failed; nothing else changed", fields, error)

    # --- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to deliver, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._lanes.clear()
        self._ready.clear()
        self._tasks.clear()
        self._waiting = self._delivering = 0

    async def close(self, limit: float = DRAIN_LIMIT) -> None:
        """Deliver what was told, for ``limit`` seconds at most, then stop delivering."""
        if self._loop is None:
            return
        until = self._loop.time() + limit
        while (tasks := self._others()) and (remaining := until - self._loop.time()) > 0:
            await asyncio.wait(tasks, timeout=remaining)
        if tasks:
            log.warning("the app closes before its listeners are done", undelivered=self._waiting)
        self._loop = None
        self._ready.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=limit)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _others(self) -> set[asyncio.Task[None]]:
        """Return the tasks that deliver, but for the one whose listener closes the app."""
        return self._tasks - {asyncio.current_task()}


def _lane_of(hook: Hook) -> str:
    match hook:
        case OfRun():
            return hook.run_id
        case WorkerHook():
            return hook.worker_id
        case _:
            return ""


def _place_of(hook: Hook) -> Mapping[str, object]:
    match hook:
        case OfRun():
            return {"run_id": hook.run_id, "definition": hook.name}
        case WorkerHook():
            return {"worker_id": hook.worker_id}
        case _:
            return {}


def _check_kind(kind: object, base: type[Hook]) -> None:
    if isinstance(kind, type) and issubclass(kind, base):
        return
    hint = ""
    name = kind.__name__ if isinstance(kind, type) else ""
    if name in {known.__name__ for known in KINDS if issubclass(known, base)}:
        hint = f"; perdure.telemetry.{name} is another class than {kind!r}"
    elif isinstance(kind, type) and issubclass(kind, AppHook | WorkerHook):
        hint = "; what happens to apps and workers is listened to with app.on(…)"
    raise UsageError(
        f"on(…) takes a class derived from perdure.telemetry.{base.__name__} such as "
        f"telemetry.RunFailed, got {kind!r}{hint}"
    )


def _checked(function: Callable[[H], R]) -> Callable[[H], R]:
    if not callable(function):
        raise UsageError(f"a listener is a function that takes the record, got {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return function  # of a built-in one that does not tell
    try:
        signature.bind(None)
    except TypeError as error:
        raise UsageError(
            f"listener {_name_of(function)} must take the record as its one argument: {error}"
        ) from None
    return function


def _is_async(function: Callable[[Any], Any]) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 -- asks for a coroutine method, not callability
    )


def _name_of(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
