"""Transitions of workers: register, heartbeat, retire, rescue, give back."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from copy import copy
from functools import lru_cache
from typing import Any

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind, how_left
from perdure.model.records import TERMINAL, RunRecord
from perdure.model.transitions import (
    Beaten,
    GiveBack,
    Heartbeat,
    Outcome,
    RegisterWorker,
    Rescued,
    RescueWorker,
    RetireWorker,
)
from perdure.model.versions import Versions
from perdure.stores.sqlite import rows
from perdure.stores.sqlite.codes import (
    CONTROLS,
    pack_mapping,
    pack_pairs,
    pack_texts,
    unpack_id,
    unpack_mapping,
    unpack_pairs,
    unpack_texts,
)
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.leader import vacate
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import Unit

BEAT = "SELECT beat FROM worker WHERE namespace = ? AND id = ?"

INSERT = (
    f"INSERT INTO worker (namespace, {rows.WORKER}) VALUES ({', '.join('?' * 15)})"
    " ON CONFLICT DO NOTHING"
)

RAISE_BEAT = "UPDATE worker SET beat = beat + 1, beat_at = ? WHERE namespace = ? AND id = ?"

DELETE = "DELETE FROM worker WHERE namespace = ? AND id = ?"

CLEANS = "SELECT cleans FROM worker WHERE namespace = ? AND id = ?"

VERSIONS = "SELECT definitions, earlier, pinning FROM worker WHERE namespace = ? AND id = ?"

HELD = f"SELECT {rows.HOT} FROM run WHERE status = 1 AND namespace = ? AND worker = ? ORDER BY seq"

COUNT_HELD = "SELECT count(*) FROM run WHERE status = 1 AND namespace = ? AND worker = ?"

CONTROLLED = (
    "SELECT id, control FROM run WHERE status = 1 AND control <> 0"
    " AND namespace = ? AND worker = ? ORDER BY seq"
)

PROGRESSED = "SELECT 1 FROM checkpoint WHERE run = ? AND epoch = ? LIMIT 1"


def register(unit: Unit, transition: RegisterWorker) -> Outcome:
    """Announce a worker."""
    flush(unit)
    worker: rows.SqlRow = (
        unit.namespace,
        unit.names.number(transition.worker_id),
        transition.host,
        transition.pid,
        pack_mapping(transition.definitions),
        pack_texts(transition.queues),
        transition.slots,
        unit.now,
        unit.now,
        0,
        transition.lease,
        transition.heartbeat,
        pack_texts(transition.cleans),
        pack_pairs(transition.earlier),
        pack_texts(transition.pinning),
    )
    unit.connection.execute(INSERT, worker)
    return _beaten(unit, transition.worker_id)


def heartbeat(unit: Unit, transition: Heartbeat) -> Outcome:
    """Raise a worker's beat."""
    flush(unit)
    number = unit.names.find(transition.worker_id)
    if number is not None:
        unit.connection.execute(RAISE_BEAT, (unit.now, unit.namespace, number))
    return _beaten(unit, transition.worker_id)


def retire(unit: Unit, transition: RetireWorker) -> Outcome:
    """Remove a worker that stops in order."""
    held = _held(unit, transition.worker_id)
    if held is None:
        return Rescued()
    _take_back(unit, transition.worker_id, held)
    _delete(unit, transition.worker_id)
    return _rescued(held)


def give_back(unit: Unit, transition: GiveBack) -> Outcome:
    """Take from a worker what it does not know of."""
    known = set(transition.held)
    held = _held(unit, transition.worker_id) or []
    unknown = [row for row in held if (row.run.run_id, row.run.epoch) not in known]
    _take_back(unit, transition.worker_id, unknown)
    return _rescued(unknown)


