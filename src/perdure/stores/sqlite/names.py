"""Texts that repeat, as numbers: namespaces, definitions, versions, queues, workers, call sites.

Names are only ever added, so that what one process has learned stays true while others write.
"""

from __future__ import annotations

import sqlite3

from perdure.errors import StoreCorrupt

EMPTY = 0
"""The empty text is no row."""

_MOST = 20_000  # of each direction kept in memory; call sites and workers grow with deployments


class Names:
    """The `name` table through one connection, with what was seen before kept in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._new: list[str] = []
        self.numbers: dict[str, int] = {}
        self.texts: _Texts = _Texts(connection)
        self._forget()

    def find(self, text: str) -> int | None:
        """Return the number of a text, or None where it has none."""
        number = self.numbers.get(text)
        if number is None:
            row = self._connection.execute("SELECT id FROM name WHERE text = ?", (text,)).fetchone()
            if row is None:
                return None
            number = self.numbers[text] = row[0]
        return number

    def number(self, text: str) -> int:
        """Return the number of a text; it gets one where it has none."""
        number = self.numbers.get(text)
        if number is None:
            number = self.find(text)
        if number is None:
            cursor = self._connection.execute("INSERT INTO name (text) VALUES (?)", (text,))
            number = cursor.lastrowid
            assert number is not None
            self._new.append(text)
            self.numbers[text] = number
        return number

    def committed(self) -> None:
        """The transaction that added names is durable."""
        if self._new:
            self._new.clear()
        if len(self.numbers) > _MOST or len(self.texts) > _MOST:
            self._forget()

    def rolled_back(self) -> None:
        """The names that were added are gone again."""
        for text in self._new:
            del self.numbers[text]
        self._new.clear()
        self.texts.clear()
        self.texts[EMPTY] = ""

    def _forget(self) -> None:
        self.numbers.clear()
        self.numbers[""] = EMPTY
        self.texts.clear()
        self.texts[EMPTY] = ""


class _Texts(dict[int, str]):
    """The text of each number, read when it is first asked for."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, number: int) -> str:
        row = self._connection.execute("SELECT text FROM name WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise StoreCorrupt(f"the database has lost its name {number}: restore a backup")
        text = self[number] = str(row[0])
        return text
