"""Threads that a body starts by itself: there a durable call would silently be undurable.

A thread does not inherit the context of whoever starts it, so the engine would take a step called
in it for one outside of any run. While a worker runs, threads started and pool jobs submitted by a
body are therefore marked, and a step called there without :func:`perdure.carry` is an error.
``asyncio.to_thread`` brings its context along and is not affected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar
from typing import Any

from perdure._engine import scope as scopes
from perdure.errors import NotInRun

_started_in: ContextVar[str | None] = ContextVar("perdure_adrift", default=None)

_users = 0
_start = threading.Thread.start
_submit = ThreadPoolExecutor.submit


def check(what: str) -> None:
    """Raise if the running thread was started by a body and not given its scope.

    Raises:
        NotInRun: it was; the message says what to write.
    """
    run_id = _started_in.get()
    if run_id is not None:
        raise NotInRun(
            f"{what} was called in a thread that the body of run {run_id} started; there it would "
            "not be recorded. Wrap what the thread runs with perdure.carry(…), or use "
            "asyncio.to_thread(…)"
        )


def install() -> None:
    """Mark threads that bodies start, from now on; calls nest."""
    global _users  # noqa: PLW0603 -- the two functions replaced below are global, too
    _users += 1
    if _users == 1:
        threading.Thread.start = _marking_start  # type: ignore[method-assign,assignment]
        ThreadPoolExecutor.submit = _marking_submit  # type: ignore[method-assign,assignment]


def remove() -> None:
    """Undo one :func:`install`."""
    global _users  # noqa: PLW0603 -- see install
    _users -= 1
    if not _users:
        threading.Thread.start = _start  # type: ignore[method-assign]
        ThreadPoolExecutor.submit = _submit  # type: ignore[method-assign]


def _marked(function: Callable[..., Any]) -> Callable[..., Any]:
    scope = scopes.current()
    if scope is None:
        return function
    context = Context()
    context.run(_started_in.set, scope.activation.run.run_id)
    return lambda *args, **kwargs: context.run(function, *args, **kwargs)


def _marking_start(thread: threading.Thread) -> None:
    if scopes.current() is not None and not _is_of_pool(thread):
        thread.run = _marked(thread.run)  # type: ignore[method-assign]
    _start(thread)


def _is_of_pool(thread: threading.Thread) -> bool:
    # A pool's threads outlive the job that made the pool start them: its jobs are marked instead.
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", "") == "concurrent.futures.thread"


def _marking_submit(
    pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    return _submit(pool, _marked(fn), *args, **kwargs)
