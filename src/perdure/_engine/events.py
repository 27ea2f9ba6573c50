"""Events in a body: waiting for one, publishing, sending.

A wait asks the store which event it takes (:class:`~perdure.model.events.TakeEvent`) and is blocked
until there is one or its time is over; whoever wakes it, the store's answer alone counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import msgspec

from perdure._engine.activation import Activation
from perdure._engine.calls import (
    check_fit,
    commit,
    give,
    here,
    look_at,
    mark,
    replay,
)
from perdure._engine.scope import Call
from perdure._engine.unawaited import reads_as
from perdure._engine.waits import event_of
from perdure.codec import Schema, schema
from perdure.codec.failures import decode_error, encode_error, replayed_error
from perdure.errors import EventTimeout, PerdureError, UsageError
from perdure.model.events import (
    Awaiting,
    GiveUpEvent,
    Publish,
    SendEvent,
    TakeEvent,
    Taken,
    TimedOut,
)
from perdure.model.records import Micros, StepKind, StepOutcome
from perdure.model.transitions import Conflict, Fenced, Outcome, SaveCheckpoint

ALIVE: Final[Micros] = 7 * 86_400_000_000
"""Since a listener was announced: longer than any holidays of a deployment."""

_text: Schema[str] = schema(str)


def key_digest(key: str | None) -> bytes:
    """Return what a wait for an event with this key is recognised by."""
    return b"" if key is None else blake2b(key.encode(), digest_size=16).digest()


# --- waiting -------------------------------------------------------------------------------------


class Wanted(msgspec.Struct, frozen=True):
    """What a body waits for.

    Args:
        type: of the event.
        key: that it must have; None for any or none.
        timeout: for how long; None for as long as it takes.
        value: how its payload is read.
    """

    type: str
    key: str | None
    timeout: Micros | None
    value: Schema[Any]

    def __str__(self) -> str:
        return f"an event {self.type!r}" + ("" if self.key is None else f" with key {self.key!r}")


@reads_as("wait_for_event(…) without `await`")
async def take_event(call: Call, wanted: Wanted) -> Any:
    """Return the event that a wait takes, the same on every replay.

    Raises:
        EventTimeout: none came in time, now and on every replay.
        InvalidValue: its payload does not fit the type.
        UsageError: inside a step, whose next attempt would wait for another one.
    """
    record = call.record
    if record is not None and record.outcome is not StepOutcome.PENDING:
        return await replay(call, record, wanted.value)
    scope = here(call)
    activation = scope.activation
    if call.scope.in_step:
        raise UsageError(
            f"wait_for_event for {wanted} stands in a step, whose next attempt would wait for "
            "another event; wait in the body and hand the event to the step"
        )
    await activation.check(call)
    if record is None:
        check_fit(call, activation)
    started_at = activation.engine.store_now() if record is None else record.started_at
    try:
        return await _taken(call, wanted, activation, started_at)
    except asyncio.CancelledError:
        _give_up(call, activation)
        raise


async def _taken(call: Call, wanted: Wanted, activation: Activation, started_at: Micros) -> Any:
    arrivals = activation.engine.arrivals
    error = EventTimeout(f"no event {wanted.type!r} came in time for step {call.path!r}")
    timeout_error = encode_error(error)
    branch = here(call).branch
    while True:
        seen = arrivals.count
        answer = await _ask(call, wanted, activation, started_at, timeout_error)
        match answer:
            case Taken():
                await give(call, (activation.grant.epoch, answer.ended_at))
                return wanted.value.decode(answer.payload)
            case TimedOut():
                await give(call, (activation.grant.epoch, answer.ended_at))
                late = decode_error(answer.error)
                mark(late, (call.key,))
                raise late
            case Awaiting():
                if arrivals.count == seen:
                    join = activation.next_join()
                    condition = event_of(wanted.type, wanted.key, answer.due_at, join)
                    await activation.wait(branch, condition)
                await activation.check(call)


async def _ask(
    call: Call, wanted: Wanted, activation: Activation, started_at: Micros, timeout_error: bytes
) -> Taken | TimedOut | Awaiting:
    take = TakeEvent(
        activation.grant,
        call.key,
        call.position,
        wanted.type,
        wanted.key,
        wanted.timeout,
        timeout_error,
        started_at,
        activation.stamp(),
        call.site,
        call.text,
    )
    activation.begin_work()
    words = activation.words
    try:
        answer = await activation.engine.committer.submit(take, patient=True)
        if isinstance(answer, Conflict):
            raise PerdureError(
                f"the wait {call.path!r} of run {activation.run.run_id} was given up before; "
                "please report this with the run's history"
            )
        if isinstance(answer, Fenced):
            activation.lost()
        activation.obey(answer.control, words)
        return answer
    finally:
        activation.end_work()


def _give_up(call: Call, activation: Activation) -> None:
    """Record without waiting that the body cancelled the wait, unless the body is leaving."""
    if activation.leaving is None:
        activation.journal.given_up.append(call.key)
        give_up = GiveUpEvent(activation.grant, call.key, activation.stamp())
        given_up = activation.engine.committer.submit(give_up, patient=True)
        given_up.add_done_callback(look_at)


# --- publishing and sending ----------------------------------------------------------------------


@reads_as("an event that is published or sent without `await`")
async def publish_in_run(
    call: Call, asked: Publish | SendEvent, accept: Callable[[Outcome], str]
) -> str:
    """Publish or send an event from a body, once however often the body replays.

    Args:
        call: the durable call; its record's value is the event's id.
        asked: without the grant, which is added here.
        accept: takes the store's answer and returns the event's id, or raises.

    Raises:
        PerdureError: what ``accept`` raised, now and on every replay.
    """
    record = call.record
    if record is not None and record.outcome is not StepOutcome.PENDING:
        event_id: str = await replay(call, record, _text)
        return event_id
    scope = here(call)
    activation = scope.activation
    await activation.check(call, in_step=call.scope.in_step)
    if record is None:
        check_fit(call, activation)
    activation.begin_work()
    try:
        return await _publish(call, activation, asked, accept)
    finally:
        activation.end_work()


async def _publish(
    call: Call,
    activation: Activation,
    asked: Publish | SendEvent,
    accept: Callable[[Outcome], str],
) -> str:
    engine = activation.engine
    started_at = engine.store_now()
    held = msgspec.structs.replace(asked, by=activation.grant)
    answer = await engine.committer.submit(held, patient=True)
    engine.arrivals.stir()
    if isinstance(answer, Fenced):
        activation.lost()
    error: BaseException | None = None
    try:
        data = _text.encode(accept(answer))
    except PerdureError as refused:
        data, error = replayed_error(refused)
        mark(error, (call.key,))
    outcome = StepOutcome.OK if error is None else StepOutcome.ERROR
    save = SaveCheckpoint(
        activation.grant,
        call.key,
        call.position,
        call.kind,
        outcome,
        data,
        started_at=started_at,
        ended_at=activation.stamp(),
        site=call.site,
        text=call.text,
    )
    await commit(call, save)
    if error is not None:
        raise error from None
    return asked.event_id


KINDS: Final = {Publish: StepKind.PUBLISH, SendEvent: StepKind.SEND_EVENT}
"""What a call of each is recorded as."""
