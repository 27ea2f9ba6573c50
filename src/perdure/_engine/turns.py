"""The order in which the branches of a body are given their outcomes: that of recording, always.

A body of several branches may depend on which of them goes on first: a race, a list that each
appends to. So the first time and on every replay outcomes are given one at a time, in the order in
which they were recorded, and the next one only when what the last one set in motion has come to
rest: until then nobody can tell what the body makes of it. A body of one branch needs none of
this, and pays nothing for it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Final

from perdure._engine.journal import Journal, Moment

if TYPE_CHECKING:
    from perdure._engine.scope import Branch

MOST_SPINS: Final = 8
"""Turns of the loop for which a body may be stirring before it counts as being at rest: others
may keep the loop busy for ever. A race takes 4, a race of tasks that await tasks 6."""

PATIENCE: Final = 1.0
"""Seconds for which a recorded outcome is held back for an earlier one that no call has asked for
yet, while a branch is still doing something by itself and may do so; once an activation."""


class Turns:
    """Who is given an outcome next, in one activation.

    Args:
        loop: of the activation.
        journal: its record; says which earlier outcomes no call has asked for yet.
        may_ask: tells whether a branch is doing something by itself and might still ask.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, journal: Journal, may_ask: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._may_ask = may_ask
        # What is about to run on the loop; not every loop tells.
        self._ready: Sized | None = getattr(loop, "_ready", None)
        self._waiting: list[tuple[Moment, int, asyncio.Future[None]]] = []
        self._arrivals = 0
        self._spins = 0
        self._is_looking = False
        self._patience: asyncio.TimerHandle | None = None

    async def take(self, branch: Branch, moment: Moment) -> None:
        """Wait until it is the turn of an outcome that was recorded at this moment."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (moment, self._arrivals, turn))
        branch.turns += 1
        self.look()
        try:
            await turn
        finally:
            branch.turns -= 1

    def look(self) -> None:
        """Something has changed: look whose turn it is, once the body is at rest."""
        if self._waiting and not self._is_looking:
            self._is_looking = True
            self._spins = 0
            self._loop.call_soon(self._look)

    def close(self) -> None:
        """Let go of the timer. Whoever still waits is cancelled by the body's unwinding."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _look(self) -> None:
        if self._is_stirring():
            self._spins += 1
            self._loop.call_soon(self._look)
            return
        self._is_looking = False
        while self._waiting and self._waiting[0][2].done():  # given up by the body
            heapq.heappop(self._waiting)
        if not self._waiting or self._is_early(self._waiting[0][0]):
            return
        _, _, turn = heapq.heappop(self._waiting)
        self.close()
        turn.set_result(None)
        self.look()

    def _is_stirring(self) -> bool:
        """Tell whether what was given last may still be on its way through the body."""
        if self._spins >= MOST_SPINS:
            return False
        return self._ready is None or len(self._ready) > 0

    def _is_early(self, moment: Moment) -> bool:
        """Tell whether an outcome that was recorded before this one may still be asked for."""
        if not self._journal.expects_before(moment) or not self._may_ask():
            return False
        if self._patience is None:
            self._patience = self._loop.call_later(PATIENCE, self._lose_patience)
        return True

    def _lose_patience(self) -> None:
        """Code that was edited may never ask; what it left out holds nothing up twice."""
        self._patience = None
        self._journal.expect_nothing()
        self.look()
