"""A ledger of effects: what the steps of a test really did, however often their process died."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class Effects:
    """An append-only list of texts; in memory, or in a file that survives ``kill -9``.

    Declare one beside the workflow and note in its steps what they do to the world. Killed in a
    process of its own, a workflow needs a ledger that outlives it: ``crash_everywhere`` then gives
    it a file.

    Args:
        path: the file; in memory where left out.

    Example::

        ledger = Effects()

        @app.step
        async def charge(order_id: str) -> str:
            ledger.note(f"charge {order_id}")
            return "paid"
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._lock = threading.Lock()
        self._noted: list[str] = []
        self._path = None if path is None else Path(path)

    @property
    def path(self) -> Path | None:
        """The file; None for memory."""
        return self._path

    def keep_in(self, path: str | os.PathLike[str] | None) -> None:
        """Note in this file from now on, or in memory again for None."""
        self._path = None if path is None else Path(path)

    def note(self, effect: str) -> None:
        """Add one effect; when this returns, it survives the death of the process."""
        if self._path is None:
            with self._lock:
                self._noted.append(effect)
            return
        line = effect.encode("unicode_escape") + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    append = note
    """The same, so that a list can be replaced by a ledger."""

    def read(self) -> list[str]:
        """Return everything noted so far, oldest first."""
        if self._path is None:
            with self._lock:
                return list(self._noted)
        if not self._path.exists():
            return []
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [line.decode("unicode_escape") for line in lines]

    def __repr__(self) -> str:
        return f"<{len(self.read())} effects>"
