"""What a hook is told: one frozen record for each kind of thing that happens.

A record holds names, ids and times, never a payload: no input, no argument, no result, no meta. It
is told where it happened (this process) after the store has it. Listening to a class that others
derive from listens to all of them: ``Hook`` is everything.

Hook
├── AppHook             AppReady, AppError
├── WorkerHook          WorkerReady, WorkerLost, WorkerStopped, WorkerError, RunsRescued
│   └── LeaderHook      LeaderElected, LeaderLost
├── ScheduleHook        ScheduleTriggered, ScheduleMissed
└── OfRun               has the run's id, definition, queue, attempt
    ├── RunHook         RunStarted, RunResumed, RunSuspended, RunReleased, RunContinued, RunPaused,
    │                   RunCompleted, RunFailed, RunRetryScheduled, RunCancelled
    └── StepHook        StepStarted, StepCompleted, StepFailed, StepRetryScheduled, StepCancelled
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from perdure.codec.failures import ErrorSummary
from perdure.model.records import WaitKind


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """Something has happened.

    Attributes:
        at: when, aware UTC, by the store's clock as far as this process knows it; a later hook may
            be some milliseconds behind. The order is that of delivery.
    """

    at: datetime


# --- the app ---------------------------------------------------------------------------------


class AppHook(Hook, frozen=True, kw_only=True):
    """Something happened to the app itself."""


class AppReady(AppHook, frozen=True, kw_only=True):
    """The app is connected: its store is open."""


class AppError(AppHook, frozen=True, kw_only=True):
    """The store could not be opened, or did not take what was to be written.

    Attributes:
        error: what the store said.
        failures: how many times in a row; of those beyond the first the tenth and every
            hundredth are told.
    """

    error: ErrorSummary
    failures: int = 1


# --- workers ---------------------------------------------------------------------------------


class WorkerHook(Hook, frozen=True, kw_only=True):
    """Something happened to a worker of this process.

    Attributes:
        worker_id: which; one that joins again after it was lost has a new id.
    """

    worker_id: str


class WorkerReady(WorkerHook, frozen=True, kw_only=True):
    """The worker has joined and claims runs.

    Attributes:
        queues: those it serves.
        slots: how many runs it executes at once.
    """

    queues: tuple[str, ...]
    slots: int


class WorkerLost(WorkerHook, frozen=True, kw_only=True):
    """The worker lost its lease: its bodies are stopped, its runs go on elsewhere."""


class WorkerStopped(WorkerHook, frozen=True, kw_only=True):
    """The worker has stopped in order; what it had not finished can be claimed elsewhere."""


class WorkerError(WorkerHook, frozen=True, kw_only=True):
    """The store did not answer a worker as it should have; the worker goes on.

    Attributes:
        doing: what it was about: ``joining``, ``rescuing`` or ``leaving``.
        error: what the store said.
    """

    doing: str
    error: ErrorSummary


class RunsRescued(WorkerHook, frozen=True, kw_only=True):
    """The runs of a dead worker were given back; told by the worker that did it.

    Attributes:
        dead_worker_id: whose lease it was.
        queued: ids of the runs that go on.
        ended: ids of those that ended instead: too many crashes, or a cancel was asked for.
    """

    dead_worker_id: str
    queued: tuple[str, ...]
    ended: tuple[str, ...]


class LeaderHook(WorkerHook, frozen=True, kw_only=True):
    """Who leads has changed: which worker fires schedules and prunes, for all of its namespace.

    Attributes:
        term: which time it is that somebody leads, counted from 1.
    """

    term: int


class LeaderElected(LeaderHook, frozen=True, kw_only=True):
    """The worker leads from now on."""


class LeaderLost(LeaderHook, frozen=True, kw_only=True):
    """The worker does not lead any more; told when it knows, which may be later.

    Attributes:
        handed_over: whether it has left the lead to others by itself, because it stops. Otherwise
            its lease was lost, and another worker may have led since long.
    """

    handed_over: bool


# --- schedules -------------------------------------------------------------------------------


class ScheduleHook(Hook, frozen=True, kw_only=True):
    """Something became of an instant of a schedule; told by the process that fired it.

    Attributes:
        key: of the schedule.
        name: of the workflow or job that it starts.
    """

    key: str
    name: str


class ScheduleTriggered(ScheduleHook, frozen=True, kw_only=True):
    """An instant was fired: a run is started.

    Attributes:
        expected: the instant.
        run_id: of the run.
        is_missed: whether it was overdue, so that it is fired by the policy for what was missed.
    """

    expected: datetime
    run_id: str
    is_missed: bool


class ScheduleMissed(ScheduleHook, frozen=True, kw_only=True):
    """Instants passed that are not fired, by the policy for what was missed.

    Attributes:
        expected, until: the first and the last of them.
        count: how many they are.
        last_fired_at: the newest instant before them that something became of; None for none.
        triggered_at: when the schedule was looked at again.
    """

    expected: datetime
    until: datetime
    count: int
    last_fired_at: datetime | None
    triggered_at: datetime


# --- runs ------------------------------------------------------------------------------------


class OfRun(Hook, frozen=True, kw_only=True):
    """Something happened in a run.

    Attributes:
        run_id: which run.
        name: of its workflow or job.
        queue: where it waits when it is claimable.
        attempt: of the whole run, counted from 1.
        worker_id: who holds it; None where nobody did.
        parent_id: the run that started it, if one did.
    """

    run_id: str
    name: str
    queue: str
    attempt: int
    worker_id: str | None
    parent_id: str | None


class RunHook(OfRun, frozen=True, kw_only=True):
    """Something happened to a run as a whole."""


class RunStarted(RunHook, frozen=True, kw_only=True):
    """A worker has claimed the run for the first time.

    Attributes:
        queued: how long that took since it was created, a chosen delay included.
    """

    queued: timedelta


class RunResumed(RunHook, frozen=True, kw_only=True):
    """A worker has claimed the run again: after a wait, a retry's delay, a stop or a crash."""


