"""Schedules: putting them, and firing each instant once."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.model.records import Micros
from perdure.model.schedules import (
    MOST_FIRES,
    STARTS,
    Fire,
    Fired,
    FireOutcome,
    FireSchedule,
    Overdue,
    Passed,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    ResumeSchedule,
    Schedule,
    Scheduled,
    ScheduleRecord,
    Unscheduled,
    fired_run,
    is_what_passed,
    loses_instants,
    may_fire,
)
from perdure.model.transitions import Outcome, start_of
from perdure.stores.sqlite import runs
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.leader import refused
from perdure.stores.sqlite.rows import SqlRow
from perdure.stores.sqlite.unit import Unit

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Schedule)

SCHEDULE: Final = "content, revision, created_at, updated_at, next_at, last_at, paused_at"

FIND = f"SELECT {SCHEDULE} FROM schedule WHERE namespace = ? AND key = ?"

ALL = f"SELECT {SCHEDULE} FROM schedule WHERE namespace = ? ORDER BY key"

DUE = (
    f"SELECT {SCHEDULE} FROM schedule WHERE namespace = ? AND paused_at IS NULL"
    " AND next_at IS NOT NULL AND next_at <= ? ORDER BY key"
)

STORE = (
    f"INSERT INTO schedule (namespace, key, {SCHEDULE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace, key) DO UPDATE SET content = excluded.content,"
    " revision = excluded.revision, updated_at = excluded.updated_at, next_at = excluded.next_at,"
    " last_at = excluded.last_at, paused_at = excluded.paused_at"
)

NEXT_FIRE = (
    "SELECT next_at FROM schedule WHERE namespace = ? AND paused_at IS NULL AND next_at IS NOT NULL"
    " ORDER BY next_at LIMIT 1"
)

FIRE: Final = "expected, outcome, until, count, at, run"

FIRES = f"SELECT {FIRE} FROM fire WHERE namespace = ? AND key = ? ORDER BY seq DESC LIMIT ?"

INSERT_FIRE = f"INSERT INTO fire (namespace, key, {FIRE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

FORGET_FIRES = (
    "DELETE FROM fire WHERE namespace = ?1 AND key = ?2 AND seq <= (SELECT seq FROM fire"
    f" WHERE namespace = ?1 AND key = ?2 ORDER BY seq DESC LIMIT 1 OFFSET {MOST_FIRES})"
)

REMOVE = "DELETE FROM schedule WHERE namespace = ? AND key = ?"

REMOVE_FIRES = "DELETE FROM fire WHERE namespace = ? AND key = ?"


def put(unit: Unit, transition: PutSchedule) -> Outcome:
    """Create a schedule, or change what it says."""
    schedule = transition.schedule
    known = _find(unit, schedule.key)
    if known is None:
        record = ScheduleRecord(schedule, 0, unit.now, unit.now, transition.next_at)
    elif known.schedule == schedule:
        return Scheduled(known)
    else:
        same = known.schedule.timing == schedule.timing
        if not same:
            if loses_instants(known, transition, unit.now):
                return Overdue(known)
            known = _skip(unit, known, transition.skipped)
        record = replace(
            known,
            schedule=schedule,
            revision=known.revision + 1,
            updated_at=unit.now,
            next_at=known.next_at if same else transition.next_at,
        )
    unit.hint = True
    _store(unit, record)
    return Scheduled(record)


def remove(unit: Unit, transition: RemoveSchedule) -> Outcome:
    """Forget a schedule and what became of its instants."""
    place = (unit.namespace, transition.key)
    unit.connection.execute(REMOVE, place)
    unit.connection.execute(REMOVE_FIRES, place)
    return Unscheduled(transition.key)


def pause(unit: Unit, transition: PauseSchedule) -> Outcome:
    """Fire nothing until it is resumed."""
    record = _find(unit, transition.key)
    if record is None:
        return Unscheduled(transition.key)
    if record.paused_at is None:
        record = replace(record, paused_at=unit.now, updated_at=unit.now)
        _store(unit, record)
    return Scheduled(record)


def resume(unit: Unit, transition: ResumeSchedule) -> Outcome:
    """Fire again; what passed meanwhile is noted."""
    record = _find(unit, transition.key)
    if record is None:
        return Unscheduled(transition.key)
    if record.paused_at is not None and record.next_at == transition.expected:
        record = _skip(unit, record, transition.skipped)
        record = replace(record, paused_at=None, updated_at=unit.now, next_at=transition.next_at)
        _store(unit, record)
        unit.hint = True
    return Scheduled(record)


def fire(unit: Unit, transition: FireSchedule) -> Outcome:
    """Fire an instant, and move on to the next."""
    if (refusal := refused(unit, transition.lead)) is not None:
        return refusal
    record = _find(unit, transition.key)
    if record is None:
        return Unscheduled(transition.key)
    if not may_fire(record, transition, unit.now):
        return Passed(record)
    started: list[str] = []
    noted: list[Fire] = []
    for each in transition.fires:
        run_id = None
        if each.outcome in STARTS:
            run_id, _ = fired_run(transition.key, each.expected)
            runs.create(unit, start_of(record.schedule, each.expected))
            started.append(run_id)
        noted.append(replace(each, run_id=run_id))
    flush(unit)
    _note(unit, transition.key, noted)
    last_at = max((each.until for each in noted), default=record.last_at)
    _store(unit, replace(record, next_at=transition.next_at, last_at=last_at, updated_at=unit.now))
    return Fired(tuple(started))


def _find(unit: Unit, key: str) -> ScheduleRecord | None:
    found = unit.connection.execute(FIND, (unit.namespace, key)).fetchone()
    return None if found is None else schedule_of(found)


def schedule_of(row: SqlRow) -> ScheduleRecord:
    """Read the columns SCHEDULE."""
    content, *rest = row
    return ScheduleRecord(_decoder.decode(content), *rest)


def _store(unit: Unit, record: ScheduleRecord) -> None:
    unit.connection.execute(
        STORE,
        (
            unit.namespace,
            record.schedule.key,
            _encoder.encode(record.schedule),
            record.revision,
            record.created_at,
            record.updated_at,
            record.next_at,
            record.last_at,
            record.paused_at,
        ),
    )


def _skip(unit: Unit, record: ScheduleRecord, skipped: Fire | None) -> ScheduleRecord:
    """Note what passed without being fired, where it begins with the next instant."""
    if skipped is None or not is_what_passed(record, skipped, unit.now):
        return record
    _note(unit, record.schedule.key, (skipped,))
    return replace(record, last_at=skipped.until)


def _note(unit: Unit, key: str, fires: Iterable[Fire]) -> None:
    for each in fires:
        outcome = str(each.outcome)
        row = (each.expected, outcome, each.until, each.count, unit.now, each.run_id)
        unit.connection.execute(INSERT_FIRE, (unit.namespace, key, *row))
    unit.connection.execute(FORGET_FIRES, (unit.namespace, key))


def fire_of(row: SqlRow) -> Fire:
    """Read the columns FIRE."""
    expected, outcome, *rest = row
    return Fire(expected, FireOutcome(outcome), *rest)


def next_fire_at(unit: Unit) -> Micros | None:
    """Return the earliest next instant of a schedule that is not paused."""
    found: tuple[Any, ...] | None = unit.connection.execute(NEXT_FIRE, (unit.namespace,)).fetchone()
    return None if found is None else int(found[0])
