"""Which events the waits of a run would take, and waking it when there is one."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.model.events import FOR_GOOD, EventRecord, may_take
from perdure.model.records import Micros, Status, WaitKind
from perdure.stores.memory.space import Row, Space


def fitting(
    space: Space, row: Row, type: str, key: str | None, due_at: Micros | None
) -> Iterator[EventRecord]:
    """Yield the events that a wait of a run may take, the oldest first."""
    generation = row.run.generation
    for event in sorted(space.events.values(), key=lambda event: (event.at, event.seq)):
        if (
            event.type == type
            and key in {None, event.key}
            and (due_at is None or event.at <= due_at)
            and may_take(row.run, event)
            and not row.taken.keys() & {(generation, event.seq), (FOR_GOOD, event.seq)}
        ):
            yield event


def wake_if_fits(space: Space, row: Row, event: EventRecord, now: Micros) -> None:
    """Wake a waiting run if a wait of it fits an event that was accepted just now."""
    if row.run.status is Status.WAITING and may_take(row.run, event):
        for wait in row.waits:
            is_of_type = wait.kind is WaitKind.EVENT and wait.key == event.type
            if is_of_type and wait.match in {None, event.key}:
                space.wake(row, now)
                return


def wake_if_arrived(space: Space, row: Row, now: Micros) -> None:
    """Wake a waiting run if an event is there already that one of its waits would take."""
    for wait in row.waits:
        if (
            row.run.status is Status.WAITING
            and wait.kind is WaitKind.EVENT
            and next(fitting(space, row, wait.key, wait.match, wait.due_at), None) is not None
        ):
            space.wake(row, now)
            return
