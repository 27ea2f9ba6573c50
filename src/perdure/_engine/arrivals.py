"""Telling bodies that stay in memory that an event may have come.

A body that waits for an event and does nothing else leaves its worker, and the store wakes it. One
that is busy elsewhere keeps waiting here: it is told when this process has published something,
when the store hints that another has, and each second in case a hint was lost. Then it asks the
store again. Nobody waits, nothing polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.store import Store

POLL = 1.0
"""Seconds between looks while somebody waits and no hint comes."""

HINT_PAUSE = 0.02
"""Seconds by which a hint is held back: each look is a transition of every body that waits."""


class Arrivals:
    """Who waits in this process for events.

    Attributes:
        count: rises with each time that something may have come.
    """

    def __init__(self, store: Store) -> None:
        self.count = 0
        self._store = store
        self._waiting: set[Callable[[], None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._stop_listening: Callable[[], None] | None = None

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back, on this loop, each time that an event may have come."""
        self._waiting.add(callback)
        if self._stop_listening is None:
            self._stop_listening = self._store.listen(self.hint)
        self._schedule(POLL)

    def unwatch(self, callback: Callable[[], None]) -> None:
        """Do not call back any more."""
        self._waiting.discard(callback)
        if not self._waiting:
            self.close()

    def stir(self) -> None:
        """Something may have come."""
        self.count += 1
        for callback in list(self._waiting):
            callback()
        if self._waiting:
            self._schedule(POLL)

    def hint(self) -> None:
        """Something may have changed in the store."""
        if self._waiting:
            self._schedule(HINT_PAUSE)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None

    def _schedule(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = loop.call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        self.stir()
