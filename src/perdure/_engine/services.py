"""Services for bodies: made as the app was told, and cleaned up when their time is over.

What an app is given as ``services`` is an object, or a factory: a function that returns the object,
an awaitable of it, a context manager around it, or a generator that yields it once. A factory sees
no run: a durable call made in it is not recorded.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import Any, cast

from perdure._engine import scope as scopes
from perdure.telemetry import Log

log = Log("perdure.run")

CLEAN_UP_LIMIT = 10.0
"""Seconds that a clean-up may take before it is cancelled: a run's slot is not free until then."""

_keepers: set[asyncio.Task[None]] = set()  # the loop alone would let a waiting task be collected


class Held:
    """Services that were made, until they are released.

    Attributes:
        value: what a body finds in ``ctx.services``.
    """

    __slots__ = ("_keeper", "value")

    def __init__(self, value: Any, keeper: Keeper | None = None) -> None:
        self.value = value
        self._keeper = keeper

    @property
    def has_clean_up(self) -> bool:
        """Whether releasing them does anything."""
        return self._keeper is not None

    async def release(self, error: BaseException | None) -> None:
        """Clean up; return when that is done, has failed (it is logged), or takes too long.

        Args:
            error: what the body raised, which the clean-up sees as an ``async with`` would.
        """
        if self._keeper is not None:
            await self._keeper.release(error)


async def hold(given: Any, what: str) -> Held:
    """Make services.

    Args:
        given: what the app was given: anything callable is a factory.
        what: whose they are, for messages.

    Raises:
        Exception: what the factory raised; nothing is left to be released then.
    """
    if not callable(given):
        return Held(given)
    token = scopes.enter(None)
    try:
        made = given()
        manager = _manager_of(made)
        if manager is not None:
            keeper = Keeper(manager, what)
            return Held(await keeper.enter(), keeper)
        return Held(await made if inspect.isawaitable(made) else made)
    finally:
        scopes.leave(token)


def _manager_of(made: Any) -> AbstractAsyncContextManager[Any] | None:
    """Return what a factory returned as an asynchronous context manager, if it has a clean-up."""
    if inspect.isasyncgen(made):
        return asynccontextmanager(lambda: cast("AsyncGenerator[Any, None]", made))()
    if hasattr(made, "__aenter__") and hasattr(made, "__aexit__"):
        return cast("AbstractAsyncContextManager[Any]", made)
    if inspect.isgenerator(made):
        return _Plain(contextmanager(lambda: cast("Generator[Any, None, None]", made))())
    if hasattr(made, "__enter__") and hasattr(made, "__exit__"):
        return _Plain(made)
    return None


class _Plain:
    """A context manager written with ``def``; it is entered and left on the loop's thread."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aenter__(self) -> Any:
        return self._inner.__enter__()

    async def __aexit__(self, *raised: object) -> Any:
        return self._inner.__exit__(*raised)


class Keeper:
    """Enters a context manager, keeps it and leaves it, all in one task of its own.

    Some managers (a task group, a cancel scope) must be left by the task that entered them, and
    the body's task is not there any more when its branches have ended; nor may the cancellation
    that takes a body out of memory interrupt its clean-up.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any], what: str) -> None:
        loop = asyncio.get_running_loop()
        self._manager = manager
        self._what = what
        self._gave_up = False
        self._entered: asyncio.Future[Any] = loop.create_future()
        self._over: asyncio.Future[BaseException | None] = loop.create_future()
        # Not create_task: the task factory would make it a branch of the body.
        self._task = asyncio.Task(self._keep(), loop=loop, context=copy_context())
        _keepers.add(self._task)
        self._task.add_done_callback(_keepers.discard)

    async def enter(self) -> Any:
        """Return what the manager gives when it is entered, or raise what it raises."""
        try:
            return await self._entered
        except asyncio.CancelledError:
            if self._entered.cancelled():
                self._task.cancel()
            elif not self._over.done():  # entered in the same moment
                self._over.set_result(asyncio.CancelledError())
            raise

    async def release(self, error: BaseException | None) -> None:
        """Leave the manager; return when it is left, however."""
        if not self._over.done():
            self._over.set_result(error)
        await asyncio.wait([self._task], timeout=CLEAN_UP_LIMIT)
        if not self._task.done():
            log.error(
                "clean-up of services took too long and was cancelled",
                services_of=self._what,
                seconds=CLEAN_UP_LIMIT,
            )
            self._gave_up = True
            self._task.cancel()

    async def _keep(self) -> None:
        try:
            value = await self._manager.__aenter__()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- for whoever enters
            if not self._entered.done():
                self._entered.set_exception(error)
            return
        ended_by = await self._until_over(value)
        kind = None if ended_by is None else type(ended_by)
        trace = None if ended_by is None else ended_by.__traceback__
        try:
            await self._manager.__aexit__(kind, ended_by, trace)
        except (Exception, asyncio.CancelledError) as broken:
            if broken is not ended_by and not self._gave_up:
                log.exception("clean-up of services failed", services_of=self._what)

    async def _until_over(self, value: Any) -> BaseException | None:
        try:
            if self._entered.cancelled():
                return asyncio.CancelledError()
            self._entered.set_result(value)
            return await self._over
        except asyncio.CancelledError as cancelled:  # the loop is being closed
            return cancelled
