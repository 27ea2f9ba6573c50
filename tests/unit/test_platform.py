"""What differs between operating systems: locks that die with a process, sockets, private files."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import _platform
from perdure._platform import FileLock

posix = pytest.mark.skipif(os.name != "posix", reason="modes and local sockets are POSIX")

HOLD = """
import sys
from pathlib import Path
from perdure._platform import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.acquire(create=True), flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- locks -----------------------------------------------------------------------------------


def test_a_lock_is_taken_once(tmp_path: Path):
    """A second object does not get it, in the same process either, until it is released."""
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert first.acquire(create=True)
    assert not second.acquire(create=True)
    first.release(unlink=False)
    assert second.acquire(create=False)
    second.release(unlink=False)


def test_another_descriptor_closed_does_not_give_the_lock_up(tmp_path: Path):
    """That is what record locks would do, and why it is flock."""
    first, second = FileLock(tmp_path / "l"), FileLock(tmp_path / "l")
    assert first.acquire(create=True)
    (tmp_path / "l").read_bytes()
    assert not second.acquire(create=True)
    first.release(unlink=False)


def test_a_missing_file_is_not_taken(tmp_path: Path):
    """Nobody can tell from it who lives."""
    lock = FileLock(tmp_path / "l")
    assert not lock.acquire(create=False)
    assert not (tmp_path / "l").exists()


def test_a_released_lock_may_take_its_file_along(tmp_path: Path):
    """And releasing twice is harmless."""
    lock = FileLock(tmp_path / "l")
    assert lock.acquire(create=True)
    lock.write("w\n")
    assert (tmp_path / "l").read_text() == "w\n"
    lock.release(unlink=True)
    lock.release(unlink=True)
    assert not (tmp_path / "l").exists()


def test_a_lock_on_a_file_that_was_removed_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Between open and lock its holder may unlink it: then two would hold two files of one name."""
    path = tmp_path / "l"
    path.touch()
    opened = _platform._open_lock_file
    removed: list[Path] = []

    def open_and_lose(path: Path, *, create: bool) -> int | None:
        descriptor = opened(path, create=create)
        if not removed:
            removed.append(path)
            path.unlink()
        return descriptor

    monkeypatch.setattr(_platform, "_open_lock_file", open_and_lose)
    lock = FileLock(path)
    assert not lock.acquire(create=False)
    assert lock.acquire(create=True)
    assert path.exists()
    lock.release(unlink=True)


def test_a_killed_process_gives_its_lock_up(tmp_path: Path):
    """However it dies: the operating system does it."""
    path = tmp_path / "l"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        lock = FileLock(path)
        assert not lock.acquire(create=False)
        holder.kill()
    assert lock.acquire(create=False)
    lock.release(unlink=True)


# --- private files ---------------------------------------------------------------------------


@posix
def test_a_new_file_is_private(tmp_path: Path):
    """Whatever the umask is; one that is there stays as it is."""
    umask = os.umask(0)
    try:
        _platform.make_private_file(tmp_path / "new")
    finally:
        os.umask(umask)
    assert mode(tmp_path / "new") == 0o600
    (tmp_path / "old").write_text("kept")
    (tmp_path / "old").chmod(0o644)
    _platform.make_private_file(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "kept"
    assert mode(tmp_path / "old") == 0o644


@posix
def test_a_directory_must_be_ours(tmp_path: Path):
    """A link or a file at its place, or somebody else's directory, is refused."""
    _platform.make_private_directory(tmp_path / "d")
    _platform.make_private_directory(tmp_path / "d")
    assert mode(tmp_path / "d") == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "d")
    with pytest.raises(PermissionError):
        _platform.make_private_directory(tmp_path / "link")


# --- sockets ---------------------------------------------------------------------------------


@posix
def test_a_datagram_arrives(tmp_path: Path):
    """Sending says whether anybody may have heard."""
    ear = _platform.bind_datagram_socket(tmp_path / "ear")
    sender = _platform.datagram_sender()
    try:
        assert mode(tmp_path / "ear") == 0o600
        assert _platform.send_datagram(sender, tmp_path / "ear")
        assert ear.recv(16) == b"!"
    finally:
        ear.close()
    assert not _platform.send_datagram(sender, tmp_path / "ear"), "nobody is behind it"
    (tmp_path / "ear").unlink()
    assert not _platform.send_datagram(sender, tmp_path / "ear"), "there is no such path"
    sender.close()


@posix
def test_a_full_ear_does_not_block(tmp_path: Path):
    """Whoever has enough to read counts as told."""
    ear = _platform.bind_datagram_socket(tmp_path / "ear")
    sender = _platform.datagram_sender()
    try:
        assert all(_platform.send_datagram(sender, tmp_path / "ear") for _ in range(5_000))
    finally:
        ear.close()
        sender.close()


@posix
def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path):
    """By us, and not by the system, whose limits differ."""
    with pytest.raises(OSError, match="too long"):
        _platform.bind_datagram_socket(tmp_path / ("x" * 120))


@posix
def test_a_socket_that_cannot_be_bound_is_closed(tmp_path: Path):
    """No descriptor is left behind; the warnings filter would say so."""
    with pytest.raises(OSError, match="No such file"):
        _platform.bind_datagram_socket(tmp_path / "missing" / "ear")


def test_closing_an_inherited_descriptor_twice_is_harmless():
    """A child may have closed it by itself."""
    left, right = socket.socketpair()
    right.close()
    descriptor = left.detach()
    _platform.close_descriptor(descriptor)
    _platform.close_descriptor(descriptor)


async def test_stop_signals_are_heard_and_given_back():
    """Each SIGINT and SIGTERM calls back in the loop; afterwards all is as before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    heard: asyncio.Queue[None] = asyncio.Queue()
    with _platform.hear_stop_signals(lambda: heard.put_nowait(None)):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
            await asyncio.wait_for(heard.get(), 10)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
