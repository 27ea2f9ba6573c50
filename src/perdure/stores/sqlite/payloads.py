"""Large payloads of runs, kept beside their rows.

SQLite rewrites a whole row when one column changes, so an input of 100 KiB inside it would be
written again by every claim and every settle. What is longer than LONGEST stands in the table
`payload`, and the row's column holds its length.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from perdure.errors import StoreCorrupt
from perdure.stores.sqlite.bulk import Among

LONGEST = 1024
"""Bytes of a payload that stays in its row; a page has 4096."""

_COLUMNS = 8  # numbers set aside for one run
_USED = 5

DELETE: Final = Among("DELETE FROM payload WHERE id IN {keys}")


class Payloads:
    """The `payload` table through one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def write(self, data: bytes | None, seq: int, column: int) -> bytes | int | None:
        """Return what the run's column holds for these data; long ones are put beside it."""
        if data is None or len(data) <= LONGEST:
            return data
        self._connection.execute(
            "INSERT INTO payload (id, data) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET data = excluded.data WHERE data <> excluded.data",
            (seq * _COLUMNS + column, data),
        )
        return len(data)

    def rewrite(self, data: bytes | None, seq: int, column: int) -> bytes | int | None:
        """Return what a column holds for these data that may have held long ones before."""
        if data is None or len(data) <= LONGEST:
            number = seq * _COLUMNS + column
            self._connection.execute("DELETE FROM payload WHERE id = ?", (number,))
        return self.write(data, seq, column)

    def delete(self, runs: Sequence[int]) -> None:
        """Delete what stands here of runs, named by seq."""
        numbers = [seq * _COLUMNS + column for seq in runs for column in range(_USED)]
        DELETE.run(self._connection, numbers)

    def read(self, stored: bytes | int | None, seq: int, column: int) -> bytes | None:
        """Return the data of what a run's column holds."""
        if not isinstance(stored, int):
            return stored
        number = seq * _COLUMNS + column
        row = self._connection.execute(
            "SELECT data FROM payload WHERE id = ?", (number,)
        ).fetchone()
        if row is None:
            raise StoreCorrupt(f"the database has lost its payload {number}: restore a backup")
        return bytes(row[0])
