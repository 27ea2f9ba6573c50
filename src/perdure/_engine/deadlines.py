"""Timeouts that almost never happen, kept cheap.

Every step and job has a timeout, by default an hour, and nearly all end long before. A timer of
the loop costs 4 us to make and cancel (it is pushed on a heap that the cancelled ones clog); one
entry in a set of all deadlines of the same quarter of a second costs 0.6 us. Short timeouts are
timers of the loop, exact; longer ones fire up to a quarter of a second late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Protocol

EXACT_BELOW = 10.0
"""Seconds up to which a deadline is a timer of its own."""

GRAIN = 0.25
"""Seconds whose deadlines are kept together."""


class Deadline(Protocol):
    """Something that happens later unless it is cancelled."""

    def cancel(self) -> None:
        """Make it not happen. Harmless once it has."""
        ...


class _Entry:
    __slots__ = ("callback", "entries")

    def __init__(self, callback: Callable[[], None], entries: set[_Entry]) -> None:
        self.callback = callback
        self.entries = entries

    def cancel(self) -> None:
        self.entries.discard(self)


class Deadlines:
    """The deadlines of one event loop."""

    def __init__(self) -> None:
        self._grains: dict[int, set[_Entry]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def after(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Call back after so many seconds, or up to :data:`GRAIN` later."""
        loop = asyncio.get_running_loop()
        if seconds < EXACT_BELOW:
            return loop.call_later(seconds, callback)
        grain = int((loop.time() + seconds) / GRAIN) + 1
        entries = self._grains.get(grain)
        if entries is None:
            entries = self._grains[grain] = set()
            # In a context of its own: it outlives the body that happens to make it.
            self._timers[grain] = loop.call_at(grain * GRAIN, self._fire, grain, context=Context())
        entry = _Entry(callback, entries)
        entries.add(entry)
        return entry

    def close(self) -> None:
        """Make none of them happen."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._grains.clear()

    def _fire(self, grain: int) -> None:
        del self._timers[grain]
        for entry in list(self._grains.pop(grain)):
            entry.callback()
