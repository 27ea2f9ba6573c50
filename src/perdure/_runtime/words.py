"""Words that the sentences of why and its like are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from perdure.model.records import WorkerRecord

MOST_NAMED: Final = 3
"""Runs, workers or names that a sentence lists before it only counts."""


def where(worker: WorkerRecord) -> str:
    """Return which worker it is, and where to find it."""
    return f"worker {worker.worker_id} on {worker.host}, pid {worker.pid}"


def count(number: int, what: str) -> str:
    """Return so many of something."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def are(number: int, what: str) -> str:
    """Return that there are so many of something, with the verb."""
    return f"{'is' if number == 1 else 'are'} {count(number, what)}"


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(names[:MOST_NAMED])
    return f"{shown} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else shown
