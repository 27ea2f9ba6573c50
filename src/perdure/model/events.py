"""Events: what is published, who listens, and how a run's waits take them.

Listening is stored, so that a publisher needs none of the workflows' code: what :class:`Publish`
finds registered at its commit becomes a run there and then, in the same transaction, and each has
the event's payload as the argument whose name its listener says. Whether a run wants the event
after all (its predicate) is for the worker that claims it.

A wait of a run takes the oldest event that fits: of its type, with its key if it names one,
published to all or sent to this run, accepted since the run was created, not the one that started
it, and taken by no other wait of this run's generation, nor of one that continued as new. Which
event it was is recorded with the taking, in one transaction; so is that none came in time. An event
that was accepted at or before the deadline is taken, however late the worker looks; one that came
after it never is.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from perdure.ids import derived_id
from perdure.model.records import Control, Grant, Micros, RunRecord, StepKey


class Listener(msgspec.Struct, frozen=True, gc=False):
    """A definition that is started by events of a type.

    Args:
        type: of the events.
        definition: what is started; its other fields are as in ``CreateRun``.
        parameter: the name of the argument that is the event.
    """

    type: str
    definition: str
    parameter: str
    version: str = ""
    queue: str = "default"
    priority: int = 0
    tags: tuple[str, ...] = ()


class ListenerRecord(msgspec.Struct, frozen=True, gc=False):
    """A listener as it is kept.

    Args:
        since: when it was registered.
        announced_at: when a worker last said that it is still there.
    """

    listener: Listener
    since: Micros
    announced_at: Micros


class EventRecord(msgspec.Struct, frozen=True, gc=False):
    """An event that was accepted.

    Args:
        seq: the store's own ascending number; the order of acceptance.
        event_id: unique in its namespace until retention ends.
        type: what waits and listeners name.
        key: what waits may ask for, such as an order's id; None for none.
        payload: encoded.
        at: when the store accepted it.
        run_id: the run that it was sent to; None for one that was published to all.
    """

    seq: int
    event_id: str
    type: str
    key: str | None
    payload: bytes
    at: Micros
    run_id: str | None = None


class EventQuery(msgspec.Struct, frozen=True, gc=False):
    """Which events to list, newest first; every field narrows. Texts are compared exactly.

    Args:
        type, key, run_id, event_id: exact; ``run_id`` is the run that it was sent to.
        limit: at most so many (1 to 1,000).
        before: only events accepted before the one with this ``seq``: the cursor of the next page.
    """

    type: str | None = None
    key: str | None = None
    run_id: str | None = None
    event_id: str | None = None
    limit: int = 100
    before: int | None = None


# --- transitions ---------------------------------------------------------------------------------


class Listen(msgspec.Struct, frozen=True, gc=False):
    """Register listeners, or announce that they are still there.

    Key: (type, definition) of each: the same again moves ``announced_at`` and takes over the other
    fields. Answers: Listening.
    """

    listeners: tuple[Listener, ...]


class Unlisten(msgspec.Struct, frozen=True, gc=False):
    """Forget the listeners of a definition, of one type or of all.

    Idempotent as it is; runs that were started stand. Answers: Listening (who is left).
    """

    definition: str
    type: str | None = None


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Accept an event, and start one run for each listener.

    Key: ``event_id``: an event of the same type, key and payload again is answered with the runs
    that the first started, and changes nothing; one that differs is answered ``Exists``.
    Guard: where ``by`` is given, that grant is current (a body publishes only while it holds its
    run).
    A listener counts that was announced within ``alive`` of now. Its run has the id
    ``derived_id("event", event_id, definition)``, ``caused_by`` ``event:<event_id>``, and as input
    the payload under the listener's parameter; a run of that id that is there already is left
    alone. Waiting runs with an ``event`` wait that the event fits are woken, as by a finished join.
    Answers: Published · Exists (``run_id`` is empty) · Fenced.
    """

    event_id: str
    type: str
    payload: bytes
    alive: Micros
    key: str | None = None
    by: Grant | None = None


class SendEvent(msgspec.Struct, frozen=True, gc=False):
    """Accept an event for one run, which no listener hears and no other run's wait takes.

    Key: ``event_id``, as for Publish. Guard: the run is not terminal.
    It wakes the run as Publish does, and is kept as long as the run.
    Answers: Published (without runs) · Exists · Refused (the run has ended) · Missing · Fenced.
    """

    run_id: str
    event_id: str
    type: str
    payload: bytes
    key: str | None = None
    by: Grant | None = None


