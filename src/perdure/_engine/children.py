"""Runs that a body starts, and the ends that it waits for: each recorded once.

The id of a child follows from the place of the call that starts it, so a replay that was killed
before the record was written starts the same one again, to no effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from perdure._engine.calls import (
    check_fit,
    commit,
    give,
    give_up,
    here,
    is_over,
    mark,
    replay,
)
from perdure._engine.journal import moment_of
from perdure._engine.scope import Call
from perdure._engine.waits import end_of
from perdure.codec import Schema, schema
from perdure.codec.failures import decode_error, encode_error, replayed_error
from perdure.errors import PerdureError, RunNotFound
from perdure.ids import derived_id
from perdure.model.records import Ending, Micros, ParentClose, StepKind, StepOutcome
from perdure.model.transitions import CreateRun, Fenced, Outcome, SaveCheckpoint

if TYPE_CHECKING:
    from perdure._engine.activation import Activation

_text_schema: Schema[str] = schema(str)


def child_id(call: Call) -> str:
    """Return the id of the run that a body starts by a call: the same on every replay."""
    run, key = call.scope.activation.run, call.key
    place = (key.scope.hex(), key.path, key.fingerprint.hex(), str(key.k))
    return derived_id(run.run_id, str(run.generation), *place)


def nth_child_id(place: str, index: int) -> str:
    """Return the id of one of the runs that a body starts by one call.

    Args:
        place: the :func:`child_id` of the call, when it was made first.
        index: of the run, from 0.
    """
    return derived_id(place, str(index))


def child_token(run_id: str) -> int:
    """Return the create token of a child whose id is derived: the same on every replay."""
    digest = blake2b(run_id.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) or 1


async def start_child(
    call: Call, create: CreateRun, accept: Callable[[Outcome], Awaitable[str]]
) -> str:
    """Start a run inside a body, once however often the body replays.

    Args:
        call: the durable call; its record's value is the run's id.
        create: the run to create, without parent and grant, which are added here.
        accept: takes the store's answer and returns the run's id, or raises where a key named by
            the call is taken.

    Returns:
        The run's id.

    Raises:
        PerdureError: what ``accept`` raised, now and on every replay.
    """
    record = call.record
    scope = here(call)
    activation = scope.activation
    if record is not None and record.outcome is not StepOutcome.PENDING:
        run_id: str = await replay(call, record, _text_schema)
        # What another generation has started may be gone: whoever awaits it looks first.
        if activation.journal.origin is None:
            activation.children.add(run_id)
        return run_id
    await activation.check(call, in_step=call.scope.in_step)
    if record is None:
        check_fit(call, activation)
    run = activation.run
    create = msgspec.structs.replace(
        create,
        parent_id=run.run_id,
        root_id=run.root_id or run.run_id,
        by=activation.grant,
    )
    if create.on_parent_close is not ParentClose.ABANDON:
        activation.attaches = True
    activation.begin_work()
    try:
        run_id = await _commit_child(call, activation, create, accept)
    finally:
        activation.end_work()
    activation.children.add(run_id)
    return run_id


async def _commit_child(
    call: Call,
    activation: Activation,
    create: CreateRun,
    accept: Callable[[Outcome], Awaitable[str]],
) -> str:
    engine = activation.engine
    started_at = engine.store_now()

    def save(outcome: StepOutcome, data: bytes) -> SaveCheckpoint:
        return SaveCheckpoint(
            activation.grant,
            call.key,
            call.position,
            StepKind.ENQUEUE,
            outcome,
            data,
            started_at=started_at,
            ended_at=activation.stamp(),
            site=call.site,
            text=call.text,
        )

    creating = engine.committer.submit(create, patient=True)
    # Where the id is our own nobody else can have taken it: both ride in one batch.
    certain = create.unique_key is None and create.token == child_token(create.run_id)
    if certain:
        await commit(call, save(StepOutcome.OK, _text_schema.encode(create.run_id)))
    answer = await creating
    if isinstance(answer, Fenced):
        activation.lost()
    try:
        run_id = await accept(answer)
    except PerdureError as error:
        data, seen = replayed_error(error)
        await commit(call, save(StepOutcome.ERROR, data))
        mark(seen, (call.key,))
        raise seen from None
    if not certain:
        await commit(call, save(StepOutcome.OK, _text_schema.encode(run_id)))
    return run_id


class _Spawned(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is recorded of runs that one call has started: whose id does not follow from it.

    Args:
        place: from which the ids of the others follow; a restart or a fork keeps it.
        count: how many were asked for.
        found: by index, the ids of runs that were there already.
        errors: by index, what kept one from being started.
    """

    place: str
    count: int
    found: dict[int, str]
    errors: dict[int, bytes]


_spawned_encoder = msgspec.json.Encoder()
_spawned_decoder = msgspec.json.Decoder(_Spawned)


async def start_children(
    call: Call,
    create: Callable[[], list[CreateRun | PerdureError]],
    accept: Callable[[CreateRun, Outcome], Awaitable[str]],
) -> list[str | PerdureError]:
    """Start many runs inside a body by one call, once however often the body replays.

    Args:
        call: the durable call.
        create: returns the runs to create, without parent and grant, which are added here, or what
            is wrong with them; each with its :func:`nth_child_id`.
        accept: takes the store's answer to one and returns the run's id, or raises.

    Returns:
        For each the run's id, or what kept it from being started, now and on every replay.
    """
    record = call.record
    activation = here(call).activation
    if record is not None and record.outcome is not StepOutcome.PENDING:
        await give(call, moment_of(record), record)
        spawned = _spawned_decoder.decode(record.value or b"null")
    else:
        await activation.check(call, in_step=call.scope.in_step)
        if record is None:
            check_fit(call, activation)
        activation.begin_work()
        try:
            spawned = await _spawn(call, activation, create(), accept)
        finally:
            activation.end_work()
    return _started(activation, spawned)


