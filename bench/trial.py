"""Running one trial: a fresh process, a fresh directory, one line of JSON back."""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"
PATIENCE_SECONDS = 600


class TrialFailed(Exception):
    """A trial's process failed, hung or printed no reading."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run: a trial of ours by name, or a peer's script with its arguments."""

    label: str
    unit: str
    arguments: tuple[str, ...]
    is_peer: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one process printed."""

    value: float
    journal_mode: str
    synchronous: str
    also: dict[str, float | str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ground:
    """Where trials run: the directory of their files and the peers' interpreter, if any."""

    scratch: Path
    peer_python: Path | None


def here(module: str, name: str, unit: str) -> Trial:
    """Return a trial that runs under this interpreter."""
    return Trial(f"{module} {name}", unit, ("-m", "bench.child", f"{module}:{name}"))


def peer(label: str, unit: str, script: str, *arguments: str) -> Trial:
    """Return a trial that runs a peer's script under the peers' interpreter."""
    return Trial(label, unit, (str(PEERS / script), *arguments), is_peer=True)


def run(trial: Trial, ground: Ground) -> Outcome:
    """Run a trial once in a fresh process and directory.

    Raises:
        TrialFailed: it failed or took longer than ten minutes; the message ends with what
            it wrote to standard error.
    """
    python = ground.peer_python if trial.is_peer else Path(sys.executable)
    ground.scratch.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=ground.scratch))
    try:
        process = subprocess.run(
            [str(python), *trial.arguments, str(place)],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrialFailed(f"{trial.label}: still running after {PATIENCE_SECONDS} s") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    lines = process.stdout.splitlines()
    if process.returncode != 0 or not lines:
        tail = "\n".join(process.stderr.splitlines()[-15:])
        raise TrialFailed(f"{trial.label}: exit status {process.returncode}\n{tail}")
    return Outcome(**json.loads(lines[-1]))
