"""The stores that the suites run on, each as a function that builds more objects on one place.

A third party's store joins by one more entry in `BACKENDS`; nothing else knows which store it is.
"""

from collections.abc import Callable
from pathlib import Path

from perdure.clock import Clock
from perdure.store import Store
from perdure.stores.memory import MemoryData, MemoryStore
from perdure.stores.sqlite import SqliteStore

Build = Callable[[str], Store]
"""Builds one more unopened store object of a namespace, on the same data as the others."""


def memory(path: Path, clock: Clock) -> Build:
    """Stores that share one MemoryData."""
    data = MemoryData(clock)
    return lambda namespace: MemoryStore(namespace, data=data)


def sqlite(path: Path, clock: Clock) -> Build:
    """Stores that open one file."""
    return lambda namespace: SqliteStore(path / "perdure.db", namespace=namespace, clock=clock)


BACKENDS: dict[str, Callable[[Path, Clock], Build]] = {"memory": memory, "sqlite": sqlite}
