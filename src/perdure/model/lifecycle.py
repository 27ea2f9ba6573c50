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

      what has something to undo is queued again before it is failed or cancelled: `undoing`

      queued, waiting, running: pause ─► paused ─► resume ─► queued or waiting, as it was
      any: restart ─► queued, in a new generation; running: once its claim has ended
      running: continued ─► queued, in a new generation, with another input

Each function takes a run's record, changes it in place and returns the outcome; where the guard
does not hold it returns the refusal and changes nothing. Stores call them inside their own
transaction and write back what changed; whatever concerns other rows (waiters to wake, attempt
rows to add, checkpoints to reopen) is the store's part and is named in the docstrings.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from perdure.model import keys
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
    Undoing,
    WaitKind,
)
from perdure.model.transitions import (
    CancelledByWorker,
    CancelRun,
    Completed,
    Continued,
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
    Undone,
    Verdict,
)
from perdure.model.versions import PinRun, Versions

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
        retention=transition.retention,
        on_parent_close=transition.on_parent_close,
        pin=transition.pin,
    )


def holds(run: RunRecord, grant: Grant) -> bool:
    """Tell whether the grant is the run's current one and the run is running under it."""
    return run.epoch == grant.epoch and run.grant == grant.token and run.status is Status.RUNNING


def standing(run: RunRecord) -> tuple[Status, str | None, int, Undoing]:
    """Return what of a run a verb of an operator must alter for it to be a change of the run."""
    return run.status, run.reason, run.generation, run.undoing


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


def take_back(run: RunRecord, now: Micros, *, cleans: bool) -> None:
    """Take a running run from a worker that stops or never got it (RetireWorker, GiveBack).

    The grant is wiped, so that whoever still writes under it is fenced; ``crashes`` stands. A
    cancel that was accepted is kept. ``cleans``: the worker told so of the run's definition. The
    store's part: delete the wait rows of a run that ended or that :func:`begins_anew`, and wake the
    waiters of one that ended.
    """
    run.grant = 0
    run.cleans = cleans
    match run.control:
        case Control.CANCEL | Control.COMPENSATE:
            _cancel(run, now)
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


def claim(run: RunRecord, worker_id: str, token: int, now: Micros, pin: str | None) -> None:
    """Give a queued run to a worker; ``pin`` is what that pins runs of the definition to."""
    run.status = Status.RUNNING
    run.epoch += 1
    run.grant = token
    run.worker_id = worker_id
    run.claimed_at = now
    run.updated_at = now
    if run.started_at is None:
        run.started_at = now
    if run.pin is None:
        run.pin = pin


def _end(run: RunRecord, status: Status, now: Micros) -> None:
    run.status = status
    run.waiting_for = None
    run.due_at = None
    run.control = Control.NONE
    run.finished_at = now
    run.updated_at = now
    run.closing = run.attaches


def _cancel(run: RunRecord, now: Micros) -> None:
    """Cancel a run that nobody holds as its control word says, or let it undo its steps first."""
    compensates = run.control is Control.COMPENSATE
    if run.epoch and run.undoing is Undoing.NONE and (run.cleans or compensates):
        run.undoing = Undoing.COMPENSATE if compensates else Undoing.CANCEL
        _begin_to_undo(run, now)
        run.error = run.reason = None
    else:
        run.reason = run.paused_at = None
        _end(run, Status.CANCELLED, now)


def begins_anew(before: RunRecord, run: RunRecord) -> bool:
    """Tell whether a run was restarted or has begun to undo its steps: its waits are void."""
    return (before.generation, before.undoing) != (run.generation, run.undoing)


def is_to_be_undone(before: RunRecord, run: RunRecord) -> bool:
    """Tell whether a run has just failed and is to undo its steps, rather than cancelled so."""
    return before.undoing is Undoing.NONE and run.undoing is Undoing.FAILURE


def _begin_to_undo(run: RunRecord, now: Micros) -> None:
    """Queue a run, to undo its steps."""
    run.control = Control.NONE
    run.paused_at = None
    run.misfits = ()
    run.coalesce = 0
    run.closing = run.attaches
    queue_again(run, now)


