"""Queues: their limits, their pauses, and what is kept of them."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from perdure.model.queues import (
    Limits,
    PauseQueue,
    PutQueue,
    QueueKept,
    QueueRecord,
    ResumeQueue,
)
from perdure.model.records import Micros
from perdure.model.transitions import Outcome
from perdure.stores.sqlite import gates
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.rows import SqlRow
from perdure.stores.sqlite.unit import Unit

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Limits)

QUEUE: Final = "name, limits, paused_at, next_start_at"

ALL = f"SELECT {QUEUE} FROM queue WHERE namespace = ?"  # noqa: S608

STORE = (
    f"INSERT INTO queue (namespace, {QUEUE}) VALUES (?, ?, ?, ?, ?)"  # noqa: S608
    " ON CONFLICT DO UPDATE SET limits = excluded.limits, paused_at = excluded.paused_at"
)

STARTED = "UPDATE queue SET next_start_at = ? WHERE namespace = ? AND name = ?"

# Those that were claimed while nothing was kept of their queue hold slots from now on.
TAKE_SLOTS = "UPDATE run SET slot = 1 WHERE status = 1 AND namespace = ? AND queue = ?"


def put(unit: Unit, transition: PutQueue) -> Outcome:
    """Set the limits of a queue."""
    record = replace(_record(unit, transition.queue), limits=transition.limits)
    return _keep(unit, record)


def pause(unit: Unit, transition: PauseQueue) -> Outcome:
    """Claim nothing of a queue until it is resumed."""
    record = _record(unit, transition.queue)
    if record.paused_at is None:
        record = replace(record, paused_at=unit.now)
    return _keep(unit, record)


def resume(unit: Unit, transition: ResumeQueue) -> Outcome:
    """Claim of a queue again."""
    return _keep(unit, replace(_record(unit, transition.queue), paused_at=None))


def kept(unit: Unit) -> dict[int, QueueRecord]:
    """Return the queues of which something is kept, by number."""
    found = unit.connection.execute(ALL, (unit.namespace,)).fetchall()
    return {row[0]: queue_of(row, unit.names) for row in found}


def queue_of(row: SqlRow, names: Names) -> QueueRecord:
    """Read the columns QUEUE."""
    name, limits, paused_at, next_start_at = row
    return QueueRecord(names.texts[name], _decoder.decode(limits), paused_at, next_start_at)


def started(unit: Unit, queue: int, due_at: Micros) -> None:
    """Keep something of the rate of a queue."""
    unit.connection.execute(STARTED, (due_at, unit.namespace, queue))


def _record(unit: Unit, queue: str) -> QueueRecord:
    return kept(unit).get(unit.names.number(queue)) or QueueRecord(queue)


def _keep(unit: Unit, record: QueueRecord) -> QueueKept:
    flush(unit)
    number = unit.names.number(record.queue)
    before = kept(unit).get(number)
    if record != before:
        limits = _encoder.encode(record.limits)
        row = (number, limits, record.paused_at, record.next_start_at)
        unit.connection.execute(STORE, (unit.namespace, *row))
        if before is None:
            unit.connection.execute(TAKE_SLOTS, (unit.namespace, number))
            unit.forget_held()
        unit.connection.execute(gates.MARK_ALL, (unit.now, unit.namespace, number))
        unit.hint = True
    return QueueKept(record)
