#!/usr/bin/env python3
"""Archive a directory, and survive being killed at any moment.

    python archive.py [DIR] [--out OUT] [--concurrency N]

Every file is a workflow of four steps: read and digest, compress, verify, record. The directory is
a workflow that starts one of those for each file and joins them. What they have done is recorded
in OUT/runs.db: kill this program as hard as you like, give the same command again, and it goes on.

A step that was executing when the kill came is executed once more, because nobody can know how far
it had come; so each is written to be repeated. Every execution ends by appending a line to
OUT/effects.log, which shows how many were.
"""

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import shutil
import stat
import sys
import sysconfig
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO
from urllib.parse import quote
from uuid import uuid4

from perdure import App, NonRetryable, Run, Status, Worker, Workflow, gather, step
from perdure.errors import PerdureError, RunConflict

LEFT_OUT = {"__pycache__", "site-packages"}  # directories of these names, and symbolic links


@dataclass(frozen=True)
class Entry:
    """A line of the manifest."""

    path: str
    size: int = 0
    sha256: str = ""
    compressed: int = 0
    skipped: str = ""  # why


class Unreadable(NonRetryable):
    """A file cannot be read; the archive is made without it."""


def define(app: App, archive: "Archive") -> Workflow[[str], str]:
    """Declare the workflows. Their bodies say what is done in which order; the steps do it."""

    @app.workflow
    async def archive_file(path: str) -> None:
        try:
            entry = await step("read", archive.read, path)
            compressed = await step("compress", archive.compress, path)
            entry = replace(entry, compressed=compressed)
            await step("verify", archive.verify, entry)
        except Unreadable as error:
            entry = Entry(path, skipped=str(error))
        await step("record", archive.record, entry)

    @app.workflow
    async def archive_directory(directory: str) -> str:
        paths = await step("list_files", archive.list_files, directory)
        runs = await asyncio.gather(*(archive_file.enqueue(path) for path in paths))
        await gather(*runs)
        return await step("write_manifest", archive.write_manifest)

    return archive_directory


class Archive:
    """The steps. What they write is moved to its place when it is whole: no kill leaves a half."""

    def __init__(self, source: Path, out: Path) -> None:
        self.source, self.out = source, out
        out.mkdir(parents=True, exist_ok=True)
        self.log = EffectLog(out / "effects.log")
        (out / "parts").mkdir(exist_ok=True)

    def list_files(self, directory: str) -> list[str]:
        """Return what there is to archive, as paths below the directory: at most 1 MiB of them."""
        found: list[Path] = []
        unlisted = found.append  # a folder that cannot be listed is a file that cannot be read
        for folder, folders, files in os.walk(directory, onerror=lambda e: unlisted(e.filename)):
            here = Path(folder)
            folders[:] = [f for f in folders if f not in LEFT_OUT and here / f != self.out]
            found += [here / f for f in files if not (here / f).is_symlink()]
        paths = [os.fsencode(os.path.relpath(file, directory)) for file in found]
        self.log.append("list_files", len(paths))
        return sorted(path.decode(errors="backslashreplace") for path in paths)

    def read(self, path: str) -> Entry:
        """Measure the file and digest it."""
        size, digest = 0, hashlib.sha256()
        for block in self._blocks(path):
            size += len(block)
            digest.update(block)
        self.log.append("read", path)
        return Entry(path, size, digest.hexdigest())

    def compress(self, path: str) -> int:
        """Compress the file into one of the same name; return its size."""
        target = self.out / "files" / path
        with self._replacing(target) as part, gzip.GzipFile("", "wb", 6, part, mtime=0) as file:
            file.writelines(self._blocks(path))
        self.log.append("compress", path)
        return target.stat().st_size

    def verify(self, entry: Entry) -> None:
        """Compare what was compressed with what was read."""
        with gzip.open(self.out / "files" / entry.path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.log.append("verify", entry.path)
        if digest != entry.sha256:
            raise Unreadable("it changed while it was archived")

    def record(self, entry: Entry) -> None:
        """Write the file's line of the manifest, in a file of its own until all are there."""
        with self._replacing(self.out / "entries" / entry.path) as file:
            file.write(json.dumps(asdict(entry)).encode() + b"\n")
        if entry.skipped:
            (self.out / "files" / entry.path).unlink(missing_ok=True)
        self.log.append("record", entry.path)

    def write_manifest(self) -> str:
        """Join the lines in the order of their paths; the one they were recorded in is chance."""
        files = (file for file in (self.out / "entries").rglob("*") if file.is_file())
        lines = sorted(file.read_bytes() for file in files)
        with self._replacing(self.out / "manifest.jsonl") as manifest:
            manifest.writelines(lines)
        self.log.append("write_manifest", len(lines))
        entries = [Entry(**json.loads(line)) for line in lines]
        before, after = sum(e.size for e in entries), sum(e.compressed for e in entries)
        skipped = sum(e.skipped != "" for e in entries)
        return f"{len(lines):,} files, {before:,} bytes in {after:,}; {skipped:,} skipped"

    def _blocks(self, path: str) -> Iterator[bytes]:
        try:
            if not stat.S_ISREG((self.source / path).stat().st_mode):
                raise Unreadable("it is not a regular file")
            with (self.source / path).open("rb") as file:
                while block := file.read(1 << 20):
                    yield block
        except OSError as error:
            raise Unreadable(str(error.strerror)) from None

    @contextmanager
    def _replacing(self, target: Path) -> Generator[IO[bytes]]:
        part = self.out / "parts" / uuid4().hex
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)