class TakeEvent(msgspec.Struct, frozen=True, gc=False):
    """Record which event a wait of a running run takes, that none came in time, or that it waits.

    Key: (run, generation, ``step``): what is recorded as final stands and is answered again.
    Guard: the grant is current and the run ``running``.
    The first time, the checkpoint (kind ``wait_for_event``, outcome ``pending``, 1 try) is recorded
    with ``due_at`` = now + ``timeout``; one that was reopened (0 tries) begins anew. If an event
    fits (see the module), accepted at or before ``due_at``, the checkpoint becomes ``ok`` with its
    payload, and the event is taken. Otherwise, where ``due_at`` has come, it becomes ``timeout``
    with ``timeout_error``. Otherwise what is recorded stands as it is: to ask again is no progress
    of the claim that asks. The other fields are those of ``SaveCheckpoint``.
    Answers: Taken · TimedOut · Awaiting · Fenced · Conflict (the wait was given up).
    """

    grant: Grant
    step: StepKey
    position: int
    type: str
    key: str | None
    timeout: Micros | None
    timeout_error: bytes
    started_at: Micros
    ended_at: Micros
    site: str = ""
    text: str = ""


class GiveUpEvent(msgspec.Struct, frozen=True, gc=False):
    """The body gave a wait up: it has taken no event.

    Key, guard: as for TakeEvent. The checkpoint becomes ``cancelled``; an event that it took under
    this very grant may be taken again. One that was final before this grant stands, and one that
    is not recorded is left so.
    Answers: Saved · Fenced.
    """

    grant: Grant
    step: StepKey
    ended_at: Micros


# --- answers -------------------------------------------------------------------------------------


class Listening(msgspec.Struct, frozen=True, gc=False):
    """The registered listeners, by type, then definition."""

    listeners: tuple[ListenerRecord, ...]


class Published(msgspec.Struct, frozen=True, gc=False):
    """The event is accepted, now or by the same before. ``run_ids``: what it has started."""

    event_id: str
    run_ids: tuple[str, ...] = ()


class Taken(msgspec.Struct, frozen=True, gc=False):
    """An event is taken; ``ended_at`` is when that was recorded first."""

    payload: bytes
    ended_at: Micros
    control: Control = Control.NONE


class TimedOut(msgspec.Struct, frozen=True, gc=False):
    """No event came in time; ``error`` is what was recorded, ``ended_at`` when."""

    error: bytes
    ended_at: Micros
    control: Control = Control.NONE


class Awaiting(msgspec.Struct, frozen=True, gc=False):
    """None is there yet. ``due_at``: until when the wait lasts; None for as long as it takes."""

    due_at: Micros | None
    control: Control = Control.NONE


# --- what any store does the same ----------------------------------------------------------------


def cause_of(event_id: str) -> str:
    """Return the ``caused_by`` of the runs that an event has started."""
    return f"event:{event_id}"


def started_run(event_id: str, definition: str) -> tuple[str, int]:
    """Return the id and the create token of the run that an event starts of a definition."""
    run_id = derived_id("event", event_id, definition)
    digest = blake2b(run_id.encode(), digest_size=8).digest()
    return run_id, (int.from_bytes(digest, "big") >> 1) or 1


def started_with(payload: bytes, parameter: str) -> bytes:
    """Return the input of a run that takes an event's payload as one argument."""
    return msgspec.json.encode({parameter: msgspec.Raw(payload)})


def is_same(event: EventRecord, asked: Publish | SendEvent) -> bool:
    """Tell whether an event of this id was accepted by the same transition before."""
    run_id = asked.run_id if isinstance(asked, SendEvent) else None
    return (event.type, event.key, event.payload, event.run_id) == (
        asked.type,
        asked.key,
        asked.payload,
        run_id,
    )


FOR_GOOD: Final = -1
"""Stands for the generation of what was taken before a run continued as new."""


def may_take(run: RunRecord, event: EventRecord) -> bool:
    """Tell whether a wait of a run for this type and key may take an event, if it is not taken."""
    return (
        event.at >= run.created_at
        and event.run_id in {None, run.run_id}
        and run.caused_by != cause_of(event.event_id)
    )
