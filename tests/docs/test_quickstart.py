"""The quickstart, done as a reader does it: its files side by side, killed and started again."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_blocks import ROOT, blocks_of

PAGE = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
BLOCKS = blocks_of("quickstart.md", PAGE)
PATIENCE = 60


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with the files that the page tells the reader to save."""
    for name in ("shop.py", "history.py", "worker.py", "client.py"):
        _, _, after = PAGE.partition(f"as `{name}`:")
        block = next(b for b in blocks_of(name, after) if b.language == "python")
        (tmp_path / name).write_text(block.text, "utf-8")
    return tmp_path


def start(here: Path, program: str) -> subprocess.Popen[str]:
    """Start a program of the page."""
    command = [sys.executable, "-W", "error", program]
    return subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True)


def shown() -> Iterator[tuple[str, str]]:
    """Yield each command of the page with the output printed below it."""
    for block in BLOCKS:
        if block.language == "console":
            yield from re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)


def run(here: Path, program: str) -> str:
    """Run a program of the page to its end and return what it printed."""
    process = start(here, program)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return printed


def test_killed_and_started_again(here: Path):
    """Killed while it packs, the program goes on behind what was recorded, as the page shows."""
    (_, first), (_, second), (_, third), (_, history), *_ = shown()
    process = start(here, "shop.py")
    assert process.stdout is not None
    printed = process.stdout.readline() + process.stdout.readline()
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert printed + "Killed\n" == first
    assert run(here, "shop.py") == second
    assert run(here, "shop.py") == third
    assert run(here, "history.py") == history


def test_worker_and_client_apart(here: Path):
    """A worker in one process executes what a client in another enqueues."""
    *_, (_, in_the_background), (_, together) = shown()
    worker = start(here, "worker.py")
    try:
        answer = run(here, "client.py")
    finally:
        worker.terminate()
        printed, _ = worker.communicate(timeout=PATIENCE)
    assert in_the_background == ""
    assert printed + answer == together
