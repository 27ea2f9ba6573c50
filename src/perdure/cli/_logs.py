"""What a worker writes to standard error: one line a fact, as text or as JSON."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from perdure.cli._output import as_json, escape

_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def log_to_stderr(level: str, *, in_json: bool) -> None:
    """Write what any logger of the process says to standard error, from this level on.

    To be called before the app is imported: a ``basicConfig`` in its module then changes nothing.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if in_json else TextLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())


class TextLines(logging.Formatter):
    """``2026-05-01T08:00:00Z INFO perdure.worker: what happened``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback follows on lines of its own."""
        head = f"{_instant(record)} {record.levelname} {record.name}: "
        lines = [head + escape(record.getMessage())]
        if record.exc_info:
            lines += [escape(line) for line in self.formatException(record.exc_info).splitlines()]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """One JSON object a line; what was passed as ``extra`` stands beside the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        told: dict[str, Any] = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _KNOWN:
                told[name] = value if isinstance(value, str | int | float | None) else repr(value)
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return as_json(told)


def _instant(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