def settle(run: RunRecord, transition: Settle, now: Micros) -> Settled | Fenced:
    """End a claim.

    The store's part: after a terminal status wake the waiters; for ``Retrying`` add
    :func:`attempt_row` of the record as it was and reopen the culprits; for ``Suspended`` replace
    the wait rows and wake at once where a join is fulfilled already; for every other verdict
    delete the wait rows; for ``Failed`` that leaves the run queued add :func:`attempt_row` of the
    record as it was; where ``continued`` has risen forget what was recorded. Where a cancel or a
    restart was accepted the verdict is not looked at: go by the answer's status.
    """
    if run.epoch != transition.grant.epoch or run.grant != transition.grant.token:
        return Fenced(run.run_id)
    if run.status is not Status.RUNNING:
        return Settled(run.status)
    run.crashes = 0
    run.cleans = transition.cleans
    match run.control:
        case Control.RESTART:
            _begin_again(run, now)
        case Control.CANCEL | Control.COMPENSATE:
            run.result = None
            _cancel(run, now)
        case _:
            _judge(run, transition.verdict, now)
    if run.control is Control.PAUSE:  # an end has cleared the word
        _pause(run, now)
    return Settled(run.status)


def _judge(run: RunRecord, verdict: Verdict, now: Micros) -> None:
    match verdict:
        case Completed():  # first: there are most of them
            _judge_end(run, verdict, now)
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
        case Continued():
            _continue(run, verdict, now)
        case Released():
            queue_again(run, now)
        case Mismatched():
            run.status = Status.PAUSED
            if run.undoing is not Undoing.FAILURE:  # whose error is that of its end
                run.error = verdict.error
            run.reason = "mismatch"
            if verdict.version not in run.misfits:
                run.misfits = (*run.misfits, verdict.version)
            run.updated_at = now
        case _:
            _judge_end(run, verdict, now)


def _judge_end(
    run: RunRecord, verdict: Completed | Failed | CancelledByWorker | Undone, now: Micros
) -> None:
    match verdict:
        case Completed():
            run.result = verdict.result
            run.error = None
            run.reason = "declined" if verdict.declined else None
            run.culprits = encode_keys(verdict.orphans)
            run.cleans = False
            _end(run, Status.COMPLETED, now)
        case Failed():
            run.error = verdict.error
            run.reason = verdict.reason
            run.culprits = encode_keys(verdict.culprits)
            if verdict.compensates and run.undoing is Undoing.NONE:
                word = run.control
                run.undoing = Undoing.FAILURE
                _begin_to_undo(run, now)
                run.control = word  # a pause that was accepted comes before the undoing
            else:
                _end(run, Status.FAILED, now)
        case CancelledByWorker():
            run.reason = None
            _end(run, Status.CANCELLED, now)
        case Undone():
            _undone(run, verdict, now)
        case _:
            assert_never(verdict)


def _undone(run: RunRecord, verdict: Undone, now: Micros) -> None:
    run.culprits = encode_keys(verdict.culprits)
    if verdict.culprits:
        run.error = verdict.error
        run.reason = "compensation"
        _end(run, Status.FAILED, now)
    elif run.undoing is Undoing.FAILURE:
        run.reason = run.reason or "error"
        _end(run, Status.FAILED, now)
    else:
        run.reason = None
        _end(run, Status.CANCELLED, now)


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
    transition: CancelRun,
    now: Micros,
) -> Controlled | Refused:
    """An operator cancels.

    The store's part: audit row; where the run is not running delete the wait rows, and wake the
    waiters of one that ended; where a restart was asked for, clear away what was laid ready for it.
    """
    if run.status in TERMINAL:
        return Refused(run.run_id, run.status)
    _ask_to_cancel(run, now, compensate=transition.compensate)
    return Controlled(run.status)


def _ask_to_cancel(run: RunRecord, now: Micros, *, compensate: bool) -> None:
    if run.undoing is not Undoing.NONE:
        return
    run.updated_at = now
    if run.control is not Control.COMPENSATE:
        run.control = Control.COMPENSATE if compensate else Control.CANCEL
    if run.status is not Status.RUNNING:
        _cancel(run, now)


def close(run: RunRecord) -> None:
    """Note that what is attached to a run whose body is over is being cancelled."""
    run.attaches = run.closing = False


def cancel_of_attached(run_id: str, parent: RunRecord) -> CancelRun:
    """Return the cancel of a run that is attached to one whose body is over."""
    undoes = parent.undoing in {Undoing.COMPENSATE, Undoing.FAILURE}
    return CancelRun(run_id, f"parent:{parent.run_id}@{parent.epoch}", undoes)


def replace(run: RunRecord, transition: CreateRun, now: Micros) -> None:
    """A create cancels the run that holds its unique_key, and takes that.

    The store's part: audit row ``replace``, and as for :func:`cancel`.
    """
    run.key_passed_to = transition.run_id
    _ask_to_cancel(run, now, compensate=False)


def pass_key(run: RunRecord, transition: CreateRun) -> None:
    """A create takes the unique_key of a run, which goes on without it."""
    run.key_passed_to = transition.run_id


