"""The ports of time and threads, their real adapters, and instants as numbers.

Nothing else in the package reads a clock, sleeps or starts a thread: what needs one takes a
``Clock`` or a ``Threads``, so that a simulation can hand it virtual ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVarTuple

from .errors import InvalidValue

__all__ = [
    "Clock",
    "LoopThread",
    "SystemClock",
    "SystemThreads",
    "Threads",
    "to_datetime",
    "to_micros_instant",
]

Ts = TypeVarTuple("Ts")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> int:
        """Return the wall clock in microseconds since the epoch. It may step back."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long. Zero or less yields to the loop once."""
        ...


class SystemClock:
    """The clock of the machine."""

    __slots__ = ()

    def now(self) -> int:
        """Return the wall clock in microseconds since the epoch."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Return seconds of the machine's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(max(0.0, seconds))


class LoopThread(Protocol):
    """A thread that runs one coroutine on an event loop of its own."""

    @property
    def name(self) -> str:
        """The name it was started with."""
        ...

    def join(self, timeout: float | None = None) -> bool:
        """Block until it has ended, at most ``timeout`` seconds. Return whether it has ended."""
        ...

    def is_alive(self) -> bool:
        """Return whether its coroutine is still running."""
        ...

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> bool:
        """Have its loop call ``callback(*args)``; may be called from any thread.

        Returns whether it was handed over. ``False`` says that the thread has ended. A callback
        handed over while the thread ends may never be called.
        """
        ...


class Threads(Protocol):
    """The port through which whatever needs a thread of its own starts it."""

    def start(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> LoopThread:
        """Run ``main()`` on an event loop of its own.

        Args:
            name: the thread's name, for logs and debuggers.
            main: makes the coroutine to run. It must leave no task behind; those it leaves are
                cancelled. An exception it raises ends the thread and goes to
                ``threading.excepthook``.
        """
        ...


class SystemThreads:
    """Starts real daemon threads, each with a new event loop."""

    __slots__ = ()

    def start(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> LoopThread:
        """Run ``main()`` on the loop of a new daemon thread."""
        return _SystemThread(name, main)


class _SystemThread:
    """One daemon thread and its loop."""

    __slots__ = ("_loop", "_thread")

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # Made here and not by the thread, so that call_soon works from the first moment.
        self._loop = loop = asyncio.new_event_loop()

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(main())

        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._thread.name

    def join(self, timeout: float | None = None) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if self._loop.is_closed():
                return False
            raise
        return True


def to_datetime(micros: int) -> datetime:
    """Return the instant, in microseconds since the epoch, as an aware datetime in UTC.

    Raises:
        InvalidValue: it lies outside the years 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise InvalidValue(
            f"{micros} microseconds since the epoch is outside the years 1 to 9999"
        ) from error


def to_micros_instant(instant: datetime) -> int:
    """Return an aware datetime as microseconds since the epoch.

    Raises:
        InvalidValue: it is no datetime, or a naive one, which names no instant.
    """
    return _micros(instant)


def _micros(given: object) -> int:
    if not isinstance(given, datetime):
        raise InvalidValue(
            f"an instant must be an aware datetime, got <{type(given).__name__}>; "
            "write datetime.now(UTC)"
        )
    if given.utcoffset() is None:
        raise InvalidValue(
            f"an instant must be an aware datetime, got the naive {given.isoformat()}; "
            "write datetime(..., tzinfo=UTC) or datetime.now(UTC)"
        )
    return (given - _EPOCH) // _MICROSECOND
