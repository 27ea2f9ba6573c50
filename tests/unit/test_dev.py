"""dev.py, with a stand-in for the environment's Python that writes down what it is asked to do.

A real set-up needs a package index; `.ci/run` in a fresh clone is where that is seen.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")

STAND_IN = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in *" install "*) exit {pip_exit} ;; *--version*) exit 0 ;; esac
exit 7
"""


class Checkout:
    """A copy of dev.py in a directory whose name has spaces, beside a ready `.venv`."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "a check out"
        self.log = directory / "log"
        self.python = self.root / ".venv" / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        self.log.touch()
        shutil.copy(ROOT / "dev.py", self.root)
        (self.root / "pyproject.toml").write_text("first")
        self.stand_in(pip_exit=0)

    def stand_in(self, *, pip_exit: int) -> None:
        """Replace the environment's Python; it exits with 7 when it is given work."""
        self.python.write_text(STAND_IN.format(log=self.log, pip_exit=pip_exit))
        self.python.chmod(0o755)

    def dev(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run dev.py from another directory."""
        command = [sys.executable, str(self.root / "dev.py"), *arguments]
        return subprocess.run(
            command, cwd=self.log.parent, capture_output=True, text=True, check=False
        )

    def asked(self) -> list[str]:
        """Return and forget what the stand-in was asked, without pip's options."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return [line.replace(str(self.root), "ROOT") for line in lines if "--version" not in line]


PIP = "-m pip --disable-pip-version-check --no-input install --quiet --editable"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a checkout that was never set up."""
    return Checkout(tmp_path)


def test_demo_installs_once_and_passes_on(checkout: Checkout):
    """The first demo installs the core; later ones only run, with their arguments and exit code."""
    assert checkout.dev("demo", "x y").returncode == 7
    assert checkout.asked() == [f"{PIP} ROOT", "ROOT/examples/archive.py x y"]
    assert checkout.dev("demo").returncode == 7
    assert checkout.asked() == ["ROOT/examples/archive.py"]


def test_tests_add_their_extra(checkout: Checkout):
    """The tests install what they need; the demo after them keeps it and installs nothing."""
    checkout.dev("demo")
    checkout.asked()
    checkout.dev("test", "-k", "cron")
    assert checkout.asked() == [f"{PIP} ROOT[dev]", "-m pytest -k cron"]
    checkout.dev("demo")
    assert checkout.asked() == ["ROOT/examples/archive.py"]


def test_new_dependencies_are_installed(checkout: Checkout):
    """A changed pyproject.toml installs again, with the extras that were there."""
    checkout.dev("test")
    checkout.asked()
    (checkout.root / "pyproject.toml").write_text("second")
    checkout.dev("demo")
    assert checkout.asked() == [f"{PIP} ROOT[dev]", "ROOT/examples/archive.py"]


def test_a_failed_set_up_is_done_again(checkout: Checkout):
    """When pip fails nothing runs, its exit code is ours, and the next call tries again."""
    checkout.stand_in(pip_exit=3)
    assert checkout.dev("demo").returncode == 3
    assert checkout.asked() == [f"{PIP} ROOT"]
    checkout.stand_in(pip_exit=0)
    assert checkout.dev("demo").returncode == 7


def test_another_python_makes_another_environment(checkout: Checkout):
    """An environment of another Python version is replaced by one of this version."""
    marker = {"home": [str(checkout.root), "3.0"], "extras": ["dev"]}
    (checkout.root / ".venv" / "pyvenv.cfg").touch()
    (checkout.root / ".venv" / "perdure-dev.json").write_text(json.dumps(marker))
    done = checkout.dev("demo")
    assert f"making {checkout.root}" in done.stderr
    assert checkout.python.resolve() == Path(sys.executable).resolve()


def test_a_foreign_directory_is_left_alone(checkout: Checkout):
    """A `.venv` that is no virtual environment is not deleted."""
    checkout.python.unlink()
    (checkout.root / ".venv" / "mine").touch()
    done = checkout.dev("demo")
    assert done.returncode == 1
    assert "is not a virtual environment; move it away" in done.stderr
    assert (checkout.root / ".venv" / "mine").exists()


def test_every_gate_runs_and_counts(checkout: Checkout):
    """All gates run though each fails, and the last line names them."""
    done = checkout.dev("check", "-x")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "failed: ruff check, ruff format, mypy, pyright, layers, tests"
    )
    assert "-m pytest -x" in checkout.asked()


def test_unknown_commands_show_the_page(checkout: Checkout):
    """A word that dev.py does not know prints its page and fails."""
    done = checkout.dev("tset")
    assert done.returncode == 2
    assert "python3 dev.py test" in done.stdout
