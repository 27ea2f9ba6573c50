#!/usr/bin/env python3
"""Set up this checkout and run something in it; needs Python 3.11 or later, and nothing else.

    python3 dev.py demo ...     the example of the README, on SQLite
    python3 dev.py test ...     the tests; what follows goes to pytest
    python3 dev.py lint         style, types and layers
    python3 dev.py check ...    every gate: lint, then test
    python3 dev.py bench ...    the measurements of bench/

The first call makes `.venv` beside this file and installs the checkout into it with pip, which
honours its PIP_ variables. Later calls install only when pyproject.toml, the Python or the place
of the checkout changed, and otherwise need no network. Only the standard library is used here,
and no syntax newer than Python 3.7, so that an old Python can say that it is too old.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
MARKER = VENV / "perdure-dev.json"
WINDOWS = os.name == "nt"
PYTHON = str(VENV / ("Scripts/python.exe" if WINDOWS else "bin/python"))
OLDEST = (3, 11)

STATIC_GATES = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy"],
    "pyright": ["-m", "pyright", "--pythonpath", PYTHON],
    "layers": ["-c", "from importlinter import cli; cli.lint_imports_command()", "--no-logo"],
}


def main(command: str, arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    if command == "demo":
        set_up()
        return become([str(ROOT / "examples" / "archive.py"), *arguments])
    if command == "bench":
        set_up()
        os.chdir(ROOT)
        return become(["-m", "bench", *arguments])
    if command == "test":
        set_up("dev")
        os.chdir(ROOT)
        return become(["-m", "pytest", *arguments])
    if command == "lint":
        set_up("dev")
        return run_all(STATIC_GATES)
    if command == "check":
        set_up("dev")
        return run_all({**STATIC_GATES, "tests": ["-m", "pytest", *arguments]})
    print(__doc__)
    return 0 if command in ("help", "-h", "--help") else 2


def run_all(stages: dict[str, list[str]]) -> int:
    """Run every stage even after a failure, so that one call shows all there is to mend."""
    failed = []
    for name, arguments in stages.items():
        print(f"== {name}", flush=True)
        began = time.monotonic()
        if subprocess.call([PYTHON, *arguments], cwd=ROOT):
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.1f} s", flush=True)
    print("failed: " + ", ".join(failed) if failed else "all gates passed", flush=True)
    return 1 if failed else 0


def become(arguments: list[str]) -> int:
    """Go on as the environment's Python; on POSIX in this very process, so that a kill hits it."""
    if WINDOWS:  # exec there starts a child and returns to the prompt before it has ended
        return subprocess.call([PYTHON, *arguments])
    return os.execv(PYTHON, [PYTHON, *arguments])  # noqa: S606  no shell is wanted


def set_up(*extras: str) -> None:
    """Make the environment fit: nothing to do, something to install, or to be made anew."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    home = [str(ROOT), "{}.{}".format(*sys.version_info)]
    found = read_marker()
    usable = Path(PYTHON).exists() and found.get("home", home) == home
    installed = found.get("extras", []) if usable else []
    if usable and found.get("pyproject") == digest and set(extras) <= set(installed):
        return
    if not usable:
        make_environment()
    wanted = sorted({*extras, *installed})
    install(wanted)
    write_marker({"home": home, "pyproject": digest, "extras": wanted})


def read_marker() -> dict[str, Any]:
    """Return what the last set-up recorded; nothing when there was none or it is unreadable."""
    try:
        return dict(json.loads(MARKER.read_text("utf-8")))
    except (OSError, TypeError, ValueError):
        return {}


def write_marker(marker: dict[str, Any]) -> None:
    """Record a finished set-up; one that was interrupted leaves no marker and is done again."""
    draft = MARKER.with_suffix(".new")
    draft.write_text(json.dumps(marker), "utf-8")
    draft.replace(MARKER)


def make_environment() -> None:
    """Create `.venv` afresh, with its own pip."""
    if VENV.exists() and not (VENV / "pyvenv.cfg").exists():
        sys.exit(f"dev.py: {VENV} is not a virtual environment; move it away and try again")
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            sys.exit(
                f"dev.py: {sys.executable} has no module {module}, which makes virtual "
                "environments; on Debian and Ubuntu it comes with the package python3-venv"
            )
    say(f"making {VENV}")
    must([sys.executable, "-m", "venv", "--clear", str(VENV)])


def install(extras: list[str]) -> None:
    """Install the checkout, editable, with these extras; pip itself says what went wrong."""
    say("installing with pip, once; this takes a minute or so")
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    if subprocess.call([*pip, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        must([PYTHON, "-m", "ensurepip"])  # an environment made by another tool, without pip
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    must([*pip, "install", "--quiet", "--editable", target])


def say(text: str) -> None:
    """Report on the set-up, apart from the output of what was asked for."""
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


def must(command: list[str]) -> None:
    """Run one command of the set-up; end with its exit code when it fails.

    It runs in a session of its own, so that Ctrl-C ends it and its children without a traceback.
    """
    with subprocess.Popen(command, start_new_session=True) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            if not WINDOWS:
                os.killpg(child.pid, signal.SIGTERM)
            raise
    if code:
        sys.exit(code)


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        here = "{}.{}".format(*sys.version_info)
        sys.exit(f"dev.py: Perdure needs Python 3.11 or later; {sys.executable} is {here}")
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
