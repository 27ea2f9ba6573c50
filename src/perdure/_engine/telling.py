"""What the engine tells its hooks: from a claim, a save, a settle and their answers to records.

Each function is called once the store has answered, and only where ``hooks.kinds`` is not empty
(for steps: where ``hooks.of_steps`` says so); each makes a record only of a kind that somebody
listens to. Nothing here changes what the engine does. Workers and apps tell of themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import TYPE_CHECKING, ParamSpec, TypedDict, TypeVar

import msgspec

from perdure.clock import to_datetime
from perdure.codec.failures import ErrorSummary, error_summary
from perdure.errors import StoreError
from perdure.model.records import Control, Micros, RunRecord, Status, StepKind, StepOutcome
from perdure.model.transitions import (
    Completed,
    Conflict,
    Continued,
    Failed,
    Fenced,
    Mismatched,
    Released,
    Retrying,
    SaveCheckpoint,
    Saved,
    Settled,
    Suspended,
    Undone,
    Verdict,
)
from perdure.telemetry import (
    Log,
    OfRun,
    RunCancelled,
    RunCompleted,
    RunContinued,
    RunFailed,
    RunPaused,
    RunReleased,
    RunResumed,
    RunRetryScheduled,
    RunStarted,
    RunSuspended,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepRetryScheduled,
    StepStarted,
)

if TYPE_CHECKING:
    from perdure._engine.activation import Activation
    from perdure._engine.engine import Engine

P = ParamSpec("P")
T = TypeVar("T")

log = Log("perdure.hooks")

_log_decoder = msgspec.json.Decoder(list[tuple[int, Micros, Micros, str, str]])
"""Of a checkpoint's log: the number of each failed attempt comes first."""


class _Place(TypedDict):
    """What every record of a run says."""

    at: datetime
    run_id: str
    name: str
    queue: str
    attempt: int
    worker_id: str | None
    parent_id: str | None


def _place(engine: Engine, run: RunRecord) -> _Place:
    return {
        "at": to_datetime(engine.store_now()),
        "run_id": run.run_id,
        "name": run.definition,
        "queue": run.queue,
        "attempt": run.attempt,
        "worker_id": run.worker_id,
        "parent_id": run.parent_id,
    }


def _length(start: Micros | None, end: Micros) -> timedelta:
    return timedelta(microseconds=0 if start is None else max(0, end - start))


def _harmless(tell: Callable[P, None]) -> Callable[P, None]:
    """Let nothing out: whoever tells goes on whatever becomes of the record."""

    @wraps(tell)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except Exception:
            # An instant beyond the year 9999, say.
            log.exception("hook could not be told", telling=tell.__name__)

    return told


# --- runs ------------------------------------------------------------------------------------


def claimed(activation: Activation) -> None:
    """Tell that a worker has taken the run, for the first time or again.

    The settle of the run's last claim may ride in this claim's batch, and is told after this is
    called: so this is told in the loop's next turn, and still before the body begins.
    """
    activation.executor.loop.call_soon(_claimed, activation)


@_harmless
def _claimed(activation: Activation) -> None:
    engine, run = activation.engine, activation.run
    if run.epoch > 1:
        if RunResumed in engine.hooks.kinds:
            engine.hooks.tell(RunResumed(**_place(engine, run)))
    elif RunStarted in engine.hooks.kinds:
        queued = _length(run.created_at, run.started_at or run.created_at)
        engine.hooks.tell(RunStarted(**_place(engine, run), queued=queued))


def when_settled(
    activation: Activation, verdict: Verdict, answered: asyncio.Future[Settled | Fenced]
) -> None:
    """Tell what becomes of the run, once that is answered; nothing where it is refused."""
    _when_done(answered, partial(_settled, activation, verdict))


@_harmless
def _settled(
    activation: Activation, verdict: Verdict, answered: asyncio.Future[Settled | Fenced]
) -> None:
    if answered.cancelled() or answered.exception() is not None:
        return
    answer = answered.result()
    if isinstance(answer, Settled):
        for hook in _of_verdict(activation, verdict, answer):
            activation.engine.hooks.tell(hook)


def _when_done(future: asyncio.Future[T], tell: Callable[[asyncio.Future[T]], None]) -> None:
    """Call at once where the answer is there, else as soon as it is.

    The loop would call later than it does for a claim that was answered in the same moment.
    """
    if future.done():
        tell(future)
    else:
        future.add_done_callback(tell)


