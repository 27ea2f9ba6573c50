"""The store in one SQLite file; see :class:`SqliteStore`."""

from perdure.stores.sqlite.store import SqliteStore
from perdure.stores.sqlite.urls import from_url

__all__ = ["SqliteStore", "from_url"]
