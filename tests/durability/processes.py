"""Processes for the durability tests: started from an app module, watched, killed, frozen.

An app module is a file that can be run as a script: ``FILE DIRECTORY ROLE OPTIONS``, where ROLE is
what the process is to do and OPTIONS are JSON. What the processes of a test did is read from their
output and from one log of effects, to which each event is appended with a single write, so that the
order of its lines is the order of events across processes.
"""

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import perdure

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

PATIENCE = 30.0
"""Seconds after which a fact that does not come is an error."""

LOOK = 0.01
"""Seconds between looks for a fact."""


async def fact(what: str, look: Callable[[], T | Awaitable[T]], *, patience: float = PATIENCE) -> T:
    """Wait until a look finds something true, and return it.

    Raises:
        AssertionError: it does not come.
    """
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        await asyncio.sleep(LOOK)


# --- effects -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """One event: when on the machine's monotonic clock, in which process, and what."""

    at: float
    pid: int
    event: str
    run: str
    step: int


class Effects:
    """The log of effects in a directory; every process of a test has one of these on it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "effects.log"
        self._seen: list[Effect] = []
        self._at = 0

    def note(self, event: str, run: str = "-", step: int = -1) -> None:
        """Append one event."""
        line = f"{time.monotonic():.6f} {os.getpid()} {event} {run} {step}\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> list[Effect]:
        """Return what has happened so far, in order."""
        if self.path.exists():
            with self.path.open("rb") as log:
                log.seek(self._at)
                for line in log:
                    if not line.endswith(b"\n"):
                        break
                    at, pid, event, run, step = line.decode().split()
                    self._seen.append(Effect(float(at), int(pid), event, run, int(step)))
                    self._at += len(line)
        return self._seen

    def find(self, event: str, run: str = "-", step: int = -1, *, pid: int = 0) -> list[Effect]:
        """Return the events of that kind, of one process where ``pid`` says so."""
        return [
            effect
            for effect in self.read()
            if (effect.event, effect.run, effect.step) == (event, run, step)
            and pid in (0, effect.pid)
        ]


# --- processes ---------------------------------------------------------------------------------


class Process:
    """One process of a test."""

    def __init__(self, command: list[str], output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                cwd=output.parent,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(_place_of_perdure())]),
                },
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it lives."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text("utf-8", "replace")

    def kill(self) -> None:
        """End it without a warning, and wait until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Ask it to stop in order; see ``ended``."""
        self._process.terminate()

    def freeze(self) -> None:
        """Stop all its threads where they are, and wait until it is so."""
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


def _place_of_perdure() -> Path:
    assert perdure.__file__ is not None
    return Path(perdure.__file__).parents[1]


class Fleet:
    """The processes of one test, all from one app module and on one directory.

    Leaving it kills those that are left.

    Args:
        module: the file of the app module.
        directory: for its data and the processes' output.
    """

    def __init__(self, module: Path, directory: Path) -> None:
        self._module = module
        self._directory = directory
        self._numbers = count(1)
        self._processes: list[Process] = []

    def start(self, role: str, **options: Any) -> Process:
        """Start a process in a role of the app module."""
        command = [sys.executable, str(self._module), str(self._directory), role]
        output = self._directory / f"{next(self._numbers)}-{role}.out"
        process = Process([*command, json.dumps(options)], output)
        self._processes.append(process)
        return process

    def __iter__(self) -> Iterator[Process]:
        """Yield every process that was started, in order."""
        return iter(self._processes)

    @property
    def output(self) -> str:
        """What all of them have printed."""
        return "\n".join(process.output for process in self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._processes:
            if not process.ended:
                process.kill()
