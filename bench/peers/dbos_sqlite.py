"""DBOS on SQLite, doing the work that Perdure is measured with.

Runs under an interpreter of its own (DBOS installed, Perdure not) and prints one JSON
line. DBOS runs as it comes; `--journal wal` switches the file to a write-ahead log
before DBOS opens it, which a careful user of DBOS could do as well. Both are synchronous
FULL, as the settings read back from DBOS's own live connection show.

    python dbos_sqlite.py workflows --form sync|serial|async|start|queue DIRECTORY
    python dbos_sqlite.py sequential --steps 1000 [--form sync|async] DIRECTORY
"""

import argparse
import asyncio
import json
import platform
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dbos import DBOS

AT_ONCE = 100
WARM_UP = 10
SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}


@DBOS.step()
def noop() -> None:
    """Do nothing, durably."""


@DBOS.step()
async def noop_async() -> None:
    """Do nothing, durably, on the event loop."""


@DBOS.workflow()
def steps_in_a_row(count: int) -> None:
    """Run so many steps one after another."""
    for _ in range(count):
        noop()


@DBOS.workflow()
async def steps_in_a_row_async(count: int) -> None:
    """Run so many steps one after another, on the event loop."""
    for _ in range(count):
        await noop_async()


def serial(workflows: int, steps: int) -> None:
    """One after another in the calling thread."""
    for _ in range(workflows):
        steps_in_a_row(steps)


def sync(workflows: int, steps: int) -> None:
    """Called directly from a pool of 100 threads."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda _: steps_in_a_row(steps), range(workflows)))


def start(workflows: int, steps: int) -> None:
    """Through start_workflow and its handle, 100 at once."""

    def one(_: int) -> None:
        DBOS.start_workflow(steps_in_a_row, steps).get_result()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(workflows)))


def queue(workflows: int, steps: int) -> None:
    """Through a queue whose worker takes 100 at once and polls each 10 ms, not each second."""
    lane = DBOS.register_queue("bench", worker_concurrency=AT_ONCE, polling_interval_sec=0.01)
    handles = [lane.enqueue(steps_in_a_row, steps) for _ in range(workflows)]
    for handle in handles:
        handle.get_result()


def on_the_loop(workflows: int, steps: int) -> None:
    """Async workflows called directly, 100 at once on one event loop."""

    async def main() -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with slots:
                await steps_in_a_row_async(steps)

        await asyncio.gather(*(one() for _ in range(workflows)))

    asyncio.run(main())


FORMS: dict[str, Callable[[int, int], None]] = {
    "sync": sync,
    "serial": serial,
    "start": start,
    "queue": queue,
    "async": on_the_loop,
}


def launch(database: Path, journal: str | None) -> DBOS:
    """Start DBOS on a fresh file."""
    if journal is not None:
        with sqlite3.connect(database) as connection:
            connection.execute(f"PRAGMA journal_mode={journal}")
    dbos = DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{database}",
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    return dbos


def settings(dbos: DBOS) -> dict[str, str]:
    """Read the journal mode and the synchronous setting on a connection of DBOS's engine."""
    engine = dbos._sys_db.engine  # noqa: SLF001 - DBOS has no public way to it
    with engine.connect() as connection:
        journal_mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
    return {"journal_mode": str(journal_mode), "synchronous": SYNCHRONOUS[synchronous]}


def bytes_in_use(database: Path) -> int:
    """Return the bytes of the file's pages that hold something."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    connection.close()
    return int((pages - free) * size)


def workflows(form: str, count: int, database: Path) -> dict[str, Any]:
    """Steps a second of so many workflows of ten steps, and what each leaves in the file."""
    FORMS[form](WARM_UP, 10)
    before = bytes_in_use(database)
    began = time.perf_counter()
    FORMS[form](count, 10)
    seconds = time.perf_counter() - began
    return {
        "value": count * 10 / seconds,
        "also": {"bytes_a_workflow": (bytes_in_use(database) - before) / count},
    }


def sequential(form: str, steps: int) -> dict[str, Any]:
    """Milliseconds a step of one workflow with so many steps, its start and end included."""
    run = FORMS["async" if form == "async" else "serial"]
    run(WARM_UP, 10)
    began = time.perf_counter()
    run(1, steps)
    return {"value": (time.perf_counter() - began) * 1e3 / steps, "also": {}}


def main() -> None:
    """Run what the command line names and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["workflows", "sequential"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--form", choices=FORMS, default="sync")
    parser.add_argument("--journal", choices=["wal"])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1_000)
    args = parser.parse_args()

    database = args.directory / "dbos.db"
    dbos = launch(database, args.journal)
    read_back = settings(dbos)
    if args.work == "workflows":
        outcome = workflows(args.form, args.count, database)
    else:
        outcome = sequential(args.form, args.steps)
    DBOS.destroy()
    versions = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "dbos": version("dbos"),
        "sqlalchemy": version("sqlalchemy"),
    }
    print(json.dumps({**outcome, **read_back, "versions": versions}), flush=True)


if __name__ == "__main__":
    main()