def _of_verdict(activation: Activation, verdict: Verdict, answer: Settled) -> list[OfRun]:
    engine, run = activation.engine, activation.run
    kinds = engine.hooks.kinds
    if answer.status is Status.CANCELLED:
        return _cancelled(engine, run, run.worker_id)
    if answer.status is Status.PAUSED:
        return _paused(activation, verdict)
    match verdict:
        case Completed() if answer.status is Status.COMPLETED and RunCompleted in kinds:
            duration = _length(run.started_at, engine.store_now())
            return [RunCompleted(**_place(engine, run), duration=duration)]
        case Failed() if answer.status is Status.FAILED and RunFailed in kinds:
            return [_failed(engine, run, verdict.error, verdict.reason)]
        case Undone() if answer.status is Status.FAILED and RunFailed in kinds:
            error = verdict.error or run.error or b"null"
            reason = "compensation" if verdict.culprits else run.reason or "error"
            return [_failed(engine, run, error, reason)]
        case Retrying() if answer.status is Status.WAITING:
            return _retrying(activation, verdict)
        case Suspended() if RunSuspended in kinds:
            return [_suspended(engine, run, verdict)]
        case Released() if RunReleased in kinds:
            return [RunReleased(**_place(engine, run))]
        case Continued() if answer.status is Status.QUEUED and RunContinued in kinds:
            return [RunContinued(**_place(engine, run))]
        case _:
            return []


def _paused(activation: Activation, verdict: Verdict) -> list[OfRun]:
    engine, mismatch = activation.engine, activation.mismatch
    if RunPaused not in engine.hooks.kinds:
        return []
    place = _place(engine, activation.run)
    if isinstance(verdict, Mismatched) and mismatch is not None:
        return [RunPaused(**place, reason="mismatch", step=mismatch.step)]
    return [RunPaused(**place, reason="operator", step="")]


def _cancelled(engine: Engine, run: RunRecord, worker_id: str | None) -> list[OfRun]:
    if RunCancelled not in engine.hooks.kinds:
        return []
    place = _place(engine, run)
    place["worker_id"] = worker_id
    duration = _length(run.started_at, engine.store_now())
    return [RunCancelled(**place, duration=duration)]


def _failed(
    engine: Engine, run: RunRecord, error: bytes, reason: str, *, will_retry: bool = False
) -> RunFailed:
    return RunFailed(
        **_place(engine, run),
        will_retry=will_retry,
        reason=reason,
        error=error_summary(error),
        duration=_length(run.started_at, engine.store_now()),
    )


def _retrying(activation: Activation, verdict: Retrying) -> list[OfRun]:
    engine, run = activation.engine, activation.run
    kinds = engine.hooks.kinds
    told: list[OfRun] = []
    if RunFailed in kinds:
        reason = "timeout" if activation.leaving == "timeout" else "error"
        told.append(_failed(engine, run, verdict.error, reason, will_retry=True))
    if RunRetryScheduled in kinds:
        place = _place(engine, run)
        place["attempt"] += 1
        delay = timedelta(microseconds=verdict.delay)
        told.append(RunRetryScheduled(**place, delay=delay, due_at=place["at"] + delay))
    return told


def _suspended(engine: Engine, run: RunRecord, verdict: Suspended) -> RunSuspended:
    due = [wait.due_at for wait in verdict.waits if wait.due_at is not None]
    return RunSuspended(
        **_place(engine, run),
        waiting_for=tuple(dict.fromkeys(wait.kind for wait in verdict.waits)),
        due_at=to_datetime(min(due)) if due else None,
    )


async def replaced(engine: Engine, run_id: str) -> None:
    """Tell of a run whose unique_key a create of this process took: it has ended, or shall."""
    for hear in engine.controlled:
        hear(run_id, Control.CANCEL)
    engine.watcher.hint()
    await stopped(engine, [run_id])


async def closed(engine: Engine, run_ids: Iterable[str]) -> None:
    """Tell of attached runs that have ended because the body of their parent is over."""
    engine.watcher.hint()
    await stopped(engine, run_ids)


