"""What a store keeps: runs, checkpoints, attempts, waits, workers, audit entries.

These records are the wire between engine and store, so instants are integers of microseconds
since the epoch in UTC, durations integers of microseconds, and payloads encoded bytes. The handles
that users see turn them into datetimes, timedeltas and values. They are msgspec structs rather
than dataclasses because building a frozen dataclass costs 1.5 us, a frozen struct 0.2 us, and a
step builds three.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from string import ascii_lowercase, ascii_uppercase
from typing import TypeAlias

import msgspec

Micros: TypeAlias = int
"""Microseconds: since the epoch in UTC for an instant, a length for a duration."""


class Status(StrEnum):
    """Where a run stands. The last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class WaitKind(StrEnum):
    """What a waiting run waits for."""

    DELAY = "delay"
    RETRY = "retry"
    SLEEP = "sleep"
    CHILD = "child"
    EVENT = "event"


REASONS = (
    *("error", "crash", "invalid_input", "timeout", "compensation"),
    *("mismatch", "operator", "declined"),
)
"""Why a run is failed or paused; a declined one is completed."""


class Rank(IntEnum):
    """The order in which queued runs are claimed: resumed ones first, suspects only alone."""

    RESUMED = 0
    FRESH = 1
    SUSPECT = 2


class Control(StrEnum):
    """What an operator has asked of a run that a worker holds."""

    NONE = ""
    CANCEL = "cancel"
    PAUSE = "pause"
    RESTART = "restart"
    COMPENSATE = "compensate"


class Undoing(StrEnum):
    """What a run undoes, rather than executing its body; it is kept when that is over.

    ``cancel``: its definition's ``on_cancel``, because it was cancelled. ``compensate``: that and
    the compensations that its body has registered, because it was cancelled so. ``failure``: the
    compensations, because it failed.
    """

    NONE = ""
    CANCEL = "cancel"
    COMPENSATE = "compensate"
    FAILURE = "failure"


class ParentClose(StrEnum):
    """What becomes of a run when the body of its parent is over.

    ``abandon``: nothing. ``cancel``: it is cancelled. ``wait``: likewise; but a body that returns
    or raises is not over before the run has ended, so that it is cancelled only where its parent
    is, takes too long, or crashes.
    """

    ABANDON = "abandon"
    CANCEL = "cancel"
    WAIT = "wait"


class StepOutcome(StrEnum):
    """How a step stands. ``pending``: not over; the rest are final.

    Attempts failed and another is due, or it has begun and is one that begins at most once.

    ``cancelled`` is a step that the body itself gave up, such as the loser of a race.
    """

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    PENDING = "pending"


class StepKind(StrEnum):
    """What a checkpoint records.

    Two are no calls: ``patch``, by which of two codes a run goes, and ``origin``, what a generation
    continues; see :mod:`perdure.model.lineage`.
    """

    STEP = "step"
    ENQUEUE = "enqueue"
    CHILD = "child"
    SLEEP = "sleep"
    WAIT_FOR_EVENT = "wait_for_event"
    PUBLISH = "publish"
    SEND_EVENT = "send_event"
    PATCH = "patch"
    ORIGIN = "origin"


class Grant(msgspec.Struct, frozen=True, gc=False):
    """The right to write to one run: every write carries it and the store compares all of it.

    ``epoch`` rises with each claim of the run and is never reused; ``token`` is the claim's random
    63-bit number, so that an epoch given out twice after a restored backup still fences.
    """

    run_id: str
    epoch: int
    token: int


class StepKey(msgspec.Struct, frozen=True, gc=False):
    """The identity of a durable call inside a run and generation. Matching is exact.

    Args:
        scope: digest of the enclosing scope (16 bytes; empty for the body's own scope).
        path: the scope's readable path and the name: ``charge``, ``parent/child``, ``~1/fetch``.
        fingerprint: 16 bytes over the canonical arguments; empty for a call without arguments.
        k: the call is the k-th (from 0) of that name and fingerprint in that scope.
    """

    scope: bytes
    path: str
    fingerprint: bytes
    k: int


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """The stored outcome of one durable call.

    Args:
        key: its identity.
        position: it was the position-th (from 0) call of its name in its scope; evidence only.
        kind: what was called.
        outcome: how it stands.
        value: encoded result for ``ok``, encoded error for ``error``, ``timeout`` and ``pending``.
        tries: attempts made so far, counted from 1; a reopened step starts again at 0.
        log: encoded list of the failed attempts, oldest first; None where none failed.
        due_at: for ``pending`` the store's time of the next attempt.
        started_at, ended_at: of the last attempt, by the worker's estimate of the store's clock.
        site: file and line of the call, for people.
        text: up to 256 bytes of the arguments' text, for messages.
        epoch: of the claim that wrote it; 0 or less where that was a claim of the run that this
            one was forked from.
        generation: of the run, that it belongs to.
    """

    key: StepKey
    position: int
    kind: StepKind
    outcome: StepOutcome
    value: bytes | None
    tries: int
    log: bytes | None
    due_at: Micros | None
    started_at: Micros
    ended_at: Micros
    site: str
    text: str
    epoch: int
    generation: int = 0


