"""Statements on many rows at once, prepared once and used for ever.

A statement is sent with 1, 2, 4 … 128 rows, so that any number of rows takes a few statements of
eight texts that SQLite's cache knows. It is not executemany, because that gives the interpreter
lock away at each row: with a busy thread beside it, each time costs up to 5 ms until it is back
(50 rows: 26 ms in three statements, 250 ms in fifty). On a quiet machine it is also quicker:
375 us against 482 us a commit of 50 rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_LARGEST = 128


class Bulk:
    """One statement in eight sizes.

    Args:
        columns: those that a row has a parameter for, with commas between.
        text: builds the statement from the columns and the places of the parameters.
    """

    def __init__(self, columns: str, text: Callable[[str, str], str]) -> None:
        self._width = columns.count(",") + 1
        row = f"({', '.join('?' * self._width)})"
        self._texts = {
            size: text(columns, ", ".join([row] * size)) for size in _sizes(2 * _LARGEST - 1)
        }

    def run(self, connection: sqlite3.Connection, parameters: Sequence[Any]) -> int:
        """Execute it for all rows, whose parameters stand one after the other.

        Returns:
            How many rows it changed.
        """
        if len(parameters) == self._width:  # the common single row: 1 us less
            return connection.execute(self._texts[1], parameters).rowcount
        changed = at = 0
        for size in _sizes(len(parameters) // self._width):
            end = at + size * self._width
            changed += connection.execute(self._texts[size], parameters[at:end]).rowcount
            at = end
        return changed


class Among:
    """A query `… IN (?, ?, …)` over any number of keys, in sizes as above.

    Args:
        text: the query with `{keys}` where the list of keys stands.
    """

    def __init__(self, text: str) -> None:
        self._texts = {
            size: text.replace("{keys}", f"({', '.join('?' * size)})")
            for size in _sizes(2 * _LARGEST - 1)
        }

    def all(
        self, connection: sqlite3.Connection, keys: Sequence[Any], *first: Any
    ) -> list[tuple[Any, ...]]:
        """Return the rows for all keys; ``first`` are the parameters that stand before them."""
        rows: list[tuple[Any, ...]] = []
        at = 0
        for size in _sizes(len(keys)):
            part = keys[at : at + size]
            rows += connection.execute(self._texts[size], (*first, *part)).fetchall()
            at += size
        return rows

    def run(self, connection: sqlite3.Connection, keys: Sequence[Any], *first: Any) -> int:
        """Execute a change for all keys; return how many rows it changed."""
        changed = at = 0
        for size in _sizes(len(keys)):
            part = keys[at : at + size]
            changed += connection.execute(self._texts[size], (*first, *part)).rowcount
            at += size
        return changed


def _sizes(count: int) -> Iterator[int]:
    """Cut a count into powers of two, the largest first."""
    size = _LARGEST
    while count:
        while size > count:
            size //= 2
        yield size
        count -= size
