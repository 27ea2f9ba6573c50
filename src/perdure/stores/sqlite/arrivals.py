"""Which events the waits of a run would take, and waking it when there is one.

Each look is one seek: published events are found by type (and key) from the run's creation on, in
the order of acceptance; those sent to the run by the run. What other runs were sent is not passed.
"""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from typing import Any, Final, TypeAlias

from perdure.model.events import FOR_GOOD
from perdure.model.records import Micros, Status, WaitKind
from perdure.stores.sqlite.codes import WAIT_KIND_CODES
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import Unit

_EVENT: Final = WAIT_KIND_CODES[WaitKind.EVENT]
_EVER: Final = 2**62

_FREE = (
    " AND at >= ? AND at <= ? AND cause IS NOT ? AND NOT EXISTS (SELECT 1 FROM taken"
    f" WHERE taken.run = ? AND taken.generation IN (?, {FOR_GOOD}) AND taken.event = event.seq)"
    " ORDER BY at, seq LIMIT 1"
)

PUBLISHED = (
    "SELECT at, seq, payload FROM event WHERE namespace = ? AND type = ? AND run IS NULL" + _FREE
)

PUBLISHED_WITH_KEY = (
    "SELECT at, seq, payload FROM event WHERE namespace = ? AND type = ? AND key = ?"
    " AND key IS NOT NULL AND run IS NULL" + _FREE
)

SENT = "SELECT at, seq, payload FROM event WHERE run = ? AND type = ?" + _FREE

SENT_WITH_KEY = "SELECT at, seq, payload FROM event WHERE run = ? AND type = ? AND key = ?" + _FREE

CAUSE = "SELECT caused_by FROM run WHERE seq = ?"

WAITS = f"SELECT key, event_key, due_at FROM wait WHERE run = ? AND kind = {_EVENT}"

Found: TypeAlias = tuple[Micros, int, bytes]
"""When an event was accepted, its seq and its payload."""


def first_fitting(
    unit: Unit, row: Row, type: int | None, key: str | None, due_at: Micros | None
) -> Found | None:
    """Return the oldest event that a wait of a run may take; flush before.

    Args:
        unit: the batch.
        row: of the run.
        type: the number of the type's name; None where no event has that type.
        key: what the event must have; None for any or none.
        due_at: until when it must have been accepted; None for now.
    """
    if type is None:
        return None
    run = row.run
    (cause,) = unit.connection.execute(CAUSE, (run.seq,)).fetchone()
    until = _EVER if due_at is None else due_at
    free = (run.created_at, until, cause, run.seq, run.generation)
    keyed: tuple[Any, ...] = () if key is None else (key,)
    published, sent = (PUBLISHED, SENT) if key is None else (PUBLISHED_WITH_KEY, SENT_WITH_KEY)
    found: list[Found] = [
        *unit.connection.execute(published, (unit.namespace, type, *keyed, *free)),
        *unit.connection.execute(sent, (run.seq, type, *keyed, *free)),
    ]
    return min(found, default=None)


def wake_if_arrived(unit: Unit, row: Row) -> None:
    """Wake a waiting run if an event is there already that one of its waits would take.

    Its wait rows must be written.
    """
    if row.run.status is not Status.WAITING or not row.waits:
        return
    for type_, match, due_at in unit.connection.execute(WAITS, (row.run.seq,)).fetchall():
        if first_fitting(unit, row, unit.names.find(type_), match, due_at) is not None:
            unit.wake(row)
            return
