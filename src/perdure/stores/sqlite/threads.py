"""A thread for calls that may block, made one after the other."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CallThread:
    """A thread that makes calls for event loops, in order; it starts with the first.

    It is a plain thread and not a LoopThread of ``perdure.clock``: no coroutine runs in it, and a
    hop there and back costs 70 us as it is.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.pending = 0

    @property
    def is_started(self) -> bool:
        """Whether the thread exists."""
        return self._thread is not None

    async def call(self, function: Callable[[], T]) -> T:
        """Call it in the thread; if the caller is cancelled, it still runs its course."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001  # raised where the answer is awaited
                _hand_over(loop, _fail, future, error)
            else:
                _hand_over(loop, _succeed, future, result)

        self.pending += 1
        self._calls.put(work)
        try:
            return await future
        finally:
            self.pending -= 1

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            work()

    def stop(self) -> None:
        """Wait until everything was called, and end the thread."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None


def _hand_over(
    loop: asyncio.AbstractEventLoop, callback: Callable[[*Ts], None], *args: *Ts
) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:  # the loop was closed: nobody waits any more
        if not loop.is_closed():
            raise


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
