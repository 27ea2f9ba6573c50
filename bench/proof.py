"""The proof beside the figures: kill -9 a process that acknowledges work, count what is left.

A kill shows that nothing acknowledged was still in the process. It cannot show that it
survives power loss: for that stand the journal mode and synchronous FULL that are read back.
"""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

from bench.reading import Reading, settings


def kill(place: Path) -> Reading:
    """Count the acknowledged runs that a kill at a random moment lost."""
    acknowledged = _killed_while_acknowledging(place)
    stored = _runs_in(place / "perdure.db")
    lost = len(acknowledged["enqueued"] - stored.keys())
    undone = sum(stored.get(run) != "completed" for run in acknowledged["finished"])
    _child("finish_what_was_left", place, "\n".join(acknowledged["enqueued"]))
    connection = sqlite3.connect(place / "perdure.db")
    (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    also: dict[str, float | str] = {
        "enqueued_acknowledged": len(acknowledged["enqueued"]),
        "finished_acknowledged": len(acknowledged["finished"]),
        "rows_counted": len(stored),
        "integrity": integrity,
    }
    if integrity != "ok":
        raise AssertionError(f"the file is damaged: {integrity}")
    return Reading(lost + undone, *settings(connection), also)


def _killed_while_acknowledging(place: Path) -> dict[str, set[str]]:
    """Return the ids the victim printed as enqueued and as finished before it was killed."""
    victim = subprocess.Popen(
        [sys.executable, "-m", "bench.child", "ours:acknowledge_until_killed", str(place)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout is not None
    acknowledged: dict[str, set[str]] = defaultdict(set)
    killer: threading.Timer | None = None
    for line in victim.stdout:
        if killer is None:
            killer = threading.Timer(random.uniform(0.5, 1.5), victim.send_signal, [signal.SIGKILL])
            killer.start()
        if line.endswith("\n"):
            what, run_id = line.split()
            acknowledged[what].add(run_id)
    if victim.wait() != -signal.SIGKILL:
        raise AssertionError(f"the victim ended by itself with {victim.returncode}")
    return acknowledged


def _runs_in(database: Path) -> dict[str, str]:
    """Return id and status of every run in the file, read without Perdure."""
    connection = sqlite3.connect(database)
    try:
        return dict(connection.execute("SELECT id, status FROM runs"))
    finally:
        connection.close()


def _child(trial: str, place: Path, standard_input: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "bench.child", f"ours:{trial}", str(place)],
        input=standard_input,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )


TRIALS = {"kill": kill}
