"""The pruner: removes ended runs and published events whose retention has ended.

The worker that leads prunes. One that finds nothing costs the store a few looks into an index. It
removes in small batches, and between two of them leaves the store to others for as long as a batch
took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from perdure._engine.engine import Engine
from perdure._runtime.ticker import Ticker
from perdure.model.leader import Lead, NotLeading
from perdure.model.retention import Prune, Pruned
from perdure.telemetry import Log

log = Log("perdure.pruner")

EVERY: Final = 60.0
"""Seconds between two looks, jittered down by up to a half: workers do not march in step."""

BATCH: Final = 500
"""Runs that are removed at once: 10 ms."""


async def prune(engine: Engine, asked: Prune) -> Pruned:
    """Remove everything that is asked for, batch by batch; return how much it was.

    Raises:
        StoreError: the store cannot do it now; what was removed is.
    """
    runs = events = 0
    while True:
        found = await engine.committer.submit(asked)
        assert isinstance(found, Pruned), "what is asked by hand carries no lead"
        runs, events = runs + found.runs, events + found.events
        if not found.more:
            return Pruned(runs, events)


class Pruner:
    """Removes what is over from the store of an app that is connected.

    Args:
        engine: of the app.
        refused: called where the store says that another worker leads.
    """

    def __init__(self, engine: Engine, refused: Callable[[], None]) -> None:
        self._engine = engine
        self._refused = refused
        self._lead: Lead | None = None
        self._ticker = Ticker(self._turn, self._jittered, log, "pruning")

    def start(self, lead: Lead) -> None:
        """Begin to look, in this term; the first time within a minute."""
        self._lead = lead
        self._ticker.start(self._jittered())

    async def stop(self) -> None:
        """Remove nothing more; a batch that is under way may still be applied."""
        await self._ticker.stop()

    def drop(self) -> None:
        """Do the same without waiting for what is under way."""
        self._ticker.drop()

    @property
    def is_ticking(self) -> bool:
        """Whether it is removing something now."""
        return self._ticker.is_ticking

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is left on the loop."""
        return self._ticker.is_idle

    async def tick(self) -> Pruned:
        """Remove one batch.

        Raises:
            StoreError: the store cannot do it now.
        """
        asked = Prune(BATCH, events=True, lead=self._lead)
        answer = await self._engine.committer.submit(asked, patient=True)
        if isinstance(answer, NotLeading):
            self._refused()
            return Pruned()
        return answer

    async def _turn(self) -> float:
        began = asyncio.get_running_loop().time()
        removed = await self.tick()
        if removed.more:
            return asyncio.get_running_loop().time() - began
        return self._jittered()

    def _jittered(self) -> float:
        return EVERY * (1 - 0.5 * self._engine.rng.random())
