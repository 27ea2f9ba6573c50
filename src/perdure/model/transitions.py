"""Every write that a store knows, as small frozen records, and what each is answered with.

A transition is atomic, guarded and idempotent under the natural key that its docstring names; its
answer is a typed outcome, also when a race was lost. Lengths of time are relative, because only
the store's clock decides when something is due.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from perdure import defaults
from perdure.duration import to_micros
from perdure.model.changes import MoveSubscriber, RemoveSubscriber, Subscribed
from perdure.model.events import (
    Awaiting,
    GiveUpEvent,
    Listen,
    Listening,
    Publish,
    Published,
    SendEvent,
    TakeEvent,
    Taken,
    TimedOut,
    Unlisten,
)
from perdure.model.keys import KeyRule
from perdure.model.leader import Leading, LeaveLead, NotLeading, TakeLead
from perdure.model.progress import SetProgress
from perdure.model.queues import PauseQueue, PutQueue, QueueKept, ResumeQueue
from perdure.model.records import (
    Checkpoint,
    Control,
    Ending,
    Grant,
    Micros,
    ParentClose,
    RunRecord,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
    Wait,
)
from perdure.model.retention import Prune, Pruned, PutRetentions, RetentionsKept
from perdure.model.schedules import (
    Fired,
    FireSchedule,
    Overdue,
    Passed,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    ResumeSchedule,
    Schedule,
    Scheduled,
    Unscheduled,
    cause_of_firing,
    fired_run,
)
from perdure.model.streams import StreamMark, WriteStream
from perdure.model.versions import PinRun

# --- work ------------------------------------------------------------------------------------


class CreateRun(msgspec.Struct, frozen=True, gc=False):
    """Insert a run: ``queued`` and FRESH, or ``waiting`` for its delay.

    Key: ``run_id`` (a second create with the same ``token`` is answered as the first was).
    Guard: no run has this id; no run holds this (definition, unique_key), or ``key_rule`` says
    what becomes of it then: see :mod:`perdure.model.keys`;
    where ``by`` is given, that grant is current (a body creates only while it holds its run).
    The same create is looked for first, then ``by``, then the id, then the unique_key.
    ``on_parent_close``: where it is not ``abandon``, which needs ``by`` and that run as the parent,
    the new run is attached to it; see Attached children in :mod:`perdure.store`. A run that is
    found instead is not.
    ``pin``: the run is pinned from its beginning; see :mod:`perdure.model.versions`.
    Answers: Created · Exists (id or unique_key taken by another create; it names the run that has
    it) · Fenced (naming the run of ``by``).
    """

    run_id: str
    definition: str
    input: bytes
    token: int
    version: str = ""
    queue: str = "default"
    priority: int = 0
    unique_key: str | None = None
    meta: bytes | None = None
    options: bytes | None = None
    tags: tuple[str, ...] = ()
    delay: Micros = 0
    parent_id: str | None = None
    root_id: str | None = None
    by: Grant | None = None
    caused_by: str | None = None
    limit_key: str | None = None
    key_rule: KeyRule | None = None
    retention: Micros | None = None
    on_parent_close: ParentClose = ParentClose.ABANDON
    pin: str | None = None


def start_of(schedule: Schedule, instant: Micros) -> CreateRun:
    """Return the create of the run that a schedule starts for an instant."""
    run_id, token = fired_run(schedule.key, instant)
    return CreateRun(
        run_id,
        schedule.definition,
        schedule.input,
        token,
        schedule.version,
        schedule.queue,
        schedule.priority,
        meta=schedule.meta,
        options=schedule.options,
        tags=schedule.tags,
        caused_by=cause_of_firing(schedule.key, instant),
        limit_key=schedule.limit_key,
        retention=schedule.retention,
    )


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Give up to ``limit`` claimable runs to a worker.

    First every waiting run whose ``due_at`` has come becomes ``queued`` (RESUMED if it was ever
    claimed, else FRESH; SUSPECT after two crashes). Then runs that are queued, whose definition and
    queue are among those named, are taken by rank, priority (smaller first), then ``seq``; where
    ``fresh_first`` is true, FRESH ones before RESUMED ones. Each becomes ``running`` with
    epoch + 1, ``grant`` = ``token`` and this worker. Whatever is over a limit of its queue, or of
    a queue that is paused, is passed over: see :mod:`perdure.model.queues`. A claim may leave some
    that it could give to the next where it finds much to sort; then ``next_due_at`` has come.
    A run with a ``pin`` is taken only where the worker registered its definition in that version;
    one without is given the ``pin`` that the worker's definition asks for, if it does: see
    :mod:`perdure.model.versions`.
    Where there are runs paused by a mismatch that this worker may fit, those are given instead,
    oldest first: their definition and queue are among those named, and the version with which the
    worker would execute them is not among their ``misfits``. They pass through no queue in
    which a worker that they do not fit would take them again; one that is a suspect becomes
    ``queued`` as such.
    SUSPECT runs are taken only where ``suspects`` is true; then one suspect is taken alone, before
    anything else.
    Key: ``token``: the same claim again answers the runs that it gave and that still run under it,
    in the same order, and gives others only where there is none such.
    Guard: the worker is registered; otherwise nothing is given and ``Claimed.known`` is false.
    Answers: Claimed. A batch's claim takes effect after every other transition of the batch.
    """

    worker_id: str
    token: int
    definitions: tuple[str, ...]
    queues: tuple[str, ...]
    limit: int
    suspects: bool = False
    fresh_first: bool = False


