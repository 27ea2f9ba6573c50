"""What one trial hands back, and how a SQLite file is asked for its settings.

Separate because every trial, ours, a yardstick or a proof, needs it and nothing more:
the process that is measured imports little else.
"""

import gc
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one trial, with what was read back from the file it wrote."""

    value: float
    journal_mode: str
    synchronous: str
    also: dict[str, float | str] = field(default_factory=dict)


def settings(connection: sqlite3.Connection) -> tuple[str, str]:
    """Return the journal mode and the synchronous setting of a live connection."""
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
    return str(journal_mode), SYNCHRONOUS[synchronous]


def live_settings(database: Path) -> tuple[str, str]:
    """Return the settings of every connection that this process holds to a file, weakest too.

    The connections are looked for among all live objects: nothing that the measured library
    says about itself is believed. `full, normal` means that one of them is only NORMAL.
    """
    connections = [
        candidate for candidate in gc.get_objects() if isinstance(candidate, sqlite3.Connection)
    ]
    found = [settings(connection) for connection in connections if _is_to(database, connection)]
    if not found:
        raise LookupError(f"none of {len(connections)} live connections is to the measured file")
    journal_modes, synchronous = zip(*found, strict=True)
    return ", ".join(sorted(set(journal_modes))), ", ".join(sorted(set(synchronous)))


def _is_to(database: Path, connection: sqlite3.Connection) -> bool:
    try:
        (_, _, path), *_ = connection.execute("PRAGMA database_list").fetchall()
    except sqlite3.ProgrammingError:  # closed, or another thread's
        return False
    return bool(path) and database.samefile(path)


def bytes_in_use(database: Path) -> int:
    """Return the bytes of the file's pages that hold something, its log written back first."""
    connection = sqlite3.connect(database)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    finally:
        connection.close()
    return int((pages - free) * size)
