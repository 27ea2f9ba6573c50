"""What a run undoes before it ends: its definition's ``on_cancel``, and compensations.

A body registers compensations as it goes, with plain calls that write nothing: a replay registers
the same ones. So to undo is to replay the body, without executing anything that is not recorded,
until it can go no further, and then to execute what it has registered, the last one first, each as
a step in a scope of its own. It begins with a claim of its own, whatever the run was doing before;
see ``undoing`` in :mod:`perdure.model.lifecycle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec

from perdure._engine import scope as scopes
from perdure._engine.activation import UNDOING, Activation
from perdure._engine.calls import perform
from perdure._engine.journal import is_of_the_body
from perdure._engine.scope import Call, Scope, digest_of
from perdure.codec.failures import encode_error
from perdure.errors import UsageError
from perdure.model.records import StepKey, StepKind, Undoing
from perdure.model.transitions import Undone
from perdure.telemetry import Log

if TYPE_CHECKING:
    from perdure._engine.definition import StepSpec

log = Log("perdure.run")

REPLAY_LIMIT: Final = 30.0
"""Seconds for which the body may go on by itself, past what is recorded, before it is stopped: it
may be in something that is neither a durable call nor awaited in one."""


class Compensation(msgspec.Struct, frozen=True):
    """One call that undoes something.

    Args:
        spec: how it is executed.
        args, kwargs: of the call.
        fingerprint: of them.
        text: the beginning of them as text.
        site: where it was registered.
    """

    spec: StepSpec
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    fingerprint: bytes
    text: str
    site: str


async def undo(
    activation: Activation,
    body: Callable[[], Coroutine[Any, Any, Any]],
    on_cancel: Compensation | None,
) -> Undone:
    """Undo what a run has done, and return the verdict.

    Args:
        activation: of a run that is ``undoing``.
        body: begins its body.
        on_cancel: what its definition has to do when it is cancelled.
    """
    undoing = activation.run.undoing
    if undoing is not Undoing.CANCEL:
        await _replay(activation, body)
    todo = [] if on_cancel is None or undoing is Undoing.FAILURE else [on_cancel]
    if undoing is not Undoing.CANCEL:
        todo += reversed(activation.compensations)
    return await _each(activation, todo)


async def _replay(activation: Activation, body: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    replayed, halted = activation.begin_replay(body())
    over, _ = await asyncio.wait(
        [replayed, halted], timeout=REPLAY_LIMIT, return_when=asyncio.FIRST_COMPLETED
    )
    if not over:
        log.warning(
            "body goes on by itself past what is recorded; its compensations begin",
            run_id=activation.run.run_id,
            definition=activation.definition.name,
            seconds=REPLAY_LIMIT,
        )
    await activation.end_replay()


async def _each(activation: Activation, todo: list[Compensation]) -> Undone:
    """Execute one after the other; one that fails keeps none of the others from being executed."""
    scope = activation.scope_apart(UNDOING, digest_of("undo"))
    failed: list[StepKey] = []
    last: Exception | None = None
    token = scopes.enter(scope)
    try:
        for one in todo:
            call = Call(scope, StepKind.STEP, one.spec.name, one.fingerprint, one.text, one.site)
            stand_in = activation.engine.stand_in
            spec = one.spec if stand_in is None else stand_in(one.spec)
            try:
                await perform(call, spec, one.args, dict(one.kwargs))
            except Exception as error:  # noqa: BLE001 -- the verdict tells of it
                failed.append(call.key)
                last = error
    finally:
        scopes.leave(token)
    return Undone(None if last is None else encode_error(last), tuple(failed))


def register(scope: Scope, compensation: Compensation) -> None:
    """Note what undoes what the body of a run has done, or is about to do.

    Raises:
        UsageError: the code is not the body's own, which a replay executes again.
    """
    if scope.in_step or not is_of_the_body(scope.path):
        raise UsageError(
            "compensate() was called in a step, or in a body that is run inline: what was recorded "
            "of it is not done again on a replay, and would not be undone; call it in the run's "
            "own body"
        )
    scope.activation.compensations.append(compensation)


# --- here and now ----------------------------------------------------------------------------


class HereAndNow(msgspec.Struct, frozen=True, eq=False):
    """A body that is run here and now: what it has registered, and the loop that runs it."""

    registered: list[Compensation]
    loop: asyncio.AbstractEventLoop


_here: ContextVar[HereAndNow | None] = ContextVar("perdure_here", default=None)


def register_here(compensation: Compensation) -> bool:
    """Note it for the body that is run here and now; tell whether there is one."""
    here = _here.get()
    if here is not None:
        here.registered.append(compensation)
    return here is not None


def here_and_now() -> HereAndNow | None:
    """Return the body that is run here and now, if the code is its own or called by it."""
    return _here.get()


def count_here() -> int:
    """Return how much the body has registered that is run here and now."""
    here = _here.get()
    return 0 if here is None else len(here.registered)


@contextmanager
def collecting() -> Generator[list[Compensation]]:
    """Collect what a body registers that is run here and now."""
    here = HereAndNow([], asyncio.get_running_loop())
    token = _here.set(here)
    try:
        yield here.registered
    finally:
        _here.reset(token)


async def undo_here(registered: list[Compensation], error: BaseException) -> None:
    """Execute what a body that failed here and now has registered, and note what failed of it."""
    for one in reversed(registered):
        try:
            value = one.spec.function(*one.args, **one.kwargs)
            if asyncio.iscoroutine(value):
                await value
        except Exception as failure:  # noqa: BLE001 -- the body's own error is raised
            error.add_note(f"its compensation {one.spec.name!r} failed: {failure!r}")
