"""Waiting in this process for the store to have changed: own commits, hints, a poll behind both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.store import Store

POLL = 1.0
"""Seconds after which somebody who waits looks again, though nothing was heard."""

HINT_PAUSE = 0.01
"""Seconds by which news is held back, so that a burst of commits costs one read."""


class News:
    """Who follows the change feed in this process. Nobody follows: nothing listens."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: set[asyncio.Future[None]] = set()
        self._followers = 0
        self._stop_listening: Callable[[], None] | None = None
        self.heard = 0

    def tell(self) -> None:
        """Something may have changed in the store."""
        self.heard += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    @contextmanager
    def following(self) -> Generator[None]:
        """Hear of other processes while this lasts."""
        if self._stop_listening is None:
            self._stop_listening = self._store.listen(self.tell)
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self.close()

    async def after(self, heard: int) -> None:
        """Return when there was news after so many times that something was heard, or soon."""
        if self.heard == heard:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await asyncio.wait([waiting], timeout=POLL)
            finally:
                self._waiting.discard(waiting)
        await asyncio.sleep(HINT_PAUSE)

    def close(self) -> None:
        """Stop listening."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
