"""Events: publishing, listening, and the waits that take them."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.model.changes import says_more
from perdure.model.events import (
    Awaiting,
    EventQuery,
    EventRecord,
    GiveUpEvent,
    Listen,
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
    Micros,
    Status,
    StepKind,
    StepOutcome,
)
from perdure.model.transitions import (
    Conflict,
    CreateRun,
    Exists,
    Fenced,
    Missing,
    Refused,
    Saved,
)
from perdure.stores.memory.arrivals import fitting, wake_if_fits
from perdure.stores.memory.runs import create, is_newest
from perdure.stores.memory.space import Row, Space


def listen(space: Space, asked: Listen, now: Micros) -> Listening:
    """Register listeners, or announce that they are still there."""
    for listener in asked.listeners:
        place = (listener.type, listener.definition)
        known = space.listeners.get(place)
        since = now if known is None else known.since
        space.listeners[place] = ListenerRecord(listener, since, now)
    return Listening(tuple(listeners(space)))


def unlisten(space: Space, asked: Unlisten, now: Micros) -> Listening:  # noqa: ARG001  # of one shape
    """Forget the listeners of a definition."""
    for place in list(space.listeners):
        if place[1] == asked.definition and asked.type in {None, place[0]}:
            del space.listeners[place]
    return Listening(tuple(listeners(space)))


def publish(space: Space, asked: Publish, now: Micros) -> Published | Exists | Fenced:
    """Accept an event, start a run for each listener, and wake who waits for it."""
    known = space.events.get(asked.event_id)
    if known is not None:
        if not is_same(known, asked):
            return Exists("", same=False)
        return Published(asked.event_id, _started_by(space, asked.event_id))
    if asked.by is not None and space.held_by(asked.by) is None:
        return Fenced(asked.by.run_id)
    event = _accept(space, asked, None, now)
    for registered in listeners(space):
        if registered.listener.type != asked.type or now - registered.announced_at > asked.alive:
            continue
        listener = registered.listener
        run_id, token = started_run(asked.event_id, listener.definition)
        start = CreateRun(
            run_id,
            listener.definition,
            started_with(asked.payload, listener.parameter),
            token,
            listener.version,
            listener.queue,
            listener.priority,
            tags=listener.tags,
            caused_by=cause_of(asked.event_id),
        )
        create(space, start, now)
    for row in list(space.waiting_for_event(asked.type)):
        wake_if_fits(space, row, event, now)
    return Published(asked.event_id, _started_by(space, asked.event_id))


def send(
    space: Space, asked: SendEvent, now: Micros
) -> Published | Exists | Refused | Missing | Fenced:
    """Accept an event for one run, and wake that if it waits for it."""
    known = space.events.get(asked.event_id)
    if known is not None:
        return Published(asked.event_id) if is_same(known, asked) else Exists("", same=False)
    if asked.by is not None and space.held_by(asked.by) is None:
        return Fenced(asked.by.run_id)
    row = space.rows.get(asked.run_id)
    if row is None:
        return Missing(asked.run_id)
    if row.run.status in TERMINAL:
        return Refused(asked.run_id, row.run.status)
    wake_if_fits(space, row, _accept(space, asked, asked.run_id, now), now)
    return Published(asked.event_id)


def take(
    space: Space, asked: TakeEvent, now: Micros
) -> Taken | TimedOut | Awaiting | Fenced | Conflict:
    """Record which event a wait takes, that none came in time, or that it waits."""
    row = space.rows.get(asked.grant.run_id)
    if row is None or not is_newest(row.run, asked.grant):
        return Fenced(asked.grant.run_id)
    run = row.run
    identity = (run.generation, asked.step)
    recorded = row.checkpoints.get(identity)
    if recorded is not None and recorded.outcome is not StepOutcome.PENDING:
        return _answer(row, recorded)
    if run.status is not Status.RUNNING:
        return Fenced(run.run_id)
    if recorded is None or not recorded.tries:
        due_at = None if asked.timeout is None else now + asked.timeout
    else:
        due_at = recorded.due_at
    record = Checkpoint(
        key=asked.step,
        position=asked.position,
        kind=StepKind.WAIT_FOR_EVENT,
        outcome=StepOutcome.PENDING,
        value=None,
        tries=1,
        log=None,
        due_at=due_at,
        started_at=asked.started_at,
        ended_at=asked.ended_at,
        site=asked.site,
        text=asked.text,
        epoch=asked.grant.epoch,
        generation=run.generation,
    )
    event = next(fitting(space, row, asked.type, asked.key, due_at), None)
    if event is not None:
        row.taken[run.generation, event.seq] = asked.step
        record = replace(record, outcome=StepOutcome.OK, value=event.payload, due_at=None)
    elif due_at is not None and due_at <= now:
        record = replace(
            record, outcome=StepOutcome.TIMEOUT, value=asked.timeout_error, due_at=None
        )
    elif recorded is not None and recorded.tries:
        return _answer(row, recorded)  # asked again: nothing new is recorded
    row.checkpoints[identity] = record
    run.updated_at = now
    if recorded is None or says_more(recorded, record):
        space.feed.note_step(run, record, now)
    return _answer(row, record)


def give_up(space: Space, asked: GiveUpEvent, now: Micros) -> Saved | Fenced:
    """Let a wait have taken nothing."""
    row = space.rows.get(asked.grant.run_id)
    if row is None or not is_newest(row.run, asked.grant):
        return Fenced(asked.grant.run_id)
    run = row.run
    identity = (run.generation, asked.step)
    recorded = row.checkpoints.get(identity)
    is_open = recorded is not None and (
        recorded.outcome is StepOutcome.PENDING or recorded.epoch == run.epoch
    )
    if recorded is None or not is_open or recorded.outcome is StepOutcome.CANCELLED:
        return Saved(run.control)
    if run.status is not Status.RUNNING:
        return Fenced(run.run_id)
    record = row.checkpoints[identity] = replace(
        recorded,
        outcome=StepOutcome.CANCELLED,
        value=None,
        due_at=None,
        ended_at=asked.ended_at,
        epoch=run.epoch,
    )
    for place, step in list(row.taken.items()):
        if place[0] == run.generation and step == asked.step:
            del row.taken[place]
    run.updated_at = now
    space.feed.note_step(run, record, now)
    return Saved(run.control)


def _answer(row: Row, recorded: Checkpoint) -> Taken | TimedOut | Awaiting | Conflict:
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


def _accept(
    space: Space, asked: Publish | SendEvent, run_id: str | None, now: Micros
) -> EventRecord:
    space.event_seq += 1
    event = EventRecord(
        space.event_seq, asked.event_id, asked.type, asked.key, asked.payload, now, run_id
    )
    space.events[asked.event_id] = event
    return event


def _started_by(space: Space, event_id: str) -> tuple[str, ...]:
    cause = cause_of(event_id)
    return tuple(run_id for run_id, row in space.rows.items() if row.run.caused_by == cause)


# --- reads ---------------------------------------------------------------------------------------


def listeners(space: Space) -> list[ListenerRecord]:
    """Return the registered listeners by type, then definition."""
    return [space.listeners[place] for place in sorted(space.listeners)]


def events(space: Space, query: EventQuery) -> list[EventRecord]:
    """Return the events that match, newest first."""
    found = [
        event
        for event in reversed(space.events.values())
        if (query.type is None or event.type == query.type)
        and (query.key is None or event.key == query.key)
        and (query.run_id is None or event.run_id == query.run_id)
        and (query.event_id is None or event.event_id == query.event_id)
        and (query.before is None or event.seq < query.before)
    ]
    return found[: query.limit]
