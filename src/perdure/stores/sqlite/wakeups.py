"""Hints between processes: a datagram socket for each listener, in a directory beside the file.

A hint is one byte without meaning; losing one is harmless. Listeners of this process are called
directly. Where there are no such sockets, a listener asks twice a second whether another
connection has committed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure._platform import (
    bind_datagram_socket,
    close_descriptor,
    datagram_sender,
    has_local_sockets,
    make_private_directory,
    send_datagram,
)

_POLL: Final = 0.5  # seconds
_LONGEST_PLACE: Final = 85  # bytes of the directory's path, so that a socket's name fits behind it
_MEMORY: Final = 0.1  # seconds for which the directory is not read again: it costs 9 us


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    bell: Bell
    loop: asyncio.AbstractEventLoop
    callback: Callable[[], None]

    def call(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self.callback)
        except RuntimeError:  # its loop was closed just now: a hint may be lost
            if not self.loop.is_closed():
                raise


class _Process:
    """What this process knows of its own listeners."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.listeners: list[_Listener] = []
        self.count = 0
        self.mark = os.urandom(4).hex()  # begins the names of this process's sockets

    def forked(self) -> None:
        """Be a process of its own."""
        self.__init__()  # type: ignore[misc]  # the lock may be held by a thread that is not here


PROCESS: Final = _Process()


class Bell:
    """Hints about one file and namespace, to and from one store.

    Args:
        path: of the database.
        namespace: listeners of this process hear of their own namespace only.
        poll: returns a number that changes when another connection has committed.
    """

    def __init__(self, path: Path, namespace: str, poll: Callable[[], int]) -> None:
        self.file = (os.path.realpath(path), namespace)
        self._place = _place(path)
        self._poll = poll
        self._lock = threading.Lock()  # the loop's thread rings, and the writer's
        self._sender: socket.socket | None = None
        self._peers: list[Path] = []
        self._look_again_at = 0.0
        self._stops: list[Callable[[], None]] = []
        self._sockets: list[socket.socket] = []

    # --- ringing -----------------------------------------------------------------------------

    def ring(self) -> None:
        """Tell everybody else; never waits. May be called in any thread."""
        for listener in PROCESS.listeners:
            if listener.bell is not self and listener.bell.file == self.file:
                listener.call()
        if not self._peers and time.monotonic() < self._look_again_at:
            return  # nobody was there a moment ago
        with self._lock:
            for peer in self._other_processes():
                if self._sender is None:
                    self._sender = datagram_sender()
                if not send_datagram(self._sender, peer):
                    peer.unlink(missing_ok=True)  # nobody is behind it: its process was killed

    def _other_processes(self) -> list[Path]:
        """Return the sockets of other processes; the directory is read ten times a second."""
        now = time.monotonic()
        if now >= self._look_again_at:
            self._look_again_at = now + _MEMORY
            try:
                found = list(self._place.iterdir())
            except OSError:  # nobody has ever listened
                found = []
            self._peers = [path for path in found if not path.name.startswith(PROCESS.mark)]
        return self._peers

    # --- listening ---------------------------------------------------------------------------

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in the running loop at hints; return what ends it."""
        loop = asyncio.get_running_loop()
        listener = _Listener(self, loop, callback)
        end = self._listen_to_processes(loop, callback)
        with PROCESS.lock:
            PROCESS.listeners = [*PROCESS.listeners, listener]

        def stop() -> None:
            with PROCESS.lock:
                PROCESS.listeners = [one for one in PROCESS.listeners if one is not listener]
            if stop in self._stops:
                self._stops.remove(stop)
                end()

        self._stops.append(stop)
        return stop

    def _listen_to_processes(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]
    ) -> Callable[[], None]:
        if not has_local_sockets():
            return self._listen_by_polling(loop, callback)
        with PROCESS.lock:
            PROCESS.count += 1
            name = f"{PROCESS.mark}-{PROCESS.count}"
        try:
            make_private_directory(self._place)
            ear = bind_datagram_socket(self._place / name)
            loop.add_reader(ear, _hear, ear, callback)
        except (OSError, NotImplementedError):  # a file system or a loop without sockets
            return self._listen_by_polling(loop, callback)
        self._sockets.append(ear)

        def end() -> None:
            if not loop.is_closed():
                loop.remove_reader(ear)
            self._sockets.remove(ear)
            (self._place / name).unlink(missing_ok=True)
            ear.close()

        return end

    def _listen_by_polling(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]
    ) -> Callable[[], None]:
        last = self._poll()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal last, timer
            timer = loop.call_later(_POLL, look)
            if (version := self._poll()) != last:
                last = version
                callback()

        timer = loop.call_later(_POLL, look)
        return lambda: timer.cancel()  # noqa: PLW0108  # the timer of then, not of now

    def close(self) -> None:
        """End all listening of this store."""
        for stop in list(self._stops):
            stop()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def abandon(self) -> None:
        """Close what a forked child inherited; the sockets' names stay its parent's."""
        self._lock = threading.Lock()  # a thread that is not here may hold the old one
        for inherited in (*self._sockets, self._sender):
            if inherited is not None:
                close_descriptor(inherited.detach())
        self._sockets.clear()
        self._stops.clear()
        self._sender = None


def _hear(ear: socket.socket, callback: Callable[[], None]) -> None:
    """Take all hints that have come, and call back once."""
    try:
        while ear.recv(16):
            pass
    except BlockingIOError:
        pass
    callback()


def _place(path: Path) -> Path:
    """Return the directory of the sockets: beside the file, or elsewhere if that is too long."""
    beside = Path(f"{os.path.realpath(path)}-wake")
    if len(os.fsencode(beside)) <= _LONGEST_PLACE:
        return beside
    digest = hashlib.blake2b(os.fsencode(beside), digest_size=10).hexdigest()
    return Path(tempfile.gettempdir()) / f"perdure-{digest}"
