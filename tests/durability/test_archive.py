"""The example apart from kills: what it makes, refuses and skips, and how it stops."""

import gzip
import hashlib
import importlib.util
import json
import os
import pty
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.durability.archiving import EXAMPLE, Archiving, make_tree

FILES = 60
STEPS = 4 * FILES + 2


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of a few files."""
    directory = tmp_path / "source"
    make_tree(directory, FILES, random.Random(1))
    return directory


def half(elapsed: float, recorded: int) -> bool:
    """The moment when half of the steps are recorded."""
    return recorded >= STEPS // 2


def manifest_of(archiving: Archiving) -> dict[str, dict[str, Any]]:
    """Return the lines of the manifest by path."""
    lines = (archiving.out / "manifest.jsonl").read_text("utf-8").splitlines()
    return {entry["path"]: entry for entry in map(json.loads, lines)}


def untouched(archiving: Archiving, source: Path, scratch: Path) -> list[str]:
    """Return the files of which no step has come to its end, after a kill."""
    steps = archiving.record(scratch / "record").steps | set(archiving.executions())
    paths = {file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file()}
    return sorted(paths - {path for _, path in steps})


def test_what_is_made(source: Path, tmp_path: Path):
    """Every file is in the archive with its content, and in the manifest with its digest."""
    archiving = Archiving(tmp_path / "out", source)
    life = archiving.live()
    assert (life.code, life.errors) == (0, f"making the archive of {source}\n")
    files = {
        file.relative_to(source).as_posix(): file.read_bytes()
        for file in source.rglob("*")
        if file.is_file()
    }
    manifest = manifest_of(archiving)
    assert list(manifest) == sorted(files)
    for path, content in files.items():
        compressed = (archiving.out / "files" / path).read_bytes()
        assert gzip.decompress(compressed) == content
        assert manifest[path] == {
            "path": path,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "compressed": len(compressed),
            "skipped": "",
        }


def test_again_when_complete(source: Path, tmp_path: Path):
    """The same command again says the same and does nothing."""
    archiving = Archiving(tmp_path / "out", source)
    first, again = archiving.live(), archiving.live()
    assert (again.code, again.output, again.errors) == (0, first.output, "")
    assert again.effects == []


def test_stop_in_order(source: Path, tmp_path: Path):
    """Ctrl-C lets what is executing finish, so that nothing at all is repeated."""
    archiving = Archiving(tmp_path / "out", source)
    stopped = archiving.live(half, signal.SIGINT)
    assert stopped.code == 130
    assert stopped.errors.endswith("\nstopped; the same command goes on from here\n")
    assert archiving.record(tmp_path / "record").held == set()
    assert archiving.live().code == 0
    executions = archiving.executions()
    assert len(executions) == STEPS
    assert set(executions.values()) == {1}


def test_unreadable_files_are_skipped(source: Path, tmp_path: Path):
    """What cannot be read is in the manifest with the reason; links are left out, not followed."""
    os.mkfifo(source / "pipe")
    (source / "link").symlink_to(source / "0", target_is_directory=True)
    (source / "broken").symlink_to("nowhere")
    (source / os.fsdecode(b"caf\xe9")).touch()
    archiving = Archiving(tmp_path / "out", source)
    life = archiving.live()
    assert life.code == 0
    assert f"{FILES + 2} files" in life.output
    assert "; 2 skipped\n" in life.output
    skipped = {path: e["skipped"] for path, e in manifest_of(archiving).items() if e["skipped"]}
    assert skipped == {
        "pipe": "it is not a regular file",
        "caf\\xe9": "No such file or directory",
    }


def test_a_file_that_vanishes_is_skipped(source: Path, tmp_path: Path):
    """A file that is gone when its turn comes does not keep the others from being archived."""
    archiving = Archiving(tmp_path / "out", source)
    assert archiving.live(half).code == -signal.SIGKILL
    vanished, *_ = untouched(archiving, source, tmp_path)
    (source / vanished).unlink()
    assert archiving.live().code == 0
    manifest = manifest_of(archiving)
    assert len(manifest) == FILES
    assert [path for path, entry in manifest.items() if entry["skipped"]] == [vanished]
    assert manifest[vanished]["skipped"] == "No such file or directory"


def test_a_file_that_changes_is_skipped(tmp_path: Path):
    """A file that is compressed with other content than was read is not in the archive."""
    spec = importlib.util.spec_from_file_location("archive_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    file, out = tmp_path / "file", tmp_path / "out"
    file.write_text("before")
    archive = example.Archive(tmp_path, out)
    entry = archive.read("file")
    file.write_text("behind")
    archive.compress("file")
    with pytest.raises(example.Unreadable, match="it changed while it was archived"):
        archive.verify(entry)
    archive.record(example.Entry("file", skipped="it changed"))
    assert not (out / "files" / "file").exists()


def test_a_failed_archive_is_tried_again(source: Path, tmp_path: Path):
    """Once what stood in the way is gone, the same command makes the archive after all."""
    archiving = Archiving(tmp_path / "out", source)
    assert archiving.live(half).code == -signal.SIGKILL
    in_the_way = [archiving.out / "files" / path for path in untouched(archiving, source, tmp_path)]
    for target in in_the_way[:2]:
        target.mkdir(parents=True)
    failed = archiving.live()
    assert failed.code == 1
    assert "IsADirectoryError" in failed.errors
    assert "Traceback" not in failed.errors
    for target in in_the_way[:2]:
        target.rmdir()
    assert archiving.live().code == 0
    assert not [path for path, entry in manifest_of(archiving).items() if entry["skipped"]]


def test_wrong_directories(source: Path, tmp_path: Path):
    """A missing directory, another archive and something else in its place are told apart."""
    out = tmp_path / "out"
    assert Archiving(out, source).live().code == 0
    missing = Archiving(tmp_path / "other", tmp_path / "missing").live()
    assert missing.code == 2
    assert f"{tmp_path / 'missing'} is not a directory that can be read" in missing.errors
    assert not (tmp_path / "other").exists()
    another = Archiving(out, tmp_path).live()
    assert another.code == 2
    assert f"{out} holds the archive of another directory" in another.errors
    strange = Archiving(source, out).live()
    assert strange.code == 2
    assert f"{source} holds something else" in strange.errors


def test_bar_on_a_terminal(source: Path, tmp_path: Path):
    """On a terminal a bar shows how many files are done."""
    archiving = Archiving(tmp_path / "out", source)
    terminal, end = pty.openpty()
    with subprocess.Popen(archiving.command, stderr=end, stdout=subprocess.DEVNULL) as process:
        os.close(end)
        drawn = b""
        try:
            while chunk := os.read(terminal, 4096):
                drawn += chunk
        except OSError:  # Linux says so when the other end is closed
            pass
        finally:
            os.close(terminal)
    assert process.returncode == 0
    assert drawn.endswith(f"\r[{'#' * 50}] {FILES} of {FILES}\r\n".encode())
