"""Events: publishing, listening, and the waits that take them."""

# ruff: noqa: S608 -- statements are put together from constants of this package

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from perdure.model import lifecycle
from perdure.model.changes import says_more
from perdure.model.events import (
    Awaiting,
    EventRecord,
    GiveUpEvent,
    Listen,
    Listener,
    ListenerRecord,
    Listening,
    Publish,
    Published,
    SendEvent,
    TakeEvent,
    Taken,
    TimedOut,
    Unlisten,
    cause_of,
    is_same,
    started_run,
    started_with,
)
from perdure.model.records import (
    TERMINAL,
    Checkpoint,
    Status,
    StepKind,
    StepOutcome,
    WaitKind,
)
from perdure.model.transitions import (
    Conflict,
    CreateRun,
    Exists,
    Fenced,
    Missing,
    Outcome,
    Refused,
    Saved,
)
from perdure.stores.sqlite import feed, rows, runs, saving
from perdure.stores.sqlite.arrivals import first_fitting
from perdure.stores.sqlite.bulk import Among
from perdure.stores.sqlite.codes import WAIT_KIND_CODES, pack_texts, unpack_id, unpack_texts
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.rows import Row, SqlRow
from perdure.stores.sqlite.unit import Unit

_EVENT: Final = WAIT_KIND_CODES[WaitKind.EVENT]

EVENT: Final = "event.seq, event.id, event.type, event.key, event.payload, event.at, run.id"

FROM: Final = "FROM event LEFT JOIN run ON run.seq = event.run"

FIND = f"SELECT {EVENT} {FROM} WHERE event.namespace = ? AND event.id = ?"

