"""Durable waits of a body: until a time of the store's clock, the end of a run, or an event."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from perdure.model.records import (
    TERMINAL,
    Ending,
    Micros,
    ParentClose,
    RunQuery,
    Status,
    Wait,
    WaitKind,
)
from perdure.store import Store

if TYPE_CHECKING:
    from perdure._engine.scope import Branch


class DurableWait:
    """One call that waits. While the body stays in memory the future ends it; else the store does.

    Attributes:
        condition: the wake condition, as it is stored when the body is suspended.
        future: done when the wait is over: with the ending of the awaited run, else None.
        branch: the flow of control that is blocked in it.
    """

    __slots__ = ("branch", "condition", "future", "timer")

    def __init__(
        self, condition: Wait, future: asyncio.Future[Ending | None], branch: Branch
    ) -> None:
        self.condition = condition
        self.future = future
        self.branch = branch
        self.timer: asyncio.TimerHandle | None = None


def until(kind: WaitKind, path: str, due_at: Micros, join: int) -> Wait:
    """Return the condition of a call that waits for a time: its next attempt, or a sleep's end."""
    return Wait(kind, path, due_at, join)


def event_of(type: str, key: str | None, due_at: Micros | None, join: int) -> Wait:
    """Return the condition that an event has come, or that the time for it is over."""
    return Wait(WaitKind.EVENT, type, due_at, join, key)


def end_of(run_id: str, join: int) -> Wait:
    """Return the condition that another run has ended."""
    return Wait(WaitKind.CHILD, run_id, None, join)


_LIVE: Final = tuple(status for status in Status if status not in TERMINAL)
_PAGE: Final = 1_000


async def awaited_children(store: Store, run_id: str) -> list[str]:
    """Return the children of a run that live, and without whose end it is not over."""
    found: list[str] = []
    query = RunQuery(statuses=_LIVE, parent_id=run_id, limit=_PAGE)
    while True:
        page = await store.list_runs(query)
        found += [run.run_id for run in page if run.on_parent_close is ParentClose.WAIT]
        if len(page) < _PAGE:
            return found
        query = msgspec.structs.replace(query, before=page[-1].seq)
