"""The command line in a directory of its own, with a small app beside it."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from perdure.cli import main
from perdure.stores.sqlite import SqliteStore

SHOP = """
from dataclasses import dataclass
from pathlib import Path
import asyncio
from perdure import App, step

app = App("sqlite:///shop.db")
empty = App()

@dataclass
class Order:
    id: str
    cents: int

@app.workflow
async def fulfil(order: Order, note: str = "") -> str:
    await step("pack", pack, order.id)
    return f"{order.id} for {order.cents}{note}"

async def pack(name: str) -> str:
    return name

@app.job(max_attempts=1)
async def boom(what: str) -> None:
    raise ValueError(what)

@app.job
async def add(n: int, *, more: float = 0.5) -> float:
    return n + more

@app.workflow(queue="slow")
async def hold() -> None:
    Path("held").touch()
    await asyncio.get_running_loop().create_future()
"""

_numbers = count(1)


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What was printed as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that was printed as JSON."""
        return json.loads(self.err)["error"]


Perdure = Callable[..., Answer]


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an app in a module of a name that no other test has."""
    for name in list(os.environ):
        if name.startswith("PERDURE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def shop(yard: Path) -> str:
    """The name of the app's module; its app is `NAME:app`, its store is there and empty."""
    name = f"shop{next(_numbers)}"
    (yard / f"{name}.py").write_text(SHOP, "utf-8")
    create(yard / "shop.db")
    return name


def create(path: Path) -> None:
    """Create an empty store."""

    async def work() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.close()

    asyncio.run(work())


@pytest.fixture
def perdure(yard: Path, capsys: pytest.CaptureFixture[str]) -> Perdure:
    """Run a command in this process."""

    root = logging.getLogger()

    def run(*words: str) -> Answer:
        handlers, level = list(root.handlers), root.level
        capsys.readouterr()
        try:
            code = main(words)
        finally:
            root.handlers[:] = handlers  # a worker logs for its process, which is not this one
            root.setLevel(level)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture
def command(yard: Path) -> Perdure:
    """Run the real command as a process of its own."""

    def run(*words: str, **environment: str) -> Answer:
        done = subprocess.run(
            command_line(*words),
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
            timeout=60,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


def command_line(*words: str) -> list[str]:
    """Return how a process runs the command, warnings being errors."""
    return [sys.executable, "-W", "error", "-m", "perdure", *words]