class EffectLog:
    """A line for each execution of a step, on the disk before the step returns."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0
        self._counts: Counter[bytes] = Counter()
        self._write(b"\n")  # ends the line that a kill may have torn

    def append(self, name: str, subject: str | int) -> None:
        self._write(json.dumps([name, subject]).encode() + b"\n")

    def counts(self) -> Counter[bytes]:
        """Return how often each line is there."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            self._counts.update(line for line in file if line.endswith(b"]\n"))
            self._read = file.tell()
        return self._counts

    def _write(self, line: bytes) -> None:
        with self._file.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())


async def make(source: Path, out: Path, concurrency: int) -> str:
    """Make the archive, or go on making it; return what was done, also if it was done before."""
    archive = Archive(source, out)
    app = App(f"sqlite:///{quote(str(out / 'runs.db'))}")
    archive_directory = define(app, archive)
    async with app:
        # The same id again is the same run, whether it is new, half done or complete.
        run = await archive_directory.options(id="archive").enqueue(str(source))
        if await run.status() is not Status.COMPLETED:
            say(f"{'going on with' if archive.log.counts() else 'making'} the archive of {source}")
            for failed in await app.runs(status="failed", limit=1000):
                await failed.retry()
            async with Worker(app, concurrency=concurrency):
                await show_progress(run, archive.log)
        summary = await run.result()
    for folder in ("entries", "parts"):
        shutil.rmtree(out / folder, ignore_errors=True)
    counts = archive.log.counts()
    repeated = counts.total() - len(counts)
    return f"{summary}\n{len(counts):,} steps, {repeated:,} of them repeated after a kill"


async def show_progress(run: Run[str], log: EffectLog) -> None:
    """Until the run has ended, draw on a terminal how far it is."""
    ended = asyncio.create_task(run.result())
    while sys.stderr.isatty() and not ended.done():
        await asyncio.wait([ended], timeout=0.2)
        effects = [json.loads(line) for line in log.counts()]
        total = max((about for name, about in effects if name == "list_files"), default=0)
        done = sum(name == "record" for name, _ in effects)
        bar = "#" * (50 * done // max(total, 1))
        end = "\n" if ended.done() else ""
        print(f"\r[{bar:.<50}] {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)
    await ended


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Read the command line and run the command."""
    library = sysconfig.get_path("stdlib")
    parser = argparse.ArgumentParser(description=f"{__doc__}".partition("\n")[0])
    parser.add_argument("dir", nargs="?", type=Path, default=library, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default="archive-out", help="default: %(default)s")
    parser.add_argument("--concurrency", type=int, default=16, help="files at once; default: 16")
    given = parser.parse_args()
    if not (given.dir.is_dir() and os.access(given.dir, os.R_OK | os.X_OK)):
        parser.error(f"{given.dir} is not a directory that can be read")
    strange = given.out.is_dir() and not (given.out / "effects.log").exists()
    if strange and any(given.out.iterdir()):
        parser.error(f"{given.out} holds something else; give another --out")
    try:
        done = asyncio.run(make(given.dir.resolve(), given.out.resolve(), given.concurrency))
    except KeyboardInterrupt:
        say("\nstopped; the same command goes on from here")
        return 130
    except RunConflict:
        parser.error(f"{given.out} holds the archive of another directory; give another --out")
    except (PerdureError, OSError) as error:
        say(f"{parser.prog}: {error}")
        return 1
    print(f"{given.out}: {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
