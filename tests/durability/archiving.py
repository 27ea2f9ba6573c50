"""The example `archive.py` as processes that can be killed, and what they leave on the disk.

What is on record is read with SQLite alone; after a kill from a copy of the files, because opening
the database itself would already begin to mend it.
"""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "archive.py"
PATIENCE = 120.0
"""Seconds after which a process that should have come to something is an error."""
LOOK = 0.002
"""Seconds between looks at what a process has done."""

Step = tuple[str, str]
"""A step's name and the file it is about, which is empty for the steps of the directory."""

COUNT = "SELECT count(*) FROM checkpoint WHERE kind = 0"
RECORDED = """
    SELECT path, coalesce(json_extract(CAST(input AS TEXT), '$.path'), ''),
        created_at + checkpoint.started_at
    FROM checkpoint JOIN run ON run.seq = checkpoint.run WHERE kind = 0 AND outcome <> 3
"""
HELD = "SELECT seq, epoch FROM run WHERE status = 1"
JOINED = "SELECT started_at FROM worker WHERE pid = ?"
CRASHED = "SELECT run, epoch, ended_at FROM attempt WHERE outcome = 'crashed'"


def make_tree(directory: Path, files: int, rng: random.Random) -> None:
    """Fill a directory with files of many sizes, which compress to about half."""
    for number in range(files):
        folder = directory / f"{number % 7}" / f"{number % 5}.gz"
        folder.mkdir(parents=True, exist_ok=True)
        size = rng.choice([0, 1, 500, 5_000, 20_000, 200_000])
        (folder / f"größe {number}.txt").write_bytes(rng.randbytes(size // 2).hex().encode())


@dataclass(frozen=True)
class Life:
    """One process, from its start to its end.

    Attributes:
        code: how it ended; -9 for killed.
        began_at: when it was started; in microseconds since the epoch.
        up: when its program began, after Python and the imports; in seconds after its start.
        ended: when it was killed, or ended by itself; in seconds after its start.
        effects: the steps whose bodies it brought to their end, in that order.
        output: what it wrote to its standard output.
        errors: what it wrote to its standard error.
    """

    pid: int
    code: int
    began_at: int
    up: float | None
    ended: float
    effects: list[Step]
    output: str
    errors: str


@dataclass(frozen=True)
class Record:
    """What the database says.

    Attributes:
        steps: the steps whose outcome is recorded.
        begun_at: when each of them began; in microseconds since the epoch.
        held: run and epoch of each claim that has not ended.
        joined_at: when the worker of the last process registered; None if it did not, or signed
            off; in microseconds.
        crashed: the claims that died with their worker, and when that was recorded.
    """

    steps: set[Step]
    begun_at: list[int]
    held: set[tuple[int, int]]
    joined_at: int | None
    crashed: dict[tuple[int, int], int]


class Archiving:
    """One output directory and the processes that work on it, one after the other.

    Args:
        out: the directory; it need not exist.
        source: what to archive; None for what the example takes by itself.
        concurrency: how many steps a process may execute at once.
    """

    def __init__(self, out: Path, source: Path | None = None, *, concurrency: int = 16) -> None:
        self.out = out
        self.database = out / "runs.db"
        self.log = out / "effects.log"
        self.command = [sys.executable, str(EXAMPLE), *([str(source)] if source else [])]
        self.command += ["--out", str(out), "--concurrency", str(concurrency)]
        self.lives: list[Life] = []

    def live(
        self,
        moment: Callable[[float, int], bool] | None = None,
        sign: signal.Signals = signal.SIGKILL,
    ) -> Life:
        """Start a process and let it end, or end it at a moment.

        Args:
            moment: told the seconds since the start and how many steps are recorded.
            sign: the signal that ends it.
        """
        before = self._log_size()
        began_at, began = time.time_ns() // 1000, time.monotonic()
        up = None
        pipe = subprocess.PIPE
        with subprocess.Popen(self.command, stdout=pipe, stderr=pipe, text=True) as process:
            with _Counter(self.database) as recorded:
                while process.poll() is None:
                    elapsed = time.monotonic() - began
                    assert elapsed < PATIENCE, f"{self.command} came to nothing"
                    if up is None and self._log_size() > before:
                        up = elapsed
                    if moment is not None and moment(elapsed, recorded()):
                        break
                    time.sleep(LOOK)
            process.send_signal(sign)
            ended = time.monotonic() - began
            output, errors = process.communicate(timeout=PATIENCE)
        effects, code = self._effects(before), process.returncode
        life = Life(process.pid, code, began_at, up, ended, effects, output, errors)
        self.lives.append(life)
        return life

    def record(self, scratch: Path) -> Record:
        """Read a copy of the database, made in an empty directory, as the last process left it."""
        scratch.mkdir()
        for file in self.out.glob("runs.db*"):
            if file.is_file() and not file.name.endswith("-shm"):
                shutil.copy(file, scratch)
        with closing(sqlite3.connect(scratch / self.database.name)) as connection:
            joined = connection.execute(JOINED, (self.lives[-1].pid,)).fetchone()
            crashed = connection.execute(CRASHED).fetchall()
            recorded = connection.execute(RECORDED).fetchall()
            return Record(
                {(name, about) for name, about, _ in recorded},
                sorted(begun_at for _, _, begun_at in recorded),
                set(connection.execute(HELD)),
                None if joined is None else joined[0],
                {(run, epoch): ended_at for run, epoch, ended_at in crashed},
            )

    def executions(self) -> Counter[Step]:
        """Return how often the body of each step came to its end."""
        return Counter(step for life in self.lives for step in life.effects)

    def files(self) -> dict[str, bytes]:
        """Return what was made: the manifest and the compressed files."""
        made = [self.out / "manifest.jsonl", *(self.out / "files").rglob("*")]
        return {
            file.relative_to(self.out).as_posix(): file.read_bytes()
            for file in made
            if file.is_file()
        }

    def integrity(self) -> str:
        """Return what SQLite finds wrong with the database, `ok` for nothing."""
        with closing(sqlite3.connect(self.database)) as connection:
            return "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _effects(self, start: int) -> list[Step]:
        written = self.log.read_bytes()[start:] if self.log.exists() else b""
        lines = written.split(b"\n")[:-1]  # behind the last newline is nothing, or a torn line
        effects = [json.loads(line) for line in lines if line]
        return [(name, about if isinstance(about, str) else "") for name, about in effects]


class _Counter:
    """Counts the recorded steps of a database that others write, or that is not there yet."""

    def __init__(self, database: Path) -> None:
        self._uri = f"{database.as_uri()}?mode=ro"
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # Before the kill: an open connection would keep alive what recovery has to rebuild.
        if self._connection is not None:
            self._connection.close()

    def __call__(self) -> int:
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._uri, uri=True)
            return int(self._connection.execute(COUNT).fetchone()[0])
        except sqlite3.OperationalError:  # no file, no table, or just being made
            return 0
