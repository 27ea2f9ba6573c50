"""huey on SQLite: a job queue without workflows, for the figures of plain jobs.

Runs under an interpreter of its own and prints one JSON line. huey runs as it comes:
WAL, and SQLite's own default for synchronous, read back from its live connection.
A job that was taken is deleted before it runs, so a killed worker loses it: its figures
buy less than ours do.

    python huey_sqlite.py drain|start|enqueue DIRECTORY
"""

import argparse
import json
import platform
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from huey import SqliteHuey
from huey.storage import SqliteStorage

SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}


@contextmanager
def consumer(huey: SqliteHuey) -> Iterator[None]:
    """Run one worker thread in this process, with huey's defaults."""
    service = huey.create_consumer(workers=1)
    service.start()
    try:
        yield
    finally:
        service.stop(graceful=True)


def drain(huey: SqliteHuey) -> float:
    """Jobs a second when 5,000 no-op jobs wait and one worker thread starts."""
    left = 5_000
    done = threading.Event()

    @huey.task()
    def nothing() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    waiting = left
    for _ in range(waiting):
        nothing()
    began = time.perf_counter()
    with consumer(huey):
        done.wait()
        return waiting / (time.perf_counter() - began)


def start(huey: SqliteHuey) -> float:
    """Median milliseconds from a call of enqueue to the start of the body, one at a time."""
    latencies: list[float] = []
    started = threading.Event()

    @huey.task()
    def stamp(called_at: float) -> None:
        latencies.append(time.perf_counter() - called_at)
        started.set()

    with consumer(huey):
        for _ in range(50):
            started.clear()
            stamp(time.perf_counter())
            started.wait()
            time.sleep(0.02)
    return statistics.median(latencies) * 1e3


def enqueue(huey: SqliteHuey) -> float:
    """Enqueues a second, one after another, with no worker running."""

    @huey.task()
    def nothing() -> None: ...

    began = time.perf_counter()
    for _ in range(2_000):
        nothing()
    return 2_000 / (time.perf_counter() - began)


WORK: dict[str, Callable[[SqliteHuey], float]] = {
    "drain": drain,
    "start": start,
    "enqueue": enqueue,
}


def settings(storage: SqliteStorage) -> dict[str, str]:
    """Read the journal mode and the synchronous setting on huey's own connection."""
    (journal_mode,) = storage.conn.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = storage.conn.execute("PRAGMA synchronous").fetchone()
    return {"journal_mode": str(journal_mode), "synchronous": SYNCHRONOUS[synchronous]}


def main() -> None:
    """Run what the command line names and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=WORK)
    parser.add_argument("directory", type=Path)
    args = parser.parse_args()

    huey = SqliteHuey("bench", filename=str(args.directory / "huey.db"))
    outcome = {
        "value": WORK[args.work](huey),
        **settings(huey.storage),
        "also": {},
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "huey": version("huey"),
        },
    }
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