class SaveCheckpoint(msgspec.Struct, frozen=True, gc=False):
    """Record how one durable call of a run stands.

    Key: (run, generation, key, grant), for ``pending`` also ``tries``: the same again is answered
    ``Saved`` with the ``due_at`` that the first set, and changes nothing; also where the claim was
    settled since, as long as the run was not claimed again.
    Guard: the grant is current and the run ``running``; no final outcome is recorded under this
    identity, except by this very grant (answered ``Saved``, whatever this one says: the first
    stands). A ``pending`` record is replaced and keeps its place in the order.
    ``delay`` is the time from now to the next attempt, for ``pending`` only; the store turns it
    into ``due_at``. The fields are those of :class:`~perdure.model.records.Checkpoint`.
    Answers: Saved · Fenced · Conflict (a final outcome of another grant is there).
    """

    grant: Grant
    key: StepKey
    position: int
    kind: StepKind
    outcome: StepOutcome
    value: bytes | None
    tries: int = 1
    log: bytes | None = None
    delay: Micros | None = None
    started_at: Micros = 0
    ended_at: Micros = 0
    site: str = ""
    text: str = ""


class Completed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: the body returned; the run is ``completed``.

    ``orphans`` are the recorded calls that the body did not make this time; they are kept in the
    run's ``culprits``. ``declined``: the body was not executed, because the run did not want the
    event that started it; its reason is ``declined``.
    """

    result: bytes
    orphans: tuple[StepKey, ...] = ()
    declined: bool = False


class Failed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: no attempt is left or wanted; the run is ``failed`` with this reason.

    ``compensates``: its body has registered compensations. Then the run is ``queued`` with
    ``undoing`` FAILURE, this error and this reason, and ends as failed when they are done; the
    attempt is kept as a row.
    """

    error: bytes
    reason: str = "error"
    culprits: tuple[StepKey, ...] = ()
    compensates: bool = False


