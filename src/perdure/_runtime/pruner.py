"""The pruner: removes ended runs and published events whose retention has ended.

Every worker has one. Any number may run: what is removed is removed once, and one that finds
nothing costs the store a few looks into an index. It removes in small batches, and between two of
them leaves the store to others for as long as a batch took.
"""

from __future__ import annotations

import asyncio
from typing import Final

from perdure._engine.engine import Engine
from perdure.errors import StoreError
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
        runs, events = runs + found.runs, events + found.events
        if not found.more:
            return Pruned(runs, events)


class Pruner:
    """Removes what is over from the store of an app that is connected."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._timer: asyncio.TimerHandle | None = None
        self._ticking: asyncio.Task[Pruned] | None = None
        self._began = 0.0
        self._closed = True

    def start(self) -> None:
        """Begin to look; the first time within a minute."""
        self._closed = False
        self._schedule(self._jittered())

    async def stop(self) -> None:
        """Remove nothing more; a batch that is under way may still be applied."""
        ticking = self._ticking
        self.drop()
        if ticking is not None:
            await asyncio.wait([ticking])

    def drop(self) -> None:
        """Do the same without waiting for what is under way."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticking is not None:
            self._ticking.cancel()

    @property
    def is_ticking(self) -> bool:
        """Whether it is removing something now."""
        return self._ticking is not None

    async def tick(self) -> Pruned:
        """Remove one batch.

        Raises:
            StoreError: the store cannot do it now.
        """
        asked = Prune(BATCH, events_for=self._engine.event_retention)
        return await self._engine.committer.submit(asked, patient=True)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._ticking = asyncio.Task(self.tick(), loop=loop)
        self._ticking.add_done_callback(self._ticked)

    def _ticked(self, done: asyncio.Task[Pruned]) -> None:
        self._ticking = None
        if done.cancelled() or self._closed:
            return
        error = done.exception()
        if isinstance(error, StoreError):
            log.warning("cannot prune yet", error=error)
        elif error is not None:
            log.error("the store could not be pruned", error=error)
        elif done.result().more:
            self._schedule(asyncio.get_running_loop().time() - self._began)
            return
        self._schedule(self._jittered())

    def _jittered(self) -> float:
        return EVERY * (1 - 0.5 * self._engine.rng.random())

    def _schedule(self, delay: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)