class RunRecord(msgspec.Struct, gc=False):
    """One run, all columns. Mutable only inside a store; everyone else treats it as a value.

    Args:
        seq: the store's own ascending number of the run; the order of creation.
        token: of the create that made it, so that the same create applied twice is seen as one.
        options: encoded overrides given by the call; None where the definition's own hold.
        attempt: the current attempt of the whole run, counted from 1 in each generation.
        generation: how often it was restarted or continued as new. Only the checkpoints of this
            one count.
        started_at: when it was first claimed; None in a generation that was not claimed yet.
        rank: how it is claimed while ``queued``.
        waiting_for, due_at: what a ``waiting`` run waits for, and when it becomes claimable by
            itself; a ``paused`` one that waited keeps both.
        epoch, grant: of the newest claim; kept after it was settled, so that a settle is
            idempotent. ``grant`` is 0 before the first claim and once a claim was taken back
            (rescue, retire, give back), so that its holder is fenced; a claim's token is never 0.
        caused_by: what created it, where that was no call: ``event:<id>``,
            ``schedule:<key>@<instant>``, ``fork:<run id>``; None for a call.
        worker_id: who holds it while ``running``, who held it last otherwise.
        crashes: claims in a row that ended with a dead worker and no new checkpoint.
        reason: why it is failed or paused: ``error``, ``crash``, ``invalid_input``, ``timeout``,
            ``mismatch``, ``operator`` (paused by hand), ``compensation`` (what was to undo it
            failed); ``declined`` for one that is completed without its body, because it did not
            want the event that started it.
        paused_at: since when it is paused by hand: a resume shifts its timers by the time since.
        error: encoded error of the last failure, also while another attempt is due.
        culprits: encoded keys of the checkpoints that its end points at: those whose failure ended
            a failed run (a manual retry reopens them), the orphans of a completed one (recorded,
            but not asked for by the code that finished it).
        misfits: the versions of the definition whose replay did not fit the record.
        coalesce: at most one wake-up by finished children in so many microseconds.
        limit_key: under which its queue's limits by key count; None for none.
        undoing: what it undoes, or has undone.
        cleans: the code that executed it last has something to do when it is cancelled.
        key_passed_to: the run that its unique_key passed to before it had ended; see
            :mod:`perdure.model.keys`.
        retention: for how long it is kept after its end; None for as long as its definition says.
        on_parent_close: what becomes of it when the body of its parent is over. It is *attached*
            to its parent where that is anything but ``abandon``.
        attaches: it has children that are attached, and the store has not yet cancelled those of
            them that live.
        closing: its body is over, in the transition that is being applied: the store cancels what
            is attached to it before that is done, and clears both. No store keeps it.
        version: of the definition that it was created from; empty for not known.
        pin: the only version of the definition with which it goes on; None for any. See
            :mod:`perdure.model.versions`.
        continued: how often it has continued as new.
        progress: how far it has said to be; see :mod:`perdure.model.progress`.
    """

    seq: int
    run_id: str
    definition: str
    version: str
    queue: str
    priority: int
    unique_key: str | None
    token: int
    input: bytes
    meta: bytes | None
    options: bytes | None
    tags: tuple[str, ...]
    parent_id: str | None
    root_id: str | None
    created_at: Micros
    updated_at: Micros
    status: Status
    rank: Rank = Rank.FRESH
    waiting_for: WaitKind | None = None
    due_at: Micros | None = None
    attempt: int = 1
    generation: int = 0
    epoch: int = 0
    grant: int = 0
    worker_id: str | None = None
    claimed_at: Micros | None = None
    started_at: Micros | None = None
    finished_at: Micros | None = None
    crashes: int = 0
    control: Control = Control.NONE
    coalesce: Micros = 0
    result: bytes | None = None
    error: bytes | None = None
    reason: str | None = None
    culprits: bytes | None = None
    misfits: tuple[str, ...] = ()
    paused_at: Micros | None = None
    caused_by: str | None = None
    limit_key: str | None = None
    undoing: Undoing = Undoing.NONE
    cleans: bool = False
    key_passed_to: str | None = None
    retention: Micros | None = None
    on_parent_close: ParentClose = ParentClose.ABANDON
    attaches: bool = False
    closing: bool = False
    pin: str | None = None
    continued: int = 0
    progress: bytes | None = None

    @property
    def code(self) -> str:
        """The version that it is pinned to; of one that is not, that it was created from."""
        return self.version if self.pin is None else self.pin


