"""What an app tells of its store, typed; pyright and mypy, both strict, prove it."""

from __future__ import annotations

from typing import Any, assert_type

from perdure import App, Run, Status
from perdure.handle import WorkerEntry
from perdure.model.records import Count

app = App("memory://")


async def looks() -> None:
    """Look at runs, counts and workers; the last two lines are mistakes."""
    page = assert_type(await app.runs(status=("failed", Status.PAUSED), name="sum"), list[Run[Any]])
    assert_type(await app.runs(parent="r", before=page[-1], limit=5), list[Run[Any]])
    assert_type(await app.counts(by_definition=True), list[Count])
    assert_type(await app.workers(), list[WorkerEntry])
    await app.runs(state="failed")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await app.runs(since="2h")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_the_looks_are_there() -> None:
    """What is used above exists; the checkers do the rest (`dev.py check`)."""
    assert looks.__name__ == "looks"
