"""The place of an ownership test: one database, worker processes on it, and a way to look at it."""

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from perdure import Run, Status
from perdure.model.records import WorkerRecord
from tests.durability.ownership_app import DATABASE, Gates, make_app
from tests.durability.processes import PATIENCE, Effects, Fleet, Process, fact

SHORT: dict[str, Any] = {"lease": "1.5s", "heartbeat": "0.5s"}
"""Where a lease has to run out."""

LONG: dict[str, Any] = {"lease": "10m", "heartbeat": "1m"}
"""Where it must be something else than a lease that lets a run go on."""

TIMEOUT = f"{PATIENCE:g}s"


class Yard:
    """A database, the processes on it, and an app of the test's own to look at it with."""

    def __init__(self, directory: Path, fleet: Fleet) -> None:
        self.directory = directory
        self.fleet = fleet
        self.gates = Gates(directory)
        self.effects = Effects(directory)
        self.app, self.perform, self.conclude = make_app(directory)

    async def worker(self, **options: object) -> Process:
        """Start a worker and wait until it works."""
        process = self.fleet.start("work", **options)
        await self.working(process)
        return process

    async def working(self, *processes: Process) -> None:
        """Wait until these workers work."""
        for process in processes:
            await fact("a worker works", partial(self._works_or_ended, process))
            assert not process.ended, process.output

    def _works_or_ended(self, process: Process) -> bool:
        return process.ended or bool(self.effects.find("working", pid=process.pid))

    async def enqueue(self, name: str, *acts: str) -> Run[list[int]]:
        """Create a run that does these acts."""
        return await self.perform.options(id=name).enqueue(name, acts)

    async def started(self, run: str, step: int = 0, *, pid: int = 0) -> float:
        """Wait until a step was started, and return when it was first."""
        what = f"step {step} of {run} starts" + (f" in process {pid}" if pid else "")
        effects = await fact(what, lambda: self.effects.find("start", run, step, pid=pid))
        return effects[0].at

    async def ended(self, process: Process) -> None:
        """Wait until a process has ended by itself."""
        await fact("a process ends", lambda: process.ended)

    async def workers(self) -> dict[int, WorkerRecord]:
        """Return the registered workers by the ids of their processes."""
        return {worker.pid: worker for worker in await self.app.engine.store.workers()}

    async def freeze(self, process: Process) -> None:
        """Freeze a worker, but not in the middle of a commit.

        There it would hold the lock of the file, and nobody could write before it is thawed.
        """
        process.freeze()
        while await asyncio.to_thread(self._is_locked):
            process.thaw()
            process.freeze()

    def _is_locked(self) -> bool:
        database = self.directory / DATABASE
        with closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False

    async def beaten(self, *processes: Process, times: int) -> None:
        """Wait until the hearts of all these processes have beaten so often."""
        before = await self.workers()

        async def look() -> bool:
            now = await self.workers()
            assert before.keys() <= now.keys(), "a worker lost its lease"
            return all(now[one.pid].beat >= before[one.pid].beat + times for one in processes)

        await fact(f"{times} heartbeats", look)

    async def crashed_once(self, run: Run[list[int]]) -> None:
        """Assert that the run's history shows one crashed claim and nothing else unusual."""
        history = await run.history()
        assert [attempt.outcome for attempt in history.attempts] == ["crashed"]
        assert (history.status, history.attempt, history.crashes) == (Status.COMPLETED, 1, 0)
        assert [step.tries for step in history.steps] == [1] * len(history.steps)

    def executions(self, run: str, step: int) -> list[int]:
        """Return which processes started a step, in order."""
        return [effect.pid for effect in self.effects.find("start", run, step)]
