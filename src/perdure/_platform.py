"""What differs between operating systems: file locks, local sockets, private files, forks, signals.

The only module that names things which Windows does not have. Everything here is a small function
with one meaning on every system; where a system cannot do it, the function says so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "FileLock",
    "bind_datagram_socket",
    "close_descriptor",
    "datagram_sender",
    "has_local_sockets",
    "hear_stop_signals",
    "kill_this_process",
    "make_private_directory",
    "make_private_file",
    "on_fork",
    "send_datagram",
]

_LONGEST_SOCKET_PATH = 100  # bytes; Linux takes 107, macOS and the BSDs 103


def make_private_file(path: Path) -> None:
    """Create an empty file that only this user may read, unless there is one already.

    One that is there is not opened: closing it again would give up locks of this process on it.

    Raises:
        OSError: it cannot be created.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        return


def make_private_directory(path: Path) -> None:
    """Create a directory that only this user may enter, unless there is one already.

    Raises:
        OSError: it cannot be created, or is somebody else's.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32":
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{path} is not a directory of this user")


def on_fork(in_child: Callable[[], None]) -> None:
    """Have this called in every child process that is made by fork; where there is no fork, never.

    It holds for the rest of the process.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)


def kill_this_process() -> NoReturn:
    """End this process as ``kill -9`` does: nothing of it is finished, flushed or told."""
    # On Windows os.kill is TerminateProcess, whatever the signal.
    os.kill(os.getpid(), signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    raise AssertionError("a killed process goes on")


def close_descriptor(descriptor: int) -> None:
    """Close a descriptor that a child inherited; it may be closed already."""
    try:
        os.close(descriptor)
    except OSError:
        return


# --- signals ---------------------------------------------------------------------------------


@contextmanager
def hear_stop_signals(callback: Callable[[], None]) -> Generator[None, None, None]:
    """Call back in the running loop at each SIGINT and SIGTERM, instead of ending the process.

    Ctrl-C is one everywhere; on Windows nothing sends a SIGTERM from outside. To be used in the
    main thread.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    if sys.platform == "win32":  # loops there have no add_signal_handler
        for number in signals:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))
    else:
        for number in signals:
            loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number, handler in before.items():
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, handler)


# --- locks -----------------------------------------------------------------------------------


class FileLock:
    """An exclusive lock on a file, which the operating system gives up when its process dies.

    The lock belongs to this object, not to the process: another object on the same file does not
    get it, not even in the same process. It is flock, not fcntl's record locks, because those are
    lost as soon as any descriptor of the file is closed in the process.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, *, create: bool) -> bool:
        """Take the lock if nobody has it; return whether it was taken.

        Args:
            create: make the file where there is none; otherwise a missing file is not taken.

        Raises:
            OSError: the file cannot be opened.
        """
        while True:
            descriptor = _open_lock_file(self.path, create=create)
            if descriptor is None:
                return False
            if not _try_lock(descriptor):
                os.close(descriptor)
                return False
            if _is_same_file(descriptor, self.path):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # its holder unlinked it before we had it: look again

    def write(self, text: str) -> None:
        """Leave a note in the locked file, for people."""
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))

    def release(self, *, unlink: bool) -> None:
        """Give the lock up; ``unlink`` removes the file first, while nobody else can hold it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if unlink and sys.platform != "win32":
            self.path.unlink(missing_ok=True)
        os.close(descriptor)
        if unlink and sys.platform == "win32":
            _unlink_if_unused(self.path)  # an open file cannot be removed there

    def abandon(self) -> None:
        """Close the descriptor that a forked child inherited: the lock stays its parent's."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            close_descriptor(descriptor)


def _open_lock_file(path: Path, *, create: bool) -> int | None:
    flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | (os.O_CREAT if create else 0)
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        if create:
            raise
        return None


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _unlink_if_unused(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        return


# --- local sockets ---------------------------------------------------------------------------


def has_local_sockets() -> bool:
    """Return whether datagrams can be sent to a path of the file system."""
    return sys.platform != "win32" and hasattr(socket, "AF_UNIX")


def bind_datagram_socket(path: Path) -> socket.socket:
    """Return a non-blocking datagram socket bound to this path, for this user only.

    Raises:
        OSError: there are no such sockets here, the path is taken or too long for one.
    """
    if sys.platform == "win32":
        raise OSError("this system has no datagram sockets with a path")
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise OSError(f"{path} is too long for a socket")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.bind(os.fspath(path))
        path.chmod(0o600)
    except OSError:
        bound.close()
        raise
    return bound


def send_datagram(sender: socket.socket, path: Path) -> bool:
    """Send one byte without waiting. Return False where certainly nobody listens at the path.

    A full buffer counts as sent: the listener has enough to read.
    """
    try:
        sender.sendto(b"!", os.fspath(path))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True
    return True


def datagram_sender() -> socket.socket:
    """Return an unbound socket for :func:`send_datagram`."""
    if sys.platform == "win32":
        raise OSError("this system has no datagram sockets with a path")
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    return sender