async def _spawn(
    call: Call,
    activation: Activation,
    creates: list[CreateRun | PerdureError],
    accept: Callable[[CreateRun, Outcome], Awaitable[str]],
) -> _Spawned:
    """Start runs and record which; the record follows when the store has answered for all."""
    engine, run = activation.engine, activation.run
    submit = engine.committer.submit
    started_at = engine.store_now()
    root_id = run.root_id or run.run_id
    found: dict[int, str] = {}
    errors = {
        index: encode_error(one) for index, one in enumerate(creates) if isinstance(one, Exception)
    }
    asked: list[tuple[int, CreateRun, Awaitable[Outcome]]] = []
    for index, one in enumerate(creates):
        if isinstance(one, PerdureError):
            continue
        if one.on_parent_close is not ParentClose.ABANDON:
            activation.attaches = True
        create = msgspec.structs.replace(
            one, parent_id=run.run_id, root_id=root_id, by=activation.grant
        )
        asked.append((index, create, submit(create, patient=True)))
    for index, create, creating in asked:
        answer = await creating
        if isinstance(answer, Fenced):
            activation.lost()
        try:
            run_id = await accept(create, answer)
        except PerdureError as error:
            errors[index] = encode_error(error)
        else:
            if run_id != create.run_id:
                found[index] = run_id
    spawned = _Spawned(child_id(call), len(creates), found, errors)
    await commit(call, _spawn_record(call, activation, spawned, started_at))
    return spawned


def _spawn_record(
    call: Call, activation: Activation, spawned: _Spawned, started_at: Micros
) -> SaveCheckpoint:
    return SaveCheckpoint(
        activation.grant,
        call.key,
        call.position,
        StepKind.ENQUEUE,
        StepOutcome.OK,
        _spawned_encoder.encode(spawned),
        started_at=started_at,
        ended_at=activation.stamp(),
        site=call.site,
        text=call.text,
    )


def _started(activation: Activation, spawned: _Spawned) -> list[str | PerdureError]:
    """Return what became of each run that one call has asked for."""
    started: list[str | PerdureError] = []
    for index in range(spawned.count):
        failure = spawned.errors.get(index)
        if failure is None:
            started.append(spawned.found.get(index) or nth_child_id(spawned.place, index))
        else:
            error = decode_error(failure)
            assert isinstance(error, PerdureError), "nothing else is recorded"
            started.append(error)
    # What another generation has started may be gone: whoever awaits it looks first.
    if activation.journal.origin is None:
        activation.children.update(one for one in started if isinstance(one, str))
    return started


async def child_ending(call: Call, run_id: str, join: int) -> Ending:
    """Wait durably for another run to end, and record how it did.

    Returns:
        Its ending, the same on every replay. One without a result is recorded as an error, so
        that a retry of the body, if the error ended it, looks at the other run again.

    Raises:
        RunNotFound: there is no such run.
    """
    if await is_over(call):
        assert call.record is not None
        return _ending_decoder.decode(call.record.value or b"null")
    scope = here(call)
    activation = scope.activation
    await activation.check(call, in_step=call.scope.in_step)
    if run_id not in activation.children and not await _is_there(call, activation, run_id):
        raise RunNotFound(f"there is no run {run_id!r} here, or its retention has ended")
    started_at = activation.engine.store_now()
    try:
        ending = await activation.wait(scope.branch, end_of(run_id, join))
    except asyncio.CancelledError:
        give_up(call, lambda: _awaited(call, run_id, StepOutcome.CANCELLED, None, started_at))
        raise
    assert ending is not None, "a wait for a run ends with its ending"
    outcome = StepOutcome.OK if ending.status == "completed" else StepOutcome.ERROR
    save = _awaited(call, run_id, outcome, _ending_encoder.encode(ending), started_at)
    activation.begin_work()
    try:
        await commit(call, save)
    finally:
        activation.end_work()
    return ending


async def _is_there(call: Call, activation: Activation, run_id: str) -> bool:
    """Tell whether there is a run.

    Raises:
        Leave: the body must leave its worker.
    """
    store = activation.engine.store
    activation.begin_work()
    try:
        found = await activation.ask(lambda: store.get(run_id), call, in_step=call.scope.in_step)
    finally:
        activation.end_work()
    return found is not None


def _awaited(
    call: Call, run_id: str, outcome: StepOutcome, ending: bytes | None, started_at: Micros
) -> SaveCheckpoint:
    """Return the checkpoint of a wait for a run."""
    activation = call.scope.activation
    return SaveCheckpoint(
        activation.grant,
        call.key,
        call.position,
        StepKind.CHILD,
        outcome,
        ending,
        started_at=started_at,
        ended_at=activation.stamp(),
        site=call.site,
        text=run_id,
    )


_ending_encoder = msgspec.json.Encoder()
_ending_decoder = msgspec.json.Decoder(Ending)
