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
from perdure._engine.waits import Hold
from perdure.telemetry import Log

if TYPE_CHECKING:
    from perdure._engine.scope import Branch

log = Log("perdure.run")

MOST_SPINS: Final = 64
"""Turns of the loop after which a body counts as being at rest, whatever it does: a task of it may
never await anything that could be looked at."""

STILL: Final = 2
"""Turns in a row in which every task must await something: between them what `gather` or `wait`
has attached to a task that ended is called."""

PATIENCE = 30.0
"""Seconds for which a recorded outcome is held back for an earlier one that no call has asked for
yet, while a branch is still doing something by itself and may do so. Only code that was edited
while the run was in flight never asks."""


class Turns:
    """Who is given an outcome next, in one activation.

    Args:
        loop: of the activation.
        journal: its record; says which earlier outcomes no call has asked for yet.
        rests: is told what the current task is about to await.
        may_ask: tells whether a branch is doing something by itself and might still ask.
        at_rest: tells whether every task of the body awaits something that is not there yet.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: Journal,
        rests: Callable[[Hold[None]], None],
        may_ask: Callable[[], bool],
        at_rest: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._rests = rests
        self._may_ask = may_ask
        self._at_rest = at_rest
        # What is about to run on the loop; not every loop tells.
        self._ready: Sized | None = getattr(loop, "_ready", None)
        self._waiting: list[tuple[Moment, int, Hold[None]]] = []
        self._arrivals = 0
        self._spins = 0
        self._still = 0
        self._is_looking = False
        self._patience: asyncio.TimerHandle | None = None

    async def take(self, branch: Branch, moment: Moment) -> None:
        """Wait until it is the turn of an outcome that was recorded at this moment."""
        turn: Hold[None] = Hold(loop=self._loop)
        self._arrivals += 1
        heapq.heappush(self._waiting, (moment, self._arrivals, turn))
        branch.turns += 1
        self.look()
        self._rests(turn)
        try:
            await turn
        finally:
            branch.turns -= 1

    def look(self) -> None:
        """Something has changed: look whose turn it is, once the body is at rest."""
        if self._waiting and not self._is_looking:
            self._is_looking = True
            self._spins = self._still = 0
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
        """Tell whether what was given last may still be on its way through the body.

        A loop that has nothing else to do says so at once; one that others keep busy does not.
        """
        if self._spins >= MOST_SPINS or (self._ready is not None and not len(self._ready)):
            return False
        self._still = self._still + 1 if self._at_rest() else 0
        return self._still < STILL

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
        log.warning("recorded steps are not asked for; going on without", seconds=PATIENCE)
        self._journal.expect_nothing()
        self.look()