class Retrying(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: another attempt of the whole run after ``delay``: ``waiting`` for retry.

    The attempt is kept as a row of its own and ``attempt`` rises. The checkpoints named by
    ``culprits`` (steps whose recorded failure ended this attempt, and those that the body gave up
    in it) are reopened: outcome ``pending``, tries 0, due at once (``due_at`` is now); value, log
    and epoch are kept. Every other checkpoint stands, also a named one that is ``ok``.
    """

    error: bytes
    delay: Micros
    culprits: tuple[StepKey, ...] = ()


class Suspended(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: the body waits and leaves its worker: ``waiting`` with these wake conditions.

    The wait rows (at least one) replace those of an earlier suspension and are kept until the next
    settle.
    A join is fulfilled when it has ``child`` waits and all of them name runs that are terminal now
    (a child retried by an operator is open again). If a join is fulfilled already, or an event is
    there that an ``event`` wait would take, the run is woken in this same transition. ``due_at``
    becomes the earliest of the waits' and may have passed: the next claim finds it. ``coalesce``:
    see Waking in :mod:`perdure.store`.
    """

    waits: tuple[Wait, ...]
    coalesce: Micros = 0


class Continued(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: the body goes on as new: ``queued``, RESUMED, in another generation.

    generation + 1, ``continued`` + 1, ``attempt`` 1; ``input`` is the next body's. Nothing is kept
    of what was recorded: checkpoints, attempts, wait rows and marks of streams are gone, of every
    generation. The run keeps its id, unique_key, children and audit, and what it gave out in
    streams; whoever waits for it waits on. Events that a wait of this generation has taken are
    taken for good; all others may be taken by the next. ``cleans`` stands.
    """

    input: bytes


class Released(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: the worker hands an unfinished run back: ``queued``, RESUMED, claimable at once."""


class Mismatched(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: the replay does not fit the record: ``paused`` with reason ``mismatch``.

    ``version`` is the definition's version that did not fit; it joins the run's ``misfits``. The
    claim of a worker with a version that is not among them queues the run again, unless it is
    pinned to another one.
    """

    error: bytes
    version: str


class CancelledByWorker(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: the body was stopped because a cancel was asked for: ``cancelled``."""


class Undone(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Verdict: what an ``undoing`` run had to undo is done.

    It ends as ``cancelled``, or as ``failed`` with the error and reason that it has where
    ``undoing`` is FAILURE. Where something could not be undone, ``culprits`` are the steps that
    failed and ``error`` is the last one's: then it is ``failed`` with reason ``compensation``.
    """

    error: bytes | None = None
    culprits: tuple[StepKey, ...] = ()


Verdict: TypeAlias = (
    Completed
    | Failed
    | Retrying
    | Suspended
    | Continued
    | Released
    | Mismatched
    | CancelledByWorker
    | Undone
)


class Settle(msgspec.Struct, frozen=True, gc=False):
    """End a claim with a verdict.

    Key: the grant: the same again, as long as the run was not claimed again, is answered with the
    status that the run has now.
    Guard: the grant is current and the run ``running``.
    An orderly end sets ``crashes`` to 0, and keeps ``cleans``. Where ``control`` is CANCEL or
    COMPENSATE the run is cancelled whatever the verdict, as said at CancelRun, so that a cancel
    that was accepted is always kept; where it is RESTART the run begins again whatever the verdict,
    as said at RestartRun. Where it is PAUSE a run that does not end becomes ``paused`` with reason
    ``operator``, with the wait rows, ``waiting_for`` and ``due_at`` of its verdict.
    A run that becomes terminal wakes those that wait for it.
    Answers: Settled (with the status it really has now) · Fenced.
    """

    grant: Grant
    verdict: Verdict
    cleans: bool = False


class CancelRun(msgspec.Struct, frozen=True, gc=False):
    """An operator cancels a run.

    Queued, waiting, paused: ``cancelled`` at once, unless it was claimed and there is something to
    undo: it ``cleans``, or ``compensate`` is true. Then it is ``queued`` with ``undoing`` CANCEL or
    COMPENSATE, its wait rows are gone, and it ends as cancelled when that is done. Running: the
    control word becomes CANCEL or COMPENSATE (which a CANCEL does not take back), the holder hears
    of it with its next answer, and the same happens when the claim ends. A run that is undoing
    goes on with that. Terminal: refused.
    Key: (run, ``request_id``) in the audit row: the same again is answered with the status that the
    run has now. What is refused is not audited.
    Answers: Controlled · Refused (terminal) · Missing.
    """

    run_id: str
    request_id: str
    compensate: bool = False


class PauseRun(msgspec.Struct, frozen=True, gc=False):
    """An operator pauses a run.

    Queued, waiting, or paused by a mismatch: ``paused`` with reason ``operator`` at once; its wait
    rows, ``waiting_for`` and ``due_at`` stand, and nothing wakes it. Running: the control word
    becomes PAUSE, unless it is CANCEL or COMPENSATE; the holder hears of it with its next answer,
    and what it settles without ending the run leaves it ``paused``, as does a rescue. Paused by
    hand already: nothing changes. Terminal, or about to be restarted: refused.
    Key: as for CancelRun. Answers: Controlled · Refused · Missing.
    """

    run_id: str
    request_id: str


class ResumeRun(msgspec.Struct, frozen=True, gc=False):
    """An operator lets a paused run go on.

    Paused: what has a ``due_at`` (the run, its wait rows, its ``pending`` checkpoints) is shifted
    by the time for which it was paused by hand; then the run is ``waiting`` again if it was, and
    woken where a join was fulfilled meanwhile; otherwise ``queued``. A mismatch forgets its
    ``misfits``. Running with control PAUSE: the word is taken back. Any other: refused.
    Key: as for CancelRun. Answers: Controlled · Refused · Missing.
    """

    run_id: str
    request_id: str


class RetryRun(msgspec.Struct, frozen=True, gc=False):
    """An operator tries a ``failed`` or ``cancelled`` run again: ``queued``, RESUMED, next attempt.

    Reopens the culprits kept by its failure, as ``Retrying`` does; keeps the attempt as a row;
    clears error, reason, result, crashes, control. The unique_key is taken again, also where it had
    passed to another run. A run that has undone its steps is refused; where some of that failed, it
    goes on undoing.
    Key: as for CancelRun. Answers: Controlled · Refused (status, or another run holds the
    unique_key) · Missing.
    """

    run_id: str
    request_id: str


class RestartRun(msgspec.Struct, frozen=True, gc=False):
    """An operator lets a run begin again, from its start or from a step: a new generation.

    The new generation keeps what :mod:`perdure.model.lineage` says of ``from_step``, which must be
    recorded in the present one; of nothing where it is None. Queued, waiting, paused or terminal:
    the run is ``queued`` at once, generation + 1, attempt 1, as a run that never failed; its wait
    rows are gone; whoever waits for it waits on. Running: the control word becomes RESTART, the new
    generation's checkpoints are laid ready, and the same happens when the claim ends, however it
    ends; a cancel that comes before that is kept instead, and clears away what was laid ready. A
    restart that comes while another is asked for replaces it. A run that was never claimed keeps
    its generation, and is merely queued. The run's attempt is kept as a row. One that was terminal
    takes its unique_key again, also where it had passed to another run. The new
    generation is pinned to ``pin``, and with None to nothing, whatever the one before was.
    Key: as for CancelRun. Answers: Controlled · Refused (a cancel was asked for; ``from_step`` is
    not recorded; it is terminal and another run holds its unique_key; it is running and ``pin`` is
    given) · Missing.
    """

    run_id: str
    request_id: str
    from_step: StepKey | None = None
    pin: str | None = None


class ForkRun(msgspec.Struct, frozen=True, gc=False):
    """Insert a run that continues what another one has recorded.

    It keeps what :mod:`perdure.model.lineage` says of ``before``, which must be recorded in that
    ``generation`` of the ``source``; everything recorded in it where it is None. ``results`` are
    put in the place of what was recorded of steps that are kept, which become ``ok``. The source
    is not changed, and may be in any status.
    Key and guard: as for the ``create``, whose ``caused_by`` names the source.
    Answers: Created · Exists · Missing (naming the source) · Refused (naming the source: a step is
    not recorded there).
    """

    create: CreateRun
    source: str
    generation: int
    before: StepKey | None = None
    results: tuple[tuple[StepKey, bytes], ...] = ()


# --- workers ---------------------------------------------------------------------------------


class RegisterWorker(msgspec.Struct, frozen=True, gc=False):
    """Announce a worker with beat 0, and with the versions in which it has each definition.

    Key: ``worker_id``: the same again changes nothing, the beat included. Answers: Beaten.
    ``lease`` and ``heartbeat`` are kept and shown; no store acts on them. ``cleans`` are those of
    its definitions that have something to do when a run is cancelled: what it holds when it is
    given up ``cleans`` by that. ``definitions``, ``earlier`` and ``pinning`` are what
    :class:`~perdure.model.versions.Versions` says.
    """

    worker_id: str
    host: str
    pid: int
    definitions: dict[str, str]
    queues: tuple[str, ...]
    slots: int
    lease: Micros = to_micros(defaults.LEASE)
    heartbeat: Micros = to_micros(defaults.HEARTBEAT)
    cleans: tuple[str, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    pinning: tuple[str, ...] = ()


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """Raise a worker's beat. Idempotent as it is. Guard: the worker is registered.

    Answers: Beaten; ``known`` is false where the worker was rescued or never registered (its
    grants are gone and it must stop its bodies), and the beat of nobody is raised.
    """

    worker_id: str


class RetireWorker(msgspec.Struct, frozen=True, gc=False):
    """Remove a worker that stops in order; whatever it still held becomes ``queued``.

    RESUMED, or still SUSPECT; where control is CANCEL or COMPENSATE it is cancelled as said at
    CancelRun, where it is PAUSE ``paused`` with reason ``operator``, where it is RESTART it begins
    again. ``crashes`` stands; the wait rows of what is merely queued stand; the grants are wiped.
    If the worker leads, the lead is vacant.
    Idempotent as it is. Answers: Rescued, in the order of ``seq``, as everywhere.
    """

    worker_id: str


class RescueWorker(msgspec.Struct, frozen=True, gc=False):
    """Give back what a dead worker held, and remove the worker.

    Guard: the worker's beat is still ``beat`` (None: it is known to be dead, whatever the beat).
    Each run that it held: an attempt row with outcome ``crashed``; ``crashes`` becomes 0 where a
    checkpoint was written under its epoch, else rises by one. At ``crash_cap`` the run is
    ``failed`` with reason ``crash`` and ``error`` as its evidence; where control is CANCEL or
    COMPENSATE it is cancelled as said at CancelRun, where it is RESTART it begins again (both also
    at the cap); where it is PAUSE ``paused`` with reason ``operator``; else it is ``queued``:
    SUSPECT from two crashes on, else RESUMED, with its wait rows. The grants are wiped. If the
    worker leads, the lead is vacant.
    Idempotent as it is. Answers: Rescued (empty where the guard failed).
    """

    worker_id: str
    beat: int | None
    crash_cap: int
    error: bytes


class GiveBack(msgspec.Struct, frozen=True, gc=False):
    """Make ``queued`` every run that the store thinks a worker holds and it does not.

    What becomes of each: see RetireWorker. ``held`` names the (run_id, epoch) pairs it knows of.
    It goes through the worker's own committer, so no claim of that worker is under way.
    Answers: Rescued.
    """

    worker_id: str
    held: tuple[tuple[str, int], ...]


Transition: TypeAlias = (
    CreateRun
    | Claim
    | SaveCheckpoint
    | WriteStream
    | SetProgress
    | Settle
    | CancelRun
    | PauseRun
    | ResumeRun
    | RetryRun
    | RestartRun
    | ForkRun
    | PinRun
    | RegisterWorker
    | Heartbeat
    | RetireWorker
    | RescueWorker
    | GiveBack
    | Listen
    | Unlisten
    | Publish
    | SendEvent
    | TakeEvent
    | GiveUpEvent
    | PutSchedule
    | RemoveSchedule
    | PauseSchedule
    | ResumeSchedule
    | FireSchedule
    | PutQueue
    | PauseQueue
    | ResumeQueue
    | PutRetentions
    | Prune
    | MoveSubscriber
    | RemoveSubscriber
    | TakeLead
    | LeaveLead
)

# --- answers ---------------------------------------------------------------------------------


class Created(msgspec.Struct, frozen=True, gc=False):
    """The run exists through this create (now, or by the same create before).

    ``replaced`` names the run from which this create took the unique_key just now, and which it
    cancelled; it is for telling whom it concerns, and not repeated where the create is.
    ``closed``: as for Settled.
    """

    run_id: str
    replaced: str | None = None
    closed: tuple[str, ...] = ()


class Exists(msgspec.Struct, frozen=True, gc=False):
    """The id or unique_key is taken. ``same``: by a run of the same definition and input."""

    run_id: str
    same: bool


class ClaimedRun(msgspec.Struct, frozen=True, gc=False):
    """A run with all that is needed to execute it: its record, checkpoints and awaited endings.

    ``checkpoints`` are those of the current generation in the order in which they were first
    recorded; ``endings`` are the terminal runs among those its wait rows name; ``marks`` say how
    far the current generation has written to its streams, in any order. A run that was never
    claimed before has none of them, and no read is spent on it.
    """

    run: RunRecord
    checkpoints: tuple[Checkpoint, ...] = ()
    endings: tuple[Ending, ...] = ()
    marks: tuple[StreamMark, ...] = ()


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """Answer of a claim.

    Args:
        runs: what was given, in the order in which to start it.
        now: the store's time.
        next_due_at: when a claim may next find what this one did not: the earliest ``due_at`` of
            any waiting run, or when a rate next allows a start; None for neither.
        next_fire_at: the earliest next instant of a schedule that is not paused; None for none.
        suspects: suspects are queued that this worker could take now.
        known: the worker is registered.
        vacant_term: the term that somebody may begin, since nobody leads; None where a worker does.
    """

    runs: tuple[ClaimedRun, ...]
    now: Micros
    next_due_at: Micros | None
    suspects: bool
    known: bool = True
    next_fire_at: Micros | None = None
    vacant_term: int | None = None


class Saved(msgspec.Struct, frozen=True, gc=False):
    """It is recorded. ``control`` is the run's control word, ``due_at`` that of a pending."""

    control: Control = Control.NONE
    due_at: Micros | None = None


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The claim is ended and the run has this status.

    ``closed`` are the attached children that were cancelled because of it just now, and theirs:
    those that have ended by it. It is for telling whom it concerns, and not repeated.
    """

    status: Status
    closed: tuple[str, ...] = ()


class Controlled(msgspec.Struct, frozen=True, gc=False):
    """The verb was accepted; the run has this status (``running`` if yet to be heard).

    ``closed``: as for Settled.
    """

    status: Status
    closed: tuple[str, ...] = ()


class Fenced(msgspec.Struct, frozen=True, gc=False):
    """The grant is no longer current; nothing was changed."""

    run_id: str


class Conflict(msgspec.Struct, frozen=True, gc=False):
    """A final outcome of another grant is recorded under this identity; nothing was changed."""

    run_id: str
    path: str


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The run's status (named) does not allow it; nothing was changed."""

    run_id: str
    status: Status
    detail: str = ""


class Missing(msgspec.Struct, frozen=True, gc=False):
    """No run of that id in this namespace."""

    run_id: str


class Beaten(msgspec.Struct, frozen=True, gc=False):
    """Answer to a worker's sign of life.

    Args:
        known: the worker is registered.
        beat: its beat now.
        held: how many runs the store thinks it holds.
        controls: the runs it holds whose control word is set.
    """

    known: bool
    beat: int
    held: int
    controls: tuple[tuple[str, Control], ...] = ()


class Rescued(msgspec.Struct, frozen=True, gc=False):
    """Which runs were given back, and which ended because of it, attached children included."""

    queued: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


Outcome: TypeAlias = (
    Created
    | Exists
    | Claimed
    | Saved
    | Settled
    | Controlled
    | Fenced
    | Conflict
    | Refused
    | Missing
    | Beaten
    | Rescued
    | Listening
    | Published
    | Taken
    | TimedOut
    | Awaiting
    | Scheduled
    | Overdue
    | Unscheduled
    | Fired
    | Passed
    | QueueKept
    | RetentionsKept
    | Pruned
    | Subscribed
    | Leading
    | NotLeading
)


def with_closed(outcome: Outcome, closed: tuple[str, ...]) -> Outcome:
    """Return the answer that also names the attached children that have ended because of it."""
    match outcome:
        case Created() | Settled() | Controlled():
            return msgspec.structs.replace(outcome, closed=closed)
        case Rescued():
            return msgspec.structs.replace(outcome, ended=outcome.ended + closed)
        case _:
            raise AssertionError(f"{outcome!r} has ended no run")
