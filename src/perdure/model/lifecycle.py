"""The state machine of a run: which status may follow which, and what changes with it.

::

                 create                     claim                  settle: completed
      (delay) ┌──────────► waiting ─due─► queued ─────► running ──────────────────────► completed
              │                ▲             ▲             │ ├── failed, crash cap ─────► failed
      create ─┴────────────────┼─────────────┤             │ └── cancel heard ──────────► cancelled
                               │             │             │
                               └─ suspended ─┼─ released ──┤   queued, waiting, paused: cancel
                                  retrying   │  rescued    │   ends them at once;
                                             └── paused ◄──┘   failed, cancelled: retry ─► queued
                            a fitting worker claims   mismatch

      queued, waiting, running: pause ─► paused ─► resume ─► queued or waiting, as it was
      any: restart ─► queued, in a new generation; running: once its claim has ended

Each function takes a run's record, changes it in place and returns the outcome; where the guard
does not hold it returns the refusal and changes nothing. Stores call them inside their own
transaction and write back what changed; whatever concerns other rows (waiters to wake, attempt
rows to add, checkpoints to reopen) is the store's part and is named in the docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import msgspec

from perdure.model.records import (
    TERMINAL,
    Attempt,
    Control,
    Grant,
    Micros,
    Rank,
    RunRecord,
    Status,
    StepKey,
    WaitKind,
)
from perdure.model.transitions import (
    CancelledByWorker,
    CancelRun,
    Completed,
    Controlled,
    CreateRun,
    Failed,
    Fenced,
    Mismatched,
    PauseRun,
    Refused,
    Released,
    RescueWorker,
    RestartRun,
    ResumeRun,
    Retrying,
    RetryRun,
    Settle,
    Settled,
    Suspended,
    Verdict,
)

SUSPECT_AFTER = 2
"""Crashes in a row after which a run is claimed only by a worker that holds nothing else."""

_keys_encoder = msgspec.json.Encoder()
_keys_decoder = msgspec.json.Decoder(tuple[StepKey, ...])


def encode_keys(keys: tuple[StepKey, ...]) -> bytes | None:
    """Encode the keys of culprits for a run's ``culprits`` column; None for none."""
    return _keys_encoder.encode(keys) if keys else None


def decode_keys(data: bytes | None) -> tuple[StepKey, ...]:
    """Decode what :func:`encode_keys` made."""
    return _keys_decoder.decode(data) if data else ()


def create(transition: CreateRun, seq: int, now: Micros) -> RunRecord:
    """Return the new run of a create whose guard was found to hold."""
    delayed = transition.delay > 0
    return RunRecord(
        seq=seq,
        run_id=transition.run_id,
        definition=transition.definition,
        version=transition.version,
        queue=transition.queue,
        priority=transition.priority,
        unique_key=transition.unique_key,
        token=transition.token,
        input=transition.input,
        meta=transition.meta,
        options=transition.options,
        tags=transition.tags,
        parent_id=transition.parent_id,
        root_id=transition.root_id,
        created_at=now,
        updated_at=now,
        status=Status.WAITING if delayed else Status.QUEUED,
        waiting_for=WaitKind.DELAY if delayed else None,
        due_at=now + transition.delay if delayed else None,
        caused_by=transition.caused_by,
        limit_key=transition.limit_key,
    )


def holds(run: RunRecord, grant: Grant) -> bool:
    """Tell whether the grant is the run's current one and the run is running under it."""
    return run.epoch == grant.epoch and run.grant == grant.token and run.status is Status.RUNNING


def standing(run: RunRecord) -> tuple[Status, str | None, int]:
    """Return what of a run a verb of an operator must alter for it to be a change of the run."""
    return run.status, run.reason, run.generation


def rank_when_queued(run: RunRecord) -> Rank:
    """Return how the run is claimed when it becomes queued (again)."""
    if run.crashes >= SUSPECT_AFTER:
        return Rank.SUSPECT
    return Rank.RESUMED if run.epoch else Rank.FRESH


