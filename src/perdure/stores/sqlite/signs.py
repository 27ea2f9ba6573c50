"""Signs of life: a locked file for each worker, in a directory beside the database.

The operating system gives a lock up when its process dies, however it dies; so whoever obtains the
lock of a worker's file knows that the worker is gone. A missing file says nothing. The file stays
while its worker is registered, so that everybody finds the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from perdure._platform import FileLock, make_private_directory
from perdure.errors import StoreBusy, StoreReadOnly

_TRIES = 1_000  # each a few microseconds: somebody may be looking whether the worker is dead


class Signs:
    """The signs of life in one namespace of one database."""

    def __init__(self, path: Path, namespace: str) -> None:
        self._place = Path(f"{path}-workers")
        self._namespace = namespace
        self._held: dict[str, FileLock] = {}
        self._retired: set[str] = set()

    def hold(self, worker_id: str) -> Callable[[], None]:
        """Take the sign of life of a worker of this process; return what releases it."""
        lock = FileLock(self._path(worker_id))
        try:
            make_private_directory(self._place)
            if not any(lock.acquire(create=True) for _ in range(_TRIES)):
                raise StoreBusy(f"another process lives as worker {worker_id!r}: {lock.path}")
            lock.write(f"{worker_id}\n")
        except OSError as error:
            raise StoreReadOnly(f"cannot lock {lock.path}: {error.strerror}") from error
        self._held[worker_id] = lock

        def release() -> None:
            if self._held.get(worker_id) is lock:
                self._release(worker_id)

        return release

    def departed(self, worker_ids: Iterable[str]) -> set[str]:
        """Return those of the workers whose sign was taken once and is held by nobody now."""
        return {worker_id for worker_id in worker_ids if self._is_departed(worker_id)}

    def _is_departed(self, worker_id: str) -> bool:
        lock = FileLock(self._path(worker_id))
        try:
            is_dead = lock.acquire(create=False)
        except OSError:
            return False
        lock.release(unlink=False)
        return is_dead

    def forget(self, worker_id: str) -> None:
        """Remove the file of a worker that is no longer registered, as soon as nobody holds it."""
        if worker_id in self._held:
            self._retired.add(worker_id)
            return
        lock = FileLock(self._path(worker_id))
        try:
            if lock.acquire(create=False):
                lock.release(unlink=True)
        except OSError:
            return  # it can stay: it is empty, and asked for by nobody

    def release_all(self) -> None:
        """Give up every sign of this store."""
        for worker_id in list(self._held):
            self._release(worker_id)

    def _release(self, worker_id: str) -> None:
        self._held.pop(worker_id).release(unlink=worker_id in self._retired)
        self._retired.discard(worker_id)

    def abandon(self) -> None:
        """Close what a forked child inherited: a lock lives as long as any copy of it is open."""
        for lock in self._held.values():
            lock.abandon()
        self._held.clear()

    def _path(self, worker_id: str) -> Path:
        """Hash the names: worker ids may hold any character, and file systems fold case."""
        text = f"{len(self._namespace)}:{self._namespace}{worker_id}"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
        return self._place / f"{digest.hexdigest()}.lock"