class RunSuspended(RunHook, frozen=True, kw_only=True):
    """The body waits and has left its worker.

    Attributes:
        waiting_for: the kinds of its waits, each once: ``retry`` (of a step), ``child`` and so on.
        due_at: when it goes on by itself, if it does.
    """

    waiting_for: tuple[WaitKind, ...]
    due_at: datetime | None


class RunReleased(RunHook, frozen=True, kw_only=True):
    """The worker has handed the unfinished run back, because it stops."""


class RunContinued(RunHook, frozen=True, kw_only=True):
    """The body has ended its generation; the run goes on as new, with other arguments."""


class RunPaused(RunHook, frozen=True, kw_only=True):
    """The run is paused.

    Attributes:
        reason: ``mismatch``: its code does not fit what is recorded; ``operator``: by hand.
        step: path of the step that does not fit; empty for a pause by hand.
    """

    reason: str
    step: str


class RunCompleted(RunHook, frozen=True, kw_only=True):
    """The run is completed.

    Attributes:
        duration: since its first claim, waits included.
    """

    duration: timedelta


class RunFailed(RunHook, frozen=True, kw_only=True):
    """An attempt of the run has failed.

    Attributes:
        will_retry: whether another attempt follows; RunRetryScheduled is told next then.
        reason: ``error``, ``timeout``, ``invalid_input`` or ``crash``.
        error: its class, message and frames.
        duration: since the run's first claim, waits included.
    """

    will_retry: bool
    reason: str
    error: ErrorSummary
    duration: timedelta


class RunRetryScheduled(RunHook, frozen=True, kw_only=True):
    """Another attempt of the run is due; ``attempt`` is that one.

    Attributes:
        delay: from the failure to then.
        due_at: when.
    """

    delay: timedelta
    due_at: datetime


class RunCancelled(RunHook, frozen=True, kw_only=True):
    """The run is cancelled.

    Attributes:
        duration: since its first claim, waits included; zero if it was never claimed.
    """

    duration: timedelta


# --- steps -----------------------------------------------------------------------------------


class StepHook(OfRun, frozen=True, kw_only=True):
    """Something happened to a step of a run. A replay tells nothing of recorded steps.

    Attributes:
        step: its path: ``charge``, ``parent/child``, ``~0/fetch``.
        step_attempt: counted from 1.
    """

    step: str
    step_attempt: int


class StepStarted(StepHook, frozen=True, kw_only=True):
    """An attempt of the step begins. Of all hooks this one has nothing in the store behind it."""


class StepCompleted(StepHook, frozen=True, kw_only=True):
    """The step's result is recorded.

    Attributes:
        duration: of this attempt.
    """

    duration: timedelta


class StepFailed(StepHook, frozen=True, kw_only=True):
    """An attempt of the step has failed, and that is recorded.

    Attributes:
        will_retry: whether another attempt follows; StepRetryScheduled is told next then.
        timeout: whether it is final because it took too long.
        error: its class, message and frames.
        duration: of this attempt.
    """

    will_retry: bool
    timeout: bool
    error: ErrorSummary
    duration: timedelta


class StepRetryScheduled(StepHook, frozen=True, kw_only=True):
    """Another attempt of the step is due; ``step_attempt`` is that one.

    Attributes:
        delay: from the failure to then.
        due_at: when.
    """

    delay: timedelta
    due_at: datetime


class StepCancelled(StepHook, frozen=True, kw_only=True):
    """The body gave the step up, such as the loser of a race, and that is recorded.

    Attributes:
        duration: of the attempt that was given up.
    """

    duration: timedelta


def _kinds_below(base: type[Hook]) -> Iterator[type[Hook]]:
    below = base.__subclasses__()
    if not below:
        yield base
    for derived in below:
        yield from _kinds_below(derived)


KINDS: tuple[type[Hook], ...] = tuple(_kinds_below(Hook))
"""Every kind that is told; the classes between them and ``Hook`` are for listening to many."""
