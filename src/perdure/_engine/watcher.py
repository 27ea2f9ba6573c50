"""Waiting in this process for runs to end: by word of mouth, by hint, and by a poll behind both.

Whoever wants to know how a run ends registers a callback. A run that ends in this process is
announced at once; for the others one read a second asks about all of them together, sooner when
the store hints that something changed. Nobody watches, nothing polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from perdure.errors import StoreError
from perdure.model.records import Ending
from perdure.telemetry import Log

if TYPE_CHECKING:
    from perdure.store import Store

log = Log("perdure.watcher")

POLL = 1.0
"""Seconds between reads while somebody watches and no hint comes."""

HINT_PAUSE = 0.002
"""Seconds by which a hint is held back, so that a burst of them costs one read."""

Listener: TypeAlias = Callable[[Ending], None]


class Watcher:
    """Who waits for the end of which run, in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: dict[str, list[Listener]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] | None = None
        self._closed = False

    def open(self) -> None:
        """Begin, or begin again after a close."""
        self._closed = False

    def watch(self, run_id: str, listener: Listener) -> None:
        """Call back once when the run has ended.

        Whether it has ended already is for the caller to ask, after this.

        Args:
            run_id: which run; it need not exist.
            listener: called on this loop with its ending, at most once.
        """
        self._listeners.setdefault(run_id, []).append(listener)
        if self._stop_listening is None:
            self._stop_listening = self._store.listen(self.hint)
        self._schedule(POLL)

    def unwatch(self, run_id: str, listener: Listener) -> None:
        """Do not call back any more. Harmless where it was called back already."""
        listeners = self._listeners.get(run_id)
        if listeners is None:
            return
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            del self._listeners[run_id]
        if not self._listeners:
            self._rest()

    def announce(self, ending: Ending) -> None:
        """A run has ended; tell those who watch it."""
        for listener in self._listeners.pop(ending.run_id, ()):
            listener(ending)
        if not self._listeners:
            self._rest()

    def hint(self) -> None:
        """Something may have changed in the store."""
        if self._listeners:
            self._schedule(HINT_PAUSE)

    async def close(self) -> None:
        """Stop reading; listeners are not called any more."""
        self._closed = True
        self._listeners.clear()
        self._rest()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _rest(self) -> None:
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
        self._timer = loop.call_later(delay, self._read_soon)

    def _read_soon(self) -> None:
        self._timer = None
        if self._closed or not self._listeners:
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.Task(self._read(), loop=asyncio.get_running_loop())
        else:
            self._schedule(HINT_PAUSE)

    async def _read(self) -> None:
        try:
            await self._ask(list(self._listeners))
        except StoreError as error:
            log.warning("cannot ask how runs ended", error=error)
        if self._listeners and not self._closed:
            self._schedule(POLL)

    async def _ask(self, run_ids: Iterable[str]) -> None:
        for ending in (await self._store.endings(run_ids)).values():
            self.announce(ending)
