"""What commands print: escaped, aligned, coloured on a terminal only, or JSON.

A status is never told by colour alone: it has a glyph and its word beside it.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

import click

COLOURS: Final = {
    "running": "blue",
    "waiting": "magenta",
    "completed": "green",
    "ok": "green",
    "failed": "red",
    "error": "red",
    "timeout": "red",
    "pending": "yellow",
}
GLYPHS: Final = {
    "queued": "○",
    "running": "▶",
    "waiting": "◷",
    "paused": "❚❚",
    "completed": "✓",
    "failed": "✕",
    "cancelled": "⊘",
}


def escape(text: str) -> str:
    r"""Return the text with everything that moves a cursor or hides itself made visible.

    Control characters, line ends, bidirectional marks and lone surrogates become ``\n``,
    ``\x1b``, ``\u202e``; printable characters and blanks stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def as_json(value: Any) -> str:
    """Return a value as one line of JSON in ASCII, so that a terminal sees no control character."""
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")


def is_terminal(stream: TextIO) -> bool:
    """Tell whether to colour: a terminal that can, and nobody who said NO_COLOR."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def status_text(status: str) -> str:
    """Return a status with its glyph, where standard output can show it."""
    glyph = GLYPHS.get(status)
    if glyph is None or not _can_print(glyph):
        return status
    return f"{glyph} {status}"


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as aligned columns, two blanks apart; cells are escaped here.

    On a terminal, statuses are coloured as well.
    """
    lines = [list(head), *([escape(cell) for cell in row] for row in rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    coloured = is_terminal(sys.stdout)
    return "\n".join(_line(cells, widths, coloured=coloured) for cells in lines)


def _line(cells: Sequence[str], widths: Sequence[int], *, coloured: bool) -> str:
    padded = [
        _coloured(cell, coloured=coloured) + " " * (length - width(cell))
        for cell, length in zip(cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _coloured(cell: str, *, coloured: bool) -> str:
    colour = COLOURS.get(cell.rpartition(" ")[2]) if coloured else None
    return cell if colour is None else click.style(cell, fg=colour)


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def fields(pairs: Iterable[tuple[str, str | None]]) -> str:
    """Return names and values below each other; what is None is left out."""
    given = [(name, escape(value)) for name, value in pairs if value is not None]
    longest = max((len(name) for name, _ in given), default=0)
    return "\n".join(f"{name:<{longest}}  {value}".rstrip() for name, value in given)
