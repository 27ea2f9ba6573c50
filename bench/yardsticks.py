"""What this machine can do, with the standard library's sqlite3 and nothing of ours.

A yardstick runs beside a measure, in the same minutes and on the same disk, so that a
bar such as "80 % of the single-commit rate" is a ratio and not a memory of another day.
"""

import os
import sqlite3
import statistics
import time
from pathlib import Path

from bench.reading import Reading, settings

ROW = os.urandom(400)


def single_commits(place: Path) -> Reading:
    """Commits a second: one connection, WAL and FULL, one row of 400 bytes in each."""
    return _commits(place, commits=2_000, rows_each=1)


def grouped_rows(place: Path) -> Reading:
    """Rows a second when each commit carries 50 rows of 400 bytes."""
    return _commits(place, commits=400, rows_each=50)


def fsync_latency(place: Path) -> Reading:
    """Median milliseconds of one fsync after 4 KiB were appended to a file."""
    latencies: list[float] = []
    with (place / "fsync").open("wb", buffering=0) as file:
        for _ in range(500):
            file.write(b"\0" * 4096)
            began = time.perf_counter()
            os.fsync(file.fileno())
            latencies.append(time.perf_counter() - began)
    return Reading(statistics.median(latencies) * 1e3, "-", "-")


def _commits(place: Path, *, commits: int, rows_each: int) -> Reading:
    connection = sqlite3.connect(place / "yardstick.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, payload BLOB)")
    _commit(connection, commits // 10, rows_each)
    began = time.perf_counter()
    _commit(connection, commits, rows_each)
    seconds = time.perf_counter() - began
    return Reading(commits * rows_each / seconds, *settings(connection))


def _commit(connection: sqlite3.Connection, commits: int, rows_each: int) -> None:
    for _ in range(commits):
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(rows_each):
            connection.execute("INSERT INTO row (payload) VALUES (?)", (ROW,))
        connection.execute("COMMIT")


TRIALS = {
    "single_commits": single_commits,
    "grouped_rows": grouped_rows,
    "fsync_latency": fsync_latency,
}