def rescue(unit: Unit, transition: RescueWorker) -> Outcome:
    """Give back what a dead worker held, and remove it."""
    held = _held(unit, transition.worker_id)
    if held is None or transition.beat not in {None, _beat(unit, transition.worker_id)}:
        return Rescued()
    cleans = _cleans(unit, transition.worker_id)
    for row in held:
        run = row.run
        before = copy(run)
        unit.add_attempt(row, lifecycle.attempt_row(run, "crashed", transition.error, unit.now))
        progress = unit.connection.execute(PROGRESSED, (run.seq, run.epoch)).fetchone()
        lifecycle.rescue(
            run,
            transition,
            progressed=progress is not None,
            cleans=run.definition in cleans,
            now=unit.now,
        )
        _keep(unit, row, before, ChangeKind.RESCUED)
    _delete(unit, transition.worker_id)
    return _rescued(held)


def _beat(unit: Unit, worker_id: str) -> int | None:
    """Return the beat of a registered worker, None of any other."""
    number = unit.names.find(worker_id)
    if number is None:
        return None
    row = unit.connection.execute(BEAT, (unit.namespace, number)).fetchone()
    return None if row is None else int(row[0])


def versions_of(unit: Unit, worker_id: str) -> Versions | None:
    """Return what a worker registered of its definitions; None where it is not registered."""
    number = unit.names.find(worker_id)
    if number is None:
        return None
    packed = unit.connection.execute(VERSIONS, (unit.namespace, number)).fetchone()
    return None if packed is None else _unpacked(*packed)


@lru_cache(maxsize=64)  # each claim asks: 5 us for ten definitions
def _unpacked(definitions: str, earlier: str | None, pinning: str | None) -> Versions:
    return Versions(unpack_mapping(definitions), unpack_pairs(earlier), unpack_texts(pinning))


def _beaten(unit: Unit, worker_id: str) -> Beaten:
    beat = _beat(unit, worker_id)
    if beat is None:
        return Beaten(known=False, beat=0, held=0)
    whose = (unit.namespace, unit.names.number(worker_id))
    (held,) = unit.connection.execute(COUNT_HELD, whose).fetchone()
    controlled: list[tuple[Any, int]] = unit.connection.execute(CONTROLLED, whose).fetchall()
    controls = tuple((unpack_id(run_id), CONTROLS[control]) for run_id, control in controlled)
    return Beaten(True, beat, held, controls)


def _held(unit: Unit, worker_id: str) -> list[Row] | None:
    """Return what a registered worker holds, in order; None where it is not registered."""
    flush(unit)
    if _beat(unit, worker_id) is None:
        return None
    whose = (unit.namespace, unit.names.number(worker_id))
    return unit.adopt(unit.connection.execute(HELD, whose).fetchall())


def _cleans(unit: Unit, worker_id: str) -> tuple[str, ...]:
    """Return what a registered worker told of its definitions."""
    whose = (unit.namespace, unit.names.number(worker_id))
    (packed,) = unit.connection.execute(CLEANS, whose).fetchone()
    return unpack_texts(packed)


def _take_back(unit: Unit, worker_id: str, held: list[Row]) -> None:
    cleans = _cleans(unit, worker_id) if held else ()
    for row in held:
        before = copy(row.run)
        lifecycle.take_back(row.run, unit.now, cleans=row.run.definition in cleans)
        _keep(unit, row, before, ChangeKind.RELEASED)


def _keep(unit: Unit, row: Row, before: RunRecord, how: ChangeKind) -> None:
    """Write a run that was taken from its holder with the next flush."""
    unit.change(row, how_left(before, row.run, how))
    if lifecycle.begins_anew(before, row.run):
        unit.set_waits(row, ())


def _delete(unit: Unit, worker_id: str) -> None:
    unit.connection.execute(DELETE, (unit.namespace, unit.names.number(worker_id)))
    unit.removed.append(worker_id)
    vacate(unit, worker_id)


def _rescued(held: list[Row]) -> Rescued:
    ended = [row.run.run_id for row in held if row.run.status in TERMINAL]
    queued = [row.run.run_id for row in held if row.run.status not in TERMINAL]
    return Rescued(tuple(queued), tuple(ended))
