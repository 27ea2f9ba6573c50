"""Where a worker's log goes: standard error, for the library and for what it executes."""

from __future__ import annotations

import logging
import sys

from perdure.telemetry import JsonFormatter, TextFormatter


def log_to_stderr(level: str, *, in_json: bool) -> None:
    """Write what any logger of the process says to standard error, from this level on.

    To be called before the app is imported: a ``basicConfig`` in its module then changes nothing.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if in_json else TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
