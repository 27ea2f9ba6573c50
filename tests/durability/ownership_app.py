"""The app of the ownership tests, and the roles of its processes: ``FILE DIRECTORY ROLE OPTIONS``.

``perform`` does whatever a test asks of it: it takes a list of acts, each one a step that notes
its start and its end in the log of effects and returns the id of its process. Acts that wait do so
until a gate is opened, for everybody or for one process: a gate is a file.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perdure import App, Worker, Workflow, constant, step
from perdure._engine import watcher
from perdure._engine.engine import Ports
from perdure._runtime import heartbeat
from perdure.clock import SystemClock
from perdure.stores.sqlite import SqliteStore
from perdure.telemetry import Hook, LeaderElected, LeaderLost, ScheduleTriggered, WorkerReady
from tests.durability.processes import LOOK, Effects, fact

DAY = 86_400_000_000
"""Microseconds."""

DATABASE = "ownership.db"


class Gates:
    """Files that acts wait for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str, pid: int | None = None) -> None:
        """Open a gate for everybody, or for one process."""
        self._path(name, pid).touch()

    def is_open(self, name: str) -> bool:
        """Tell whether this process may pass."""
        return self._path(name, None).exists() or self._path(name, os.getpid()).exists()

    def _path(self, name: str, pid: int | None) -> Path:
        return self._directory / (f"{name}.gate" if pid is None else f"{name}.gate-{pid}")


class WrongClock(SystemClock):
    """A machine's clock that is off by what a file says, from one moment to the next."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> int:
        """Return the wrong time."""
        return super().now() + int(self._file.read_text())


class Acts:
    """What a step of a test may do; a method each."""

    def __init__(self, directory: Path) -> None:
        self._effects = Effects(directory)
        self._gates = Gates(directory)

    async def __call__(self, run: str, number: int, act: str) -> int:
        self._effects.note("start", run, number)
        try:
            await getattr(self, f"_{act}")(f"{run}-{number}")
        except asyncio.CancelledError:
            self._effects.note("cancelled", run, number)
            raise
        self._effects.note("end", run, number)
        return os.getpid()

    async def _go(self, gate: str) -> None:
        """Be done at once."""

    async def _yield(self, gate: str) -> None:
        """Be done a little later."""
        await asyncio.sleep(LOOK)

    async def _linger(self, gate: str) -> None:
        """Be done after a while."""
        await asyncio.sleep(10 * LOOK)

    async def _hold(self, gate: str) -> None:
        """Wait for the step's own gate, or the one called ``all``."""
        await fact("a gate opens", lambda: self._gates.is_open(gate) or self._gates.is_open("all"))

    async def _block(self, gate: str) -> None:
        """Wait for the step's own gate without ever letting the event loop go on."""
        while not self._gates.is_open(gate):
            time.sleep(LOOK)  # noqa: ASYNC251  # it is what the test is about

    async def _jam(self, gate: str) -> None:
        """Block in the process for which the gate ``jam`` is open, elsewhere hold."""
        await (self._block(gate) if self._gates.is_open("jam") else self._hold(gate))

    async def _fail(self, gate: str) -> None:
        """Fail until the gate is open."""
        if not self._gates.is_open(gate):
            raise RuntimeError("the gate is closed")

    async def _die(self, gate: str) -> None:
        """Take the process along, once others have begun to do something beside it."""
        await asyncio.sleep(5 * LOOK)
        os.kill(os.getpid(), signal.SIGKILL)


def make_app(
    directory: Path, *, clock: str | None = None, store_clock: str | None = None
) -> tuple[App, Workflow[[str, Sequence[str]], list[int]], Workflow[[str, str], list[int]]]:
    """Return the app and its two workflows, ``perform`` and ``conclude``.

    Args:
        directory: of the database, the gates and the effects.
        clock: file in it that says by how much the process's clock is wrong; None for right.
        store_clock: the same for the clock that the store goes by.
    """
    ports = Ports() if clock is None else Ports(clock=WrongClock(directory / clock))
    wrong = None if store_clock is None else WrongClock(directory / store_clock)
    app = App(SqliteStore(directory / DATABASE, clock=wrong), ports=ports)
    act = step.options(backoff=constant("0.3s"))
    do = Acts(directory)

    @app.workflow
    async def perform(name: str, acts: Sequence[str]) -> list[int]:
        """Do these acts one after the other; return which process did each."""
        return [await act("act", do, name, number, how) for number, how in enumerate(acts)]

    @app.workflow
    async def conclude(name: str, act: str) -> list[int]:
        """Do one act in the body itself, so that only the end of the run is written."""
        return [await do(name, 0, act)]

    return app, perform, conclude


def note_leaders(app: App, effects: Effects) -> None:
    """Note in the log of effects who leads, and what is fired by whom."""

    @app.on(Hook)
    async def note(hook: Hook) -> None:
        match hook:
            case LeaderElected():
                effects.note("elected", hook.worker_id, hook.term)
            case LeaderLost():
                event = "handed_over" if hook.handed_over else "lost"
                effects.note(event, hook.worker_id, hook.term)
            case ScheduleTriggered():
                effects.note("fired", hook.key, round(hook.expected.timestamp()))
            case WorkerReady():
                effects.note("ready", hook.worker_id)
            case _:
                pass


# --- roles -------------------------------------------------------------------------------------


async def work(
    directory: Path,
    *,
    clock: str | None = None,
    store_clock: str | None = None,
    stall_limit: float = heartbeat.STALL_LIMIT,
    **options: Any,
) -> None:
    """Be a worker until SIGTERM; ``options`` are the worker's."""
    heartbeat.STALL_LIMIT = stall_limit
    heartbeat.STALL_WARNING = stall_limit / 2
    effects = Effects(directory)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    app, _, _ = make_app(directory, clock=clock, store_clock=store_clock)
    note_leaders(app, effects)
    worker = Worker(app, **options)
    await worker.start()
    effects.note("working")
    await stopping.wait()
    effects.note("stopping")
    await worker.stop()
    effects.note("stopped")


async def await_result(directory: Path, *, run: str) -> None:
    """Print the result of a run; between hints, look only every half a minute."""
    watcher.POLL = 30.0
    app, _, _ = make_app(directory)
    async with app:
        result = asyncio.ensure_future(app.get(run).result())
        await fact("it is watched", lambda: app.engine.watcher._listeners)
        Effects(directory).note("waiting", run)
        await result
        Effects(directory).note("heard", run)


ROLES = {"work": work, "await_result": await_result}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    asyncio.run(ROLES[sys.argv[2]](Path(sys.argv[1]), **json.loads(sys.argv[3])))
