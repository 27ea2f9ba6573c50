"""Publishing and sending events: outside of runs, and as durable calls inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from hashlib import blake2b
from typing import Any

import msgspec

from perdure._engine import scope as scopes
from perdure._engine.engine import Engine
from perdure._engine.events import ALIVE, KINDS, publish_in_run
from perdure._engine.scope import Call
from perdure._engine.unawaited import reads_as
from perdure.codec import schema
from perdure.errors import EventConflict, InvalidTransition, RunNotFound, UsageError
from perdure.event import type_name
from perdure.ids import check_id, derived_id
from perdure.model.events import Publish, Published, SendEvent
from perdure.model.transitions import Exists, Missing, Outcome, Refused


class Outgoing(msgspec.Struct, frozen=True):
    """An event that is to be published or sent, checked.

    Args:
        type: the name of its type.
        payload: encoded.
        key, id: as the caller gave them.
    """

    type: str
    payload: bytes
    key: str | None
    id: str | None

    @classmethod
    def of(cls, event: object, kind: object, key: str | None, id: str | None) -> Outgoing:
        """Check what a caller gave.

        Raises:
            InvalidValue: the event does not fit its class, or the key or id is none.
            UsageError: it has no type.
        """
        if key is not None:
            check_id(key, "an event's key")
        if id is not None:
            check_id(id, "an event's id")
        if inspect.iscoroutine(event):
            event.close()
            raise UsageError("an event is a value, got a coroutine; did you forget `await`?")
        name = type_name(type(event) if kind is None else kind)
        annotation = Any if isinstance(kind, str) else type(event) if kind is None else kind
        payload = schema(annotation).encode(event, verb=f"event {name!r} is")
        return cls(name, payload, key, id)


def publish(engine: Engine, event: Outgoing, site: str) -> Coroutine[Any, Any, str]:
    """Publish an event to all who listen and wait; return its id."""

    def asked(event_id: str) -> Publish:
        return Publish(event_id, event.type, event.payload, ALIVE, event.key)

    return _go_out(engine, event, asked, site)


def send(engine: Engine, run_id: str, event: Outgoing, site: str) -> Coroutine[Any, Any, None]:
    """Send an event to one run."""

    def asked(event_id: str) -> SendEvent:
        return SendEvent(run_id, event_id, event.type, event.payload, event.key)

    return _sent(_go_out(engine, event, asked, site, run_id))


@reads_as("send_event(…) without `await`")
async def _sent(going: Coroutine[Any, Any, str]) -> None:
    await going


def _go_out(
    engine: Engine,
    event: Outgoing,
    asked: Callable[[str], Publish | SendEvent],
    site: str,
    run_id: str = "",
) -> Coroutine[Any, Any, str]:
    engine.within_limit(event.payload, f"the event {event.type!r}")
    scope = scopes.current()
    if scope is None:
        return _outside(engine, asked(event.id or engine.ids.run_id()))
    kind = KINDS[SendEvent if run_id else Publish]
    parts = (event.payload, event.key or "", event.id or "", run_id)
    fingerprint = blake2b(repr(parts).encode(), digest_size=16).digest()
    call = Call(scope, kind, event.type, fingerprint, run_id, site)
    run = scope.activation.run
    own = derived_id("publish", run.run_id, str(run.generation), call.inner_digest().hex())
    transition = asked(event.id or own)
    if scope.activation.engine is not engine:
        return _outside(engine, transition)  # its id makes every replay the same one
    return publish_in_run(call, transition, lambda answer: _accepted(transition, answer))


@reads_as("publish(…) without `await`")
async def _outside(engine: Engine, transition: Publish | SendEvent) -> str:
    engine.check_loop()
    answer = await engine.committer.submit(transition)
    engine.arrivals.stir()
    return _accepted(transition, answer)


def _accepted(transition: Publish | SendEvent, answer: Outcome) -> str:
    match answer:
        case Published():
            return answer.event_id
        case Exists():
            raise EventConflict(
                f"the id {transition.event_id!r} belongs to another event; use a new one, or the "
                "same type, key and values",
                event_id=transition.event_id,
            )
        case Refused():
            raise InvalidTransition(
                f"cannot send run {answer.run_id} an event: it is {answer.status}"
            )
        case Missing():
            raise RunNotFound(f"there is no run {answer.run_id!r} here, or its retention has ended")
        case _:
            raise AssertionError(f"an event was answered with {answer!r}")
