"""Time that moves when it is told: the ports on which a test kit stands.

The wall clock, the monotonic clock and the deadlines of steps are virtual; threads of the engine
become tasks of the test's own loop, so that nothing in a test happens beside the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import UTC, datetime
from random import Random
from typing import Any, TypeVarTuple

from perdure._engine.deadlines import Deadline, Deadlines
from perdure._engine.engine import Ports
from perdure.clock import LoopThread, to_datetime, to_micros_instant
from perdure.ids import Ids
from perdure.model.records import Micros

Ts = TypeVarTuple("Ts")

START = datetime(2030, 1, 1, tzinfo=UTC)
"""When virtual time begins, unless a test says otherwise."""


class VirtualClock:
    """A clock that stands still until it is moved.

    Args:
        start: what it shows at first.
    """

    def __init__(self, start: datetime = START) -> None:
        self._start = self._now = to_micros_instant(start)

    def now(self) -> Micros:
        """Return the virtual time in microseconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Return the virtual seconds since the start."""
        # Half a microsecond more, so that turning it into whole microseconds again loses none.
        return (self._now - self._start + 0.5) / 1e6

    async def sleep(self, seconds: float) -> None:
        """Wait in real time: what sleeps on it waits for a store that did not answer."""
        await asyncio.sleep(max(0.0, seconds))

    def move_to(self, instant: Micros) -> None:
        """Show this instant from now on, unless it is past already."""
        self._now = max(self._now, instant)

    def __repr__(self) -> str:
        return f"<virtual clock at {to_datetime(self._now).isoformat()}>"


class _Entry:
    """One deadline; itself what cancels it."""

    __slots__ = ("_entries", "callback", "context", "due")

    def __init__(
        self, due: Micros, callback: Callable[[], None], entries: dict[_Entry, None]
    ) -> None:
        self.due = due
        self.callback = callback
        self.context = Context()  # it outlives the body that happens to make it
        self._entries = entries
        entries[self] = None

    def cancel(self) -> None:
        self._entries.pop(self, None)


class VirtualDeadlines(Deadlines):
    """The timeouts of steps and bodies, by a virtual clock: they fire when it is moved."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._entries: dict[_Entry, None] = {}

    def after(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Call back once the clock has been moved so far."""
        return _Entry(self._clock.now() + round(seconds * 1e6), callback, self._entries)

    def next_due(self) -> Micros | None:
        """Return when the next one is due, or None."""
        return min((entry.due for entry in self._entries), default=None)

    def fire(self) -> None:
        """Call back whatever is due now, in order."""
        due = [entry for entry in self._entries if entry.due <= self._clock.now()]
        for entry in sorted(due, key=lambda entry: entry.due):
            entry.cancel()
            entry.context.run(entry.callback)

    def close(self) -> None:
        """Make none of them happen."""
        super().close()
        self._entries.clear()


class LoopTasks:
    """Runs what wants a thread of its own as a task of the running loop."""

    def start(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> LoopThread:
        """Start ``main()`` as a task of that name."""
        return _LoopTask(name, main)


class _LoopTask:
    """One such task, as the thread that it stands for."""

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.Task(main(), loop=self._loop, name=name, context=Context())

    @property
    def name(self) -> str:
        return self._task.get_name()

    def join(self, timeout: float | None = None) -> bool:  # noqa: ARG002 -- the port's signature
        return self._task.done()

    def is_alive(self) -> bool:
        return not self._task.done()

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts) -> bool:
        if self._task.done():
            return False
        self._loop.call_soon(callback, *args)
        return True


class _NoJitter(Random):
    """Takes nothing off a back-off."""

    def random(self) -> float:
        return 0.0


def virtual_ports(clock: VirtualClock, seed: int = 0) -> Ports:
    """Return ports on a virtual clock: no jitter, and the same seed draws the same ids."""
    rng = Random(seed)  # noqa: S311 -- equal from test to test is the point
    return Ports(clock, LoopTasks(), _NoJitter(), Ids(rng, lambda: clock.now() // 1_000))
