"""Durable waits of a body: until a time of the store's clock, the end of a run, or an event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

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


T = TypeVar("T")


class Hold(asyncio.Future[T]):
    """What a task awaits that nothing but this moves on; ``when_over`` is called at once.

    A callback of a future is called a turn of the loop later: too late for whoever has to know
    whether a task that awaits it is about to go on.
    """

    when_over: Callable[[], None] | None = None

    def set_result(self, result: T) -> None:
        """Let the task go on."""
        super().set_result(result)
        self._tell()

    def cancel(self, msg: Any = None) -> bool:
        """Give it up, as the cancellation of the task that awaits it does."""
        is_cancelled = super().cancel(msg)
        self._tell()
        return is_cancelled

    def _tell(self) -> None:
        if self.when_over is not None:
            self.when_over()
            self.when_over = None


class DurableWait:
    """One call that waits. While the body stays in memory the future ends it; else the store does.

    Attributes:
        condition: the wake condition, as it is stored when the body is suspended.
        future: done when the wait is over: with the ending of the awaited run, else None.
        branch: the flow of control that is blocked in it.
    """

    __slots__ = ("branch", "condition", "future", "timer")

    def __init__(self, condition: Wait, loop: asyncio.AbstractEventLoop, branch: Branch) -> None:
        self.condition = condition
        self.future: Hold[Ending | None] = Hold(loop=loop)
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