def queue_again(run: RunRecord, now: Micros) -> None:
    """Make the run claimable now."""
    run.status = Status.QUEUED
    run.rank = rank_when_queued(run)
    run.waiting_for = None
    run.due_at = None
    run.updated_at = now


def wake(run: RunRecord, now: Micros) -> None:
    """A join of a waiting run is fulfilled: queue it, or soon, when its wake-ups coalesce."""
    if run.coalesce:
        soon = now + run.coalesce
        run.due_at = soon if run.due_at is None else min(run.due_at, soon)
    else:
        queue_again(run, now)


def take_back(run: RunRecord, now: Micros) -> None:
    """Take a running run from a worker that stops or never got it (RetireWorker, GiveBack).

    The grant is wiped, so that whoever still writes under it is fenced; ``crashes`` stands. A
    cancel that was accepted is kept: the run ends. The store's part: waking the waiters then.
    """
    run.grant = 0
    match run.control:
        case Control.CANCEL:
            _end(run, Status.CANCELLED, now)
        case Control.RESTART:
            _begin_again(run, now)
        case _:
            _go_on(run, now)


def _go_on(run: RunRecord, now: Micros) -> None:
    """Queue a run that its holder gave up, or pause it where that was asked for."""
    queue_again(run, now)
    if run.control is Control.PAUSE:
        _pause(run, now)


def _pause(run: RunRecord, now: Micros) -> None:
    run.status = Status.PAUSED
    run.reason = "operator"
    run.control = Control.NONE
    run.paused_at = now
    run.updated_at = now


def claim(run: RunRecord, worker_id: str, token: int, now: Micros) -> None:
    """Give a queued run to a worker."""
    run.status = Status.RUNNING
    run.epoch += 1
    run.grant = token
    run.worker_id = worker_id
    run.claimed_at = now
    run.updated_at = now
    if run.started_at is None:
        run.started_at = now


def _end(run: RunRecord, status: Status, now: Micros) -> None:
    run.status = status
    run.waiting_for = None
    run.due_at = None
    run.control = Control.NONE
    run.finished_at = now
    run.updated_at = now


def settle(run: RunRecord, transition: Settle, now: Micros) -> Settled | Fenced:
    """End a claim.

    The store's part: after a terminal status wake the waiters; for ``Retrying`` add
    :func:`attempt_row` of the record as it was and reopen the culprits; for ``Suspended`` replace
    the wait rows and wake at once where a join is fulfilled already; for every other verdict
    delete the wait rows. Where a cancel or a restart was accepted the verdict is not looked at: go
    by the answer's status.
    """
    if run.epoch != transition.grant.epoch or run.grant != transition.grant.token:
        return Fenced(run.run_id)
    if run.status is not Status.RUNNING:
        return Settled(run.status)
    run.crashes = 0
    if run.control is Control.RESTART:
        _begin_again(run, now)
        return Settled(run.status)
    verdict = transition.verdict
    if run.control is Control.CANCEL:
        verdict = CancelledByWorker()
    _judge(run, verdict, now)
    if run.control is Control.PAUSE:  # an end has cleared the word
        _pause(run, now)
    return Settled(run.status)


