"""A scheduler of its own: a worker without slots, for where workers are not always there."""

from __future__ import annotations

from typing import Self

from perdure._engine.engine import Engine
from perdure._runtime.worker import HasEngine, Worker
from perdure.errors import UsageError, shown


class Scheduler:
    """Fires schedules, of whatever definitions, without executing their runs.

    Every worker may do so, unless it is ``Worker(scheduler=False)``; this one is for a process that
    does nothing else. It needs none of the workflows' code. It has a lease as any worker has, and
    fires and prunes while it leads: of any number of them, and of workers, one does.

    Args:
        app: whose store has the schedules.

    Raises:
        UsageError: it is no app.

    Example::

        async with Scheduler(app):
            await stopped.wait()
    """

    def __init__(self, app: HasEngine) -> None:
        if not isinstance(getattr(app, "engine", None), Engine):
            raise UsageError(f"Scheduler takes an App, got {shown(app)}")
        self._worker = _WithoutSlots(app)

    async def __aenter__(self) -> Self:
        await self._worker.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._worker.stop()


class _WithoutSlots(Worker):
    """A worker that is given nothing, and takes part in whatever else workers do."""

    def __init__(self, app: HasEngine) -> None:
        super().__init__(app)
        self.concurrency = self._free = 0

    def _serves(self) -> tuple[str, ...]:
        return ()

    def _known_queues(self) -> tuple[str, ...]:
        return ()

    async def _declare(self) -> None:
        """Leave what the app's definitions say to those that have them."""
