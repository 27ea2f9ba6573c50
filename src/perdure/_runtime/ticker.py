"""Taking turns: what the services of a process share that do something again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from perdure.errors import StoreError
from perdure.telemetry import Log


class Ticker:
    """Calls a turn again and again on the running loop, one at a time.

    Args:
        turn: does what there is to do, and returns the seconds until the next turn: 0 for at once,
            None for none until somebody asks.
        rest: returns the seconds until the next turn where one has failed.
        log: where a failure is told.
        doing: what a turn does, for that.
    """

    def __init__(
        self,
        turn: Callable[[], Coroutine[Any, Any, float | None]],
        rest: Callable[[], float],
        log: Log,
        doing: str,
    ) -> None:
        self._turn = turn
        self._rest = rest
        self._log = log
        self._doing = doing
        self._timer: asyncio.TimerHandle | None = None
        self._ticking: asyncio.Task[float | None] | None = None
        self._again = False
        self._closed = True

    @property
    def is_ticking(self) -> bool:
        """Whether a turn is being taken now."""
        return self._ticking is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is left on the loop."""
        return self._ticking is None and self._timer is None

    def start(self, delay: float) -> None:
        """Take a first turn after so many seconds."""
        self._closed = False
        self.after(delay)

    async def stop(self) -> None:
        """Take no more turns; what one has submitted may still be applied."""
        ticking = self._ticking
        self.drop()
        if ticking is not None:
            await asyncio.wait([ticking])

    def drop(self) -> None:
        """Do the same without waiting for the turn that is being taken."""
        self._closed = True
        self._stop_timer()
        if self._ticking is not None:
            self._ticking.cancel()

    def after(self, delay: float) -> None:
        """Take the next turn in so many seconds, whenever it would have been."""
        if not self._closed:
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_later(delay, self.look)

    def look(self) -> None:
        """Take a turn now, or another as soon as the present one is over."""
        if self._closed:
            return
        self._stop_timer()
        if self._ticking is not None:
            self._again = True
            return
        self._ticking = asyncio.Task(self._turn(), loop=asyncio.get_running_loop())
        self._ticking.add_done_callback(self._ticked)

    def _ticked(self, done: asyncio.Task[float | None]) -> None:
        self._ticking = None
        again, self._again = self._again, False
        if done.cancelled() or self._closed:
            return
        error = done.exception()
        if error is not None:
            fact = "cannot do this yet" if isinstance(error, StoreError) else "this has failed"
            level = self._log.warning if isinstance(error, StoreError) else self._log.error
            level(fact, doing=self._doing, error=error)
        delay = self._rest() if error is not None else done.result()
        if error is None and (again or delay == 0):
            self.look()
        elif delay is not None and self._timer is None:
            self.after(delay)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