def _judge(run: RunRecord, verdict: Verdict, now: Micros) -> None:
    match verdict:
        case Completed():
            run.result = verdict.result
            run.error = None
            run.reason = "declined" if verdict.declined else None
            run.culprits = encode_keys(verdict.orphans)
            _end(run, Status.COMPLETED, now)
        case Failed():
            run.error = verdict.error
            run.reason = verdict.reason
            run.culprits = encode_keys(verdict.culprits)
            _end(run, Status.FAILED, now)
        case Retrying():
            run.attempt += 1
            run.error = verdict.error
            run.status = Status.WAITING
            run.waiting_for = WaitKind.RETRY
            run.due_at = now + verdict.delay
            run.coalesce = 0
            run.updated_at = now
        case Suspended():
            dues = [wait.due_at for wait in verdict.waits if wait.due_at is not None]
            run.status = Status.WAITING
            run.due_at = min(dues) if dues else None
            run.waiting_for = _waiting_for(verdict, run.due_at)
            run.coalesce = verdict.coalesce
            run.updated_at = now
        case Released():
            queue_again(run, now)
        case Mismatched():
            run.status = Status.PAUSED
            run.error = verdict.error
            run.reason = "mismatch"
            if verdict.version not in run.misfits:
                run.misfits = (*run.misfits, verdict.version)
            run.updated_at = now
        case CancelledByWorker():
            run.reason = None
            _end(run, Status.CANCELLED, now)
        case _:
            assert_never(verdict)


def _waiting_for(verdict: Suspended, due_at: Micros | None) -> WaitKind | None:
    for wait in verdict.waits:
        if wait.due_at == due_at:
            return wait.kind
    return None


def attempt_row(
    run: RunRecord,
    outcome: str,
    error: bytes | None,
    ended_at: Micros,
    due_at: Micros | None = None,
) -> Attempt:
    """Return the row that keeps an ended attempt or claim; ``run`` as it was before.

    By ``Retrying``: outcome ``failed``, the verdict's error, now, the next attempt's ``due_at``.
    By ``RescueWorker``: ``crashed``, the transition's error, now. By ``RetryRun``: the status that
    is left (``failed``, ``cancelled``), the run's own error, its ``finished_at``.
    """
    return Attempt(
        number=run.attempt,
        epoch=run.epoch,
        worker_id=run.worker_id,
        claimed_at=run.claimed_at,
        ended_at=ended_at,
        outcome=outcome,
        error=error,
        due_at=due_at,
    )


def cancel(
    run: RunRecord,
    transition: CancelRun,  # noqa: ARG001  # of one shape with settle and rescue
    now: Micros,
) -> Controlled | Refused:
    """An operator cancels.

    The store's part: audit row; for an ended run delete the wait rows and wake the waiters; where
    a restart was asked for, clear away what was laid ready for it.
    """
    if run.status in TERMINAL:
        return Refused(run.run_id, run.status)
    run.updated_at = now
    if run.status is Status.RUNNING:
        run.control = Control.CANCEL
    else:
        run.reason = run.paused_at = None
        _end(run, Status.CANCELLED, now)
    return Controlled(run.status)


def pause(
    run: RunRecord,
    transition: PauseRun,  # noqa: ARG001  # of one shape with settle and rescue
    now: Micros,
) -> Controlled | Refused:
    """An operator pauses. The store's part: audit row. The wait rows stand."""
    if run.status in TERMINAL:
        return Refused(run.run_id, run.status)
    if run.control is Control.RESTART:
        return Refused(run.run_id, run.status, "it is about to be restarted")
    if run.status is not Status.RUNNING:
        if run.paused_at is None:
            _pause(run, now)
    elif run.control is Control.NONE:
        run.control = Control.PAUSE
        run.updated_at = now
    return Controlled(run.status)


def resume(
    run: RunRecord,
    transition: ResumeRun,  # noqa: ARG001  # of one shape with settle and rescue
    now: Micros,
) -> Controlled | Refused:
    """An operator lets a paused run go on.

    The store's part: audit row; shift the due times of its wait rows and pending checkpoints by
    :func:`paused_for` of the record as it was; wake it where it waits and a join is fulfilled.
    """
    if run.status is Status.RUNNING and run.control is Control.PAUSE:
        run.control = Control.NONE
        run.updated_at = now
        return Controlled(run.status)
    if run.status is not Status.PAUSED:
        return Refused(run.run_id, run.status)
    shift = paused_for(run, now)
    run.reason = run.paused_at = None
    if run.waiting_for is None:
        run.error = None if run.misfits else run.error
        queue_again(run, now)
    else:
        run.status = Status.WAITING
        run.due_at = None if run.due_at is None else run.due_at + shift
        run.updated_at = now
    run.misfits = ()
    return Controlled(run.status)