class Wait(msgspec.Struct, frozen=True, gc=False):
    """One wake condition of a suspended run.

    Args:
        kind: ``retry`` or ``sleep`` (a due time), ``child`` (the end of another run) or ``event``.
        key: a call's path for ``retry`` and ``sleep``, the child's run id for ``child``, the type
            for ``event``.
        due_at: the store's time at which it is fulfilled by itself; None for never.
        join: the ``child`` waits of one join number wake the run only when all of them are
            fulfilled. A ``due_at``, of whatever wait, wakes it alone, and so does an event.
        match: for ``event``, the key that the event must have; None for any or none.
    """

    kind: WaitKind
    key: str
    due_at: Micros | None = None
    join: int = 0
    match: str | None = None


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How a run ended: what whoever awaits it gets."""

    run_id: str
    status: Status
    result: bytes | None
    error: bytes | None
    reason: str | None


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One ended attempt of a run that was not its last: what ended it and what came next.

    ``outcome`` is ``failed`` (another attempt was due at ``due_at``), ``crashed`` (its worker died;
    the attempt's number does not rise), ``restarted`` (by an operator, before it had ended) or,
    where an operator retried or restarted it after its end, the status it had.
    """

    number: int
    epoch: int
    worker_id: str | None
    claimed_at: Micros | None
    ended_at: Micros
    outcome: str
    error: bytes | None
    due_at: Micros | None


class Audit(msgspec.Struct, frozen=True, gc=False):
    """One manual action on a run; ``request_id`` makes it idempotent."""

    request_id: str
    run_id: str
    action: str
    at: Micros


class WorkerRecord(msgspec.Struct, frozen=True, gc=False):
    """One worker that holds, or held until it was found dead, a lease.

    ``beat`` rises with every heartbeat; it is compared for equality only, never with a clock.
    ``lease`` and ``heartbeat`` are what it told: for people, who judge by them whether it lives.
    ``cleans`` are those of its definitions that have something to do when a run is cancelled.
    ``definitions``, ``earlier`` and ``pinning``: see :mod:`perdure.model.versions`.
    """

    worker_id: str
    host: str
    pid: int
    definitions: dict[str, str]
    queues: tuple[str, ...]
    slots: int
    started_at: Micros
    beat_at: Micros
    beat: int
    lease: Micros
    heartbeat: Micros
    cleans: tuple[str, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    pinning: tuple[str, ...] = ()


class StreamRecord(msgspec.Struct, frozen=True, gc=False):
    """A stream of a run; see :mod:`perdure.model.streams`.

    Args:
        name: its own.
        entries: how many there are, those that close it included.
        size: bytes of all values.
    """

    name: str
    entries: int
    size: int


class History(msgspec.Struct, frozen=True, gc=False):
    """Everything kept of one run."""

    run: RunRecord
    attempts: tuple[Attempt, ...]
    checkpoints: tuple[Checkpoint, ...]
    waits: tuple[Wait, ...]
    audit: tuple[Audit, ...]
    streams: tuple[StreamRecord, ...] = ()


class RunQuery(msgspec.Struct, frozen=True, gc=False):
    """Which runs to list, newest first; every field narrows.

    Texts are compared exactly, character by character: no normalisation, no wildcards (``%``,
    ``_``, ``*`` stand for themselves). Only ``text`` looks past capitals, and only those of ASCII.

    Args:
        statuses, definitions: any of these; empty for all.
        reason, parent_id, queue, unique_key, caused_by, limit_key: exact.
        version: exact, that of :attr:`RunRecord.code`.
        tag: exact, one of the run's.
        created_after, created_before: from this instant on, and before this one, so that two
            windows that share an instant share no run.
        text: a part of the id, the definition's name, the unique_key or one of the tags, where
            ``A`` to ``Z`` equal ``a`` to ``z``; the empty text is a part of everything.
        id_prefix: the beginning of the id. Whatever a store does for the other fields, this one
            it answers from an index.
        limit: at most so many (1 to 1,000).
        before: only runs created before the run with this ``seq``: the cursor of the next page.
    """

    statuses: tuple[Status, ...] = ()
    definitions: tuple[str, ...] = ()
    reason: str | None = None
    parent_id: str | None = None
    queue: str | None = None
    unique_key: str | None = None
    tag: str | None = None
    created_after: Micros | None = None
    created_before: Micros | None = None
    text: str | None = None
    id_prefix: str | None = None
    limit: int = 100
    before: int | None = None
    caused_by: str | None = None
    limit_key: str | None = None
    version: str | None = None


class Count(msgspec.Struct, frozen=True, gc=False):
    """How many runs share a status, and where asked for a definition and a queue.

    Args:
        status: of all of them.
        definition, queue: of all of them; None where the count is over all.
        runs: how many, at least 1.
    """

    status: Status
    definition: str | None
    queue: str | None
    runs: int


_STATUS_ORDER = {status: number for number, status in enumerate(Status)}


def count_order(count: Count) -> tuple[str, str, int]:
    """Return what counts are sorted by: definition, queue, status."""
    return count.definition or "", count.queue or "", _STATUS_ORDER[count.status]


_ASCII_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def ascii_lower(text: str) -> str:
    """Return the text with ``A`` to ``Z`` as ``a`` to ``z`` and everything else as it is."""
    return text.translate(_ASCII_LOWER)