def take_input(run: RunRecord, transition: CreateRun, rule: keys.Debounce, now: Micros) -> None:
    """A run that was never claimed takes the input of a create that is debounced."""
    run.input = transition.input
    run.meta = transition.meta
    run.options = transition.options
    run.due_at = keys.due_after(run, rule, transition.delay, now)
    run.updated_at = now


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
        if run.misfits and run.undoing is not Undoing.FAILURE:
            run.error = None
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
    if run.undoing is not Undoing.NONE and run.reason not in {"compensation", "crash"}:
        return Refused(run.run_id, run.status, "its steps were undone; restart it")
    run.attempt += 1
    run.crashes = 0
    run.result = run.reason = run.culprits = None
    if run.undoing is not Undoing.FAILURE:
        run.error = None
    run.misfits = ()
    run.finished_at = run.key_passed_to = None
    queue_again(run, now)
    return Controlled(run.status)


def restart(
    run: RunRecord,
    transition: RestartRun,  # of one shape with settle and rescue
    now: Micros,
) -> Controlled | Refused:
    """An operator lets a run begin again.

    The store's part: look for the step and at the unique_key before; audit row; lay the
    checkpoints of the next generation ready (in the place of others that were), unless the run was
    never claimed; an attempt row, by :func:`restarted_row`; where the run is not running delete the
    wait rows and let those that wait for it wait on.
    """
    if run.control in {Control.CANCEL, Control.COMPENSATE}:
        return Refused(run.run_id, run.status, "it is about to be cancelled")
    if run.status is Status.RUNNING and transition.pin is not None:
        return Refused(run.run_id, run.status, "pause it first to choose its version")
    if run.status in TERMINAL:
        run.key_passed_to = None
    if run.status is Status.RUNNING:
        run.control = Control.RESTART
        run.updated_at = now
    else:
        _begin_again(run, now)
        run.pin = transition.pin
    return Controlled(run.status)


def pin(run: RunRecord, transition: PinRun, now: Micros) -> Controlled | Refused:
    """An operator pins a run, or unpins it. The store's part: audit row."""
    if run.pin != transition.version:
        run.pin = transition.version
        run.updated_at = now
    return Controlled(run.status)


def restarted_row(run: RunRecord, now: Micros) -> Attempt:
    """Return the row that keeps the attempt in which a run was restarted; ``run`` as it was."""
    if run.status not in TERMINAL:
        return attempt_row(run, "restarted", None, now)
    ended_at = now if run.finished_at is None else run.finished_at
    return attempt_row(run, str(run.status), run.error, ended_at)


def _continue(run: RunRecord, verdict: Continued, now: Micros) -> None:
    """Queue the run in its next generation, with the input that its body has left it."""
    control, cleans = run.control, run.cleans
    _begin_again(run, now)
    run.control, run.cleans = control, cleans
    run.input = verdict.input
    run.continued += 1


def _begin_again(run: RunRecord, now: Micros) -> None:
    """Queue the run in its next generation, as one that nothing has befallen yet."""
    if run.epoch:
        run.generation += 1
        run.started_at = None
    run.attempt = 1
    run.crashes = 0
    run.error = run.result = run.reason = run.culprits = None
    run.misfits = ()
    run.undoing = Undoing.NONE
    run.cleans = False
    run.paused_at = run.finished_at = None
    run.control = Control.NONE
    run.coalesce = 0
    run.pin = None
    queue_again(run, now)


def rescue(
    run: RunRecord, transition: RescueWorker, *, progressed: bool, cleans: bool, now: Micros
) -> None:
    """A dead worker's run is given back or ended.

    ``progressed``: a checkpoint was written under the run's epoch. ``cleans``: the worker told so
    of the run's definition. The grant is wiped, so that the worker, should it live, is fenced. The
    store's part: an attempt row with outcome ``crashed`` before; the rest as for
    :func:`take_back`. Any other queued run keeps its wait rows.
    """
    run.grant = 0
    run.crashes = 0 if progressed else run.crashes + 1
    run.cleans = cleans
    if run.control in {Control.CANCEL, Control.COMPENSATE}:
        _cancel(run, now)
    elif run.control is Control.RESTART:
        _begin_again(run, now)
    elif run.crashes >= transition.crash_cap:
        run.error = transition.error
        run.reason = "crash"
        _end(run, Status.FAILED, now)
    else:
        _go_on(run, now)


def may_refit(run: RunRecord, versions: Versions) -> bool:
    """Tell whether a worker with these versions of definitions gives a mismatch another chance."""
    version = versions.for_run(run)
    return (
        run.status is Status.PAUSED
        and run.reason == "mismatch"
        and version is not None
        and version not in run.misfits
    )


def refit(run: RunRecord, now: Micros) -> None:
    """A worker whose code may fit asks for work: queue the run again."""
    run.reason = None
    if run.undoing is not Undoing.FAILURE:
        run.error = None
    queue_again(run, now)