INSERT = (
    "INSERT INTO event (namespace, id, cause, type, key, run, at, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)

STARTED = (
    "SELECT id FROM run WHERE namespace = ? AND caused_by = ? AND caused_by IS NOT NULL"
    " ORDER BY seq"
)

WAITERS: Final = (
    f"SELECT DISTINCT run FROM wait WHERE kind = {_EVENT} AND namespace = ? AND key = ?"
    " AND (event_key IS NULL OR event_key = ?)"
)

WAITS: Final = (
    f"SELECT 1 FROM wait WHERE kind = {_EVENT} AND run = ? AND key = ?"
    " AND (event_key IS NULL OR event_key = ?) LIMIT 1"
)

READ: Final = Among(f"SELECT {rows.HOT} FROM run WHERE seq IN {{keys}}")

RECORDED = (
    f"SELECT seq, {rows.CHECKPOINT} FROM checkpoint WHERE run = ? AND generation = ?"
    " AND path = ? AND k = ? AND scope = ? AND fingerprint = ?"
)

TAKE = (
    "INSERT INTO taken (run, generation, event, checkpoint) SELECT ?1, ?2, ?3, seq FROM checkpoint"
    " WHERE run = ?1 AND generation = ?2 AND path = ?4 AND k = ?5 AND scope = ?6"
    " AND fingerprint = ?7"
)

RETURN = "DELETE FROM taken WHERE run = ? AND generation = ? AND checkpoint = ?"

LISTENER: Final = "type, definition, parameter, version, queue, priority, tags, since, announced_at"

LISTEN = (
    f"INSERT INTO listener (namespace, {LISTENER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace, type, definition) DO UPDATE SET parameter = excluded.parameter,"
    " version = excluded.version, queue = excluded.queue, priority = excluded.priority,"
    " tags = excluded.tags, announced_at = excluded.announced_at"
)

UNLISTEN = (
    "DELETE FROM listener WHERE namespace = ?1 AND definition = ?2 AND (?3 IS NULL OR type = ?3)"
)

LISTENERS = f"SELECT {LISTENER} FROM listener WHERE namespace = ?"


# --- listening -----------------------------------------------------------------------------------


def listen(unit: Unit, transition: Listen) -> Outcome:
    """Register listeners, or announce that they are still there."""
    number = unit.names.number
    for listener in transition.listeners:
        unit.connection.execute(
            LISTEN,
            (
                unit.namespace,
                number(listener.type),
                number(listener.definition),
                listener.parameter,
                number(listener.version),
                number(listener.queue),
                listener.priority,
                pack_texts(listener.tags),
                unit.now,
                unit.now,
            ),
        )
    return _listening(unit)


def unlisten(unit: Unit, transition: Unlisten) -> Outcome:
    """Forget the listeners of a definition."""
    number = unit.names.number
    type_ = None if transition.type is None else number(transition.type)
    unit.connection.execute(UNLISTEN, (unit.namespace, number(transition.definition), type_))
    return _listening(unit)


def _listening(unit: Unit) -> Listening:
    found = unit.connection.execute(LISTENERS, (unit.namespace,)).fetchall()
    return Listening(tuple(listeners(found, unit.names)))


def listeners(found: Iterable[SqlRow], names: Names) -> list[ListenerRecord]:
    """Read the columns LISTENER, and sort by type, then definition."""
    records = [_listener(row, names.texts) for row in found]
    return sorted(records, key=lambda one: (one.listener.type, one.listener.definition))


def _listener(row: SqlRow, texts: Mapping[int, str]) -> ListenerRecord:
    type_, definition, parameter, version, queue, priority, tags, since, announced_at = row
    listener = Listener(
        texts[type_],
        texts[definition],
        parameter,
        texts[version],
        texts[queue],
        priority,
        unpack_texts(tags),
    )
    return ListenerRecord(listener, since, announced_at)


# --- publishing ----------------------------------------------------------------------------------


def publish(unit: Unit, transition: Publish) -> Outcome:
    """Accept an event, start a run for each listener, and wake who waits for it."""
    flush(unit)
    known = _known(unit, transition.event_id)
    if known is not None:
        if not is_same(known, transition):
            return Exists("", same=False)
        return Published(transition.event_id, _started_by(unit, transition.event_id))
    if transition.by is not None:
        holder = unit.row(transition.by.run_id)
        if holder is None or not lifecycle.holds(holder.run, transition.by):
            return Fenced(transition.by.run_id)
    _accept(unit, transition, None)
    for registered in _listening(unit).listeners:
        listener = registered.listener
        is_alive = unit.now - registered.announced_at <= transition.alive
        if listener.type == transition.type and is_alive:
            runs.create(unit, _start(transition, listener))
    place = (unit.namespace, transition.type, transition.key)
    waiting = [seq for (seq,) in unit.connection.execute(WAITERS, place).fetchall()]
    for row in unit.adopt(READ.all(unit.connection, waiting)):
        _wake(unit, row)
    flush(unit)
    return Published(transition.event_id, _started_by(unit, transition.event_id))


def _start(transition: Publish, listener: Listener) -> CreateRun:
    run_id, token = started_run(transition.event_id, listener.definition)
    return CreateRun(
        run_id,
        listener.definition,
        started_with(transition.payload, listener.parameter),
        token,
        listener.version,
        listener.queue,
        listener.priority,
        tags=listener.tags,
        caused_by=cause_of(transition.event_id),
    )


def send(unit: Unit, transition: SendEvent) -> Outcome:
    """Accept an event for one run, and wake that if it waits for it."""
    flush(unit)
    known = _known(unit, transition.event_id)
    if known is not None:
        same = is_same(known, transition)
        return Published(transition.event_id) if same else Exists("", same=False)
    if transition.by is not None:
        holder = unit.row(transition.by.run_id)
        if holder is None or not lifecycle.holds(holder.run, transition.by):
            return Fenced(transition.by.run_id)
    row = unit.row(transition.run_id)
    if row is None:
        return Missing(transition.run_id)
    if row.run.status in TERMINAL:
        return Refused(transition.run_id, row.run.status)
    _accept(unit, transition, row.run.seq)
    place = (row.run.seq, transition.type, transition.key)
    if unit.connection.execute(WAITS, place).fetchone() is not None:
        _wake(unit, row)
    return Published(transition.event_id)


def _known(unit: Unit, event_id: str) -> EventRecord | None:
    found = unit.connection.execute(FIND, (unit.namespace, event_id)).fetchone()
    return None if found is None else event(found, unit.names)


def event(row: SqlRow, names: Names) -> EventRecord:
    """Read the columns EVENT."""
    seq, event_id, type_, key, payload, at, run_id = row
    sent_to = None if run_id is None else unpack_id(run_id)
    return EventRecord(seq, event_id, names.texts[type_], key, payload, at, sent_to)


def _accept(unit: Unit, transition: Publish | SendEvent, run: int | None) -> None:
    unit.connection.execute(
        INSERT,
        (
            unit.namespace,
            transition.event_id,
            cause_of(transition.event_id),
            unit.names.number(transition.type),
            transition.key,
            run,
            unit.now,
            transition.payload,
        ),
    )


def _started_by(unit: Unit, event_id: str) -> tuple[str, ...]:
    place = (unit.namespace, cause_of(event_id))
    return tuple(unpack_id(found) for (found,) in unit.connection.execute(STARTED, place))


def _wake(unit: Unit, row: Row) -> None:
    if row.run.status is Status.WAITING:
        unit.wake(row)


# --- taking --------------------------------------------------------------------------------------


def take(unit: Unit, transition: TakeEvent) -> Outcome:
    """Record which event a wait takes, that none came in time, or that it waits."""
    held = _held(unit, transition)
    if isinstance(held, Fenced):
        return held
    row, recorded, _ = held
    run = row.run
    if recorded is not None and recorded.outcome is not StepOutcome.PENDING:
        return _answer(row, recorded)
    if run.status is not Status.RUNNING:
        return Fenced(run.run_id)
    if recorded is None or not recorded.tries:
        due_at = None if transition.timeout is None else unit.now + transition.timeout
    else:
        due_at = recorded.due_at
    record = Checkpoint(
        key=transition.step,
        position=transition.position,
        kind=StepKind.WAIT_FOR_EVENT,
        outcome=StepOutcome.PENDING,
        value=None,
        tries=1,
        log=None,
        due_at=due_at,
        started_at=transition.started_at,
        ended_at=transition.ended_at,
        site=transition.site,
        text=transition.text,
        epoch=transition.grant.epoch,
    )
    type_ = unit.names.find(transition.type)
    found = first_fitting(unit, row, type_, transition.key, due_at)
    if found is not None:
        record = replace(record, outcome=StepOutcome.OK, value=found[2], due_at=None)
    elif due_at is not None and due_at <= unit.now:
        record = replace(
            record, outcome=StepOutcome.TIMEOUT, value=transition.timeout_error, due_at=None
        )
    elif recorded is not None and recorded.tries:
        return _answer(row, recorded)  # asked again: nothing new is recorded
    saving.put(unit, run, record)
    if recorded is None or says_more(recorded, record):
        unit.tell_step(feed.recorded(record, row))
    if found is not None:
        step = transition.step
        place = (run.seq, run.generation, found[1], step.path, step.k, step.scope, step.fingerprint)
        unit.connection.execute(TAKE, place)
    return _answer(row, record)


def give_up(unit: Unit, transition: GiveUpEvent) -> Outcome:
    """Let a wait have taken nothing."""
    held = _held(unit, transition)
    if isinstance(held, Fenced):
        return held
    row, recorded, seq = held
    run = row.run
    is_open = recorded is not None and (
        recorded.outcome is StepOutcome.PENDING or recorded.epoch == run.epoch
    )
    if recorded is None or not is_open or recorded.outcome is StepOutcome.CANCELLED:
        return Saved(run.control)
    if run.status is not Status.RUNNING:
        return Fenced(run.run_id)
    given_up = replace(
        recorded,
        outcome=StepOutcome.CANCELLED,
        value=None,
        due_at=None,
        ended_at=transition.ended_at,
        epoch=run.epoch,
    )
    saving.put(unit, run, given_up)
    unit.tell_step(feed.recorded(given_up, row))
    unit.connection.execute(RETURN, (run.seq, run.generation, seq))
    return Saved(run.control)


def _held(
    unit: Unit, transition: TakeEvent | GiveUpEvent
) -> tuple[Row, Checkpoint | None, int] | Fenced:
    """Return the run that a newest grant is of, with what is recorded of the wait, and its seq."""
    grant, step = transition.grant, transition.step
    flush(unit)
    row = unit.row(grant.run_id)
    if row is None or row.run.epoch != grant.epoch or row.run.grant != grant.token:
        return Fenced(grant.run_id)
    run = row.run
    place = (run.seq, run.generation, step.path, step.k, step.scope, step.fingerprint)
    found: tuple[Any, ...] | None = unit.connection.execute(RECORDED, place).fetchone()
    if found is None:
        return row, None, 0
    return row, rows.checkpoint(found[1:], run.created_at, unit.names), found[0]


def _answer(row: Row, recorded: Checkpoint) -> Outcome:
    control = row.run.control
    match recorded.outcome:
        case StepOutcome.OK:
            return Taken(recorded.value or b"null", recorded.ended_at, control)
        case StepOutcome.TIMEOUT:
            return TimedOut(recorded.value or b"null", recorded.ended_at, control)
        case StepOutcome.PENDING:
            return Awaiting(recorded.due_at, control)
        case _:
            return Conflict(row.run.run_id, recorded.key.path)
