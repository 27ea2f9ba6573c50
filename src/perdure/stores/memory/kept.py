"""What is kept under a key until a time."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

from perdure.model.keys import FORGOTTEN_AT_ONCE
from perdure.model.records import Micros

K = TypeVar("K", bound=tuple[object, ...])


class Kept(Generic[K]):
    """The run under each key, until a time; a few that are over go with each new one."""

    def __init__(self) -> None:
        self._entries: dict[K, tuple[Micros, str]] = {}
        self._order: list[tuple[Micros, K]] = []

    def get(self, key: K, now: Micros) -> str | None:
        """Return the run under a key, where its time is not over."""
        until, run_id = self._entries.get(key, (now, None))
        return run_id if until > now else None

    def put(self, key: K, run_id: str, until: Micros, now: Micros) -> None:
        """Keep a run under a key, in place of another."""
        self._entries[key] = (until, run_id)
        heapq.heappush(self._order, (until, key))
        for _ in range(FORGOTTEN_AT_ONCE):
            if self._order[0][0] > now:
                return
            over, key = heapq.heappop(self._order)
            if self._entries.get(key, (None, ""))[0] == over:
                del self._entries[key]
            if not self._order:
                return

    def __len__(self) -> int:
        return len(self._entries)