async def stopped(engine: Engine, run_ids: Iterable[str]) -> None:
    """Tell of runs that no worker held when they were cancelled, paused, or crashed too often.

    The answer that says so names only the runs, so they are read where somebody listens.
    """
    if engine.hooks.kinds.isdisjoint((RunCancelled, RunFailed, RunPaused)):
        return
    for run_id in run_ids:
        try:
            run = await engine.store.get(run_id)
        except StoreError as error:
            log.warning("cannot tell how a run ended", run_id=run_id, error=error)
            continue
        if run is not None:
            _stopped(engine, run)


@_harmless
def _stopped(engine: Engine, run: RunRecord) -> None:
    if run.status is Status.CANCELLED:
        for hook in _cancelled(engine, run, None):
            engine.hooks.tell(hook)
    elif run.status is Status.FAILED and RunFailed in engine.hooks.kinds:
        failed = _failed(engine, run, run.error or b"null", run.reason or "error")
        engine.hooks.tell(msgspec.structs.replace(failed, worker_id=None))
    elif run.status is Status.PAUSED and RunPaused in engine.hooks.kinds:
        place = _place(engine, run)
        place["worker_id"] = None
        engine.hooks.tell(RunPaused(**place, reason=run.reason or "operator", step=""))


# --- steps -----------------------------------------------------------------------------------


class _StepPlace(_Place):
    """What every record of a step says."""

    step: str
    step_attempt: int


def _step_place(activation: Activation, path: str, number: int) -> _StepPlace:
    return {**_place(activation.engine, activation.run), "step": path, "step_attempt": number}


@_harmless
def step_started(activation: Activation, path: str, number: int) -> None:
    """Tell that an attempt of a step begins."""
    hooks = activation.hooks
    if StepStarted in hooks.kinds:
        hooks.tell(StepStarted(**_step_place(activation, path, number)))


@_harmless
def saved(activation: Activation, save: SaveCheckpoint, answer: Saved) -> None:
    """Tell how a step stands now that it is recorded."""
    if save.kind is not StepKind.STEP:
        return
    hooks = activation.hooks
    duration = _length(save.started_at, save.ended_at)
    match save.outcome:
        case StepOutcome.OK:
            if StepCompleted in hooks.kinds:
                place = _step_place(activation, save.key.path, save.tries)
                hooks.tell(StepCompleted(**place, duration=duration))
        case StepOutcome.CANCELLED:
            if StepCancelled in hooks.kinds:
                place = _step_place(activation, save.key.path, save.tries)
                hooks.tell(StepCancelled(**place, duration=duration))
        case StepOutcome.PENDING if save.value is None:
            pass  # the start of one that is at_most_once: its attempt is told by itself
        case _:
            _step_failed(activation, save, answer)


def _step_failed(activation: Activation, save: SaveCheckpoint, answer: Saved) -> None:
    hooks = activation.hooks
    # Inside another step a final failure is recorded as reopened, at attempt 0.
    will_retry = save.outcome is StepOutcome.PENDING and save.tries > 0
    place = _step_place(activation, save.key.path, save.tries or _last_number(save.log))
    if StepFailed in hooks.kinds:
        error: ErrorSummary = error_summary(save.value or b"null")
        hooks.tell(
            StepFailed(
                **place,
                will_retry=will_retry,
                timeout=save.outcome is StepOutcome.TIMEOUT,
                error=error,
                duration=_length(save.started_at, save.ended_at),
            )
        )
    if will_retry and StepRetryScheduled in hooks.kinds:
        place["step_attempt"] += 1
        delay = timedelta(microseconds=save.delay or 0)
        due_at = place["at"] + delay if answer.due_at is None else to_datetime(answer.due_at)
        hooks.tell(StepRetryScheduled(**place, delay=delay, due_at=due_at))


def _last_number(log: bytes | None) -> int:
    return _log_decoder.decode(log)[-1][0] if log else 0


def when_saved(
    activation: Activation,
    save: SaveCheckpoint,
    committed: asyncio.Future[Saved | Fenced | Conflict],
) -> None:
    """Tell the same of a save that nobody awaits, as soon as it is answered."""
    _when_done(committed, partial(_saved_unawaited, activation, save))


def _saved_unawaited(
    activation: Activation,
    save: SaveCheckpoint,
    committed: asyncio.Future[Saved | Fenced | Conflict],
) -> None:
    if committed.cancelled() or committed.exception() is not None:
        return
    answer = committed.result()
    if isinstance(answer, Saved):
        saved(activation, save, answer)
