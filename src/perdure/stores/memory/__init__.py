"""The store in memory; see :class:`MemoryStore`."""

from perdure.stores.memory.store import MemoryData, MemoryStore, from_url

__all__ = ["MemoryData", "MemoryStore", "from_url"]
