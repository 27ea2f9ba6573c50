"""The proof beside the figures: kill -9 a process that acknowledges work, count what is left.

A kill shows that nothing acknowledged was still in the process. It cannot show that it
survives power loss: for that stand the journal mode and synchronous FULL that are read back.
"""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

from bench.reading import Reading


def kill(place: Path) -> Reading:
    """Count the acknowledged runs that a kill at a random moment lost."""
    acknowledged = _killed_while_acknowledging(place)
    stored = _runs_in(place / "perdure.db")
    lost = len(acknowledged["enqueued"] - stored.keys())
    undone = sum(stored.get(run) != "completed" for run in acknowledged["finished"])
    reopened = _finish_what_was_left(place, acknowledged["enqueued"])
    integrity = _integrity_of(place / "perdure.db")
    also: dict[str, float | str] = {
        "enqueued_acknowledged": len(acknowledged["enqueued"]),
        "finished_acknowledged": len(acknowledged["finished"]),
        "rows_counted": len(stored),
        "integrity": integrity,
    }
    if integrity != "ok":
        raise AssertionError(f"the file is damaged: {integrity}")
    return Reading(lost + undone, reopened["journal_mode"], reopened["synchronous"], also)


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


def _integrity_of(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def _finish_what_was_left(place: Path, run_ids: set[str]) -> dict[str, str]:
    """Let a fresh worker finish every acknowledged run; return the reading it prints."""
    process = subprocess.run(
        [sys.executable, "-m", "bench.child", "ours:finish_what_was_left", str(place)],
        input="\n".join(run_ids),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    reading: dict[str, str] = json.loads(process.stdout.splitlines()[-1])
    return reading


TRIALS = {"kill": kill}
