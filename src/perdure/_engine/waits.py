"""Durable waits of a body: until a time of the store's clock, the end of a run, or an event."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.model.records import Ending, Micros, Wait, WaitKind

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