def paused_for(run: RunRecord, now: Micros) -> Micros:
    """Return for how long a run has been paused by hand; 0 for one that is not."""
    return 0 if run.paused_at is None else max(0, now - run.paused_at)


def retry(
    run: RunRecord,
    transition: RetryRun,  # noqa: ARG001  # of one shape with settle and rescue
    now: Micros,
) -> Controlled | Refused:
    """An operator retries. The store's part: key check before, audit row, attempt row, culprits."""
    if run.status not in (Status.FAILED, Status.CANCELLED):
        return Refused(run.run_id, run.status)
    run.attempt += 1
    run.crashes = 0
    run.error = run.result = run.reason = run.culprits = None
    run.misfits = ()
    run.finished_at = None
    queue_again(run, now)
    return Controlled(run.status)


def restart(
    run: RunRecord,
    transition: RestartRun,  # noqa: ARG001  # of one shape with settle and rescue
    now: Micros,
) -> Controlled | Refused:
    """An operator lets a run begin again.

    The store's part: look for the step and at the unique_key before; audit row; lay the
    checkpoints of the next generation ready (in the place of others that were), unless the run was
    never claimed; an attempt row, by :func:`restarted_row`; where the run is not running delete the
    wait rows and let those that wait for it wait on.
    """
    if run.control is Control.CANCEL:
        return Refused(run.run_id, run.status, "it is about to be cancelled")
    if run.status is Status.RUNNING:
        run.control = Control.RESTART
        run.updated_at = now
    else:
        _begin_again(run, now)
    return Controlled(run.status)


def restarted_row(run: RunRecord, now: Micros) -> Attempt:
    """Return the row that keeps the attempt in which a run was restarted; ``run`` as it was."""
    if run.status not in TERMINAL:
        return attempt_row(run, "restarted", None, now)
    ended_at = now if run.finished_at is None else run.finished_at
    return attempt_row(run, str(run.status), run.error, ended_at)


def _begin_again(run: RunRecord, now: Micros) -> None:
    """Queue the run in its next generation, as one that nothing has befallen yet."""
    if run.epoch:
        run.generation += 1
        run.started_at = None
    run.attempt = 1
    run.crashes = 0
    run.error = run.result = run.reason = run.culprits = None
    run.misfits = ()
    run.paused_at = run.finished_at = None
    run.control = Control.NONE
    run.coalesce = 0
    queue_again(run, now)


def rescue(run: RunRecord, transition: RescueWorker, *, progressed: bool, now: Micros) -> None:
    """A dead worker's run is given back or ended.

    ``progressed``: a checkpoint was written under the run's epoch. The grant is wiped, so that the
    worker, should it live, is fenced. The store's part: an attempt row with outcome ``crashed``
    before; for an ended run delete the wait rows and wake the waiters. A queued run keeps its rows.
    """
    run.grant = 0
    run.crashes = 0 if progressed else run.crashes + 1
    if run.control is Control.CANCEL:
        _end(run, Status.CANCELLED, now)
    elif run.control is Control.RESTART:
        _begin_again(run, now)
    elif run.crashes >= transition.crash_cap:
        run.error = transition.error
        run.reason = "crash"
        _end(run, Status.FAILED, now)
    else:
        _go_on(run, now)


def may_refit(run: RunRecord, definitions: Mapping[str, str]) -> bool:
    """Tell whether a worker with these versions of definitions gives a mismatch another chance."""
    version = definitions.get(run.definition)
    return (
        run.status is Status.PAUSED
        and run.reason == "mismatch"
        and version is not None
        and version not in run.misfits
    )


def refit(run: RunRecord, now: Micros) -> None:
    """A worker whose code may fit asks for work: queue the run again."""
    run.error = run.reason = None
    queue_again(run, now)
