"""One namespace in plain dictionaries: the contract's transitions, readable.

Which status follows which is decided in :mod:`perdure.model.lifecycle`; here stand the rows and
the indexes that go with it. Locks, clocks and hints are the business of
:mod:`perdure.stores.memory`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar, assert_never

from msgspec.structs import replace

from perdure.model import lifecycle
from perdure.model.records import (
    TERMINAL,
    Attempt,
    Audit,
    Checkpoint,
    Count,
    Ending,
    Grant,
    History,
    Micros,
    Rank,
    RunQuery,
    RunRecord,
    Status,
    StepKey,
    StepOutcome,
    Wait,
    WaitKind,
    WorkerRecord,
    ascii_lower,
    count_order,
)
from perdure.model.transitions import (
    Beaten,
    CancelRun,
    Claim,
    Claimed,
    ClaimedRun,
    Conflict,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Fenced,
    GiveBack,
    Heartbeat,
    Missing,
    Outcome,
    PauseRun,
    Refused,
    RegisterWorker,
    Rescued,
    RescueWorker,
    ResumeRun,
    RetireWorker,
    Retrying,
    RetryRun,
    SaveCheckpoint,
    Saved,
    Settle,
    Settled,
    Suspended,
    Transition,
)

Place: TypeAlias = tuple[Rank, int, int, str]
"""Where a queued run stands: rank, priority, seq, id. The smallest is claimed first."""

Due: TypeAlias = tuple[Micros, int, str]
"""When a waiting run becomes claimable by itself: due_at, seq, id."""

E = TypeVar("E", Place, Due)


class _Heap(Generic[E]):
    """A priority queue that drops entries which are no longer true when they come to the top."""

    def __init__(self, is_true: Callable[[E], bool]) -> None:
        self._entries: list[E] = []
        self._is_true: Callable[[E], bool] = is_true

    def push(self, entry: E) -> None:
        heapq.heappush(self._entries, entry)

    def first(self) -> E | None:
        """Return the smallest true entry, and leave it: it goes when it is no longer true."""
        while self._entries:
            if self._is_true(self._entries[0]):
                return self._entries[0]
            heapq.heappop(self._entries)
        return None


@dataclass(slots=True)
class _Row:
    """A run with everything that is kept of it.

    ``checkpoints`` are in the order in which they were first recorded. ``open`` holds, for each
    join of ``waits``, the children that have not ended.
    """

    run: RunRecord
    checkpoints: dict[tuple[int, StepKey], Checkpoint] = field(
        default_factory=dict[tuple[int, StepKey], Checkpoint]
    )
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    waits: tuple[Wait, ...] = ()
    open: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    audit: dict[str, Audit] = field(default_factory=dict[str, Audit])


@dataclass(slots=True)
class _Worker:
    """A registered worker and the running runs that it holds, by id."""

    record: WorkerRecord
    held: dict[str, _Row] = field(default_factory=dict[str, _Row])

    def in_order(self) -> list[_Row]:
        return sorted(self.held.values(), key=lambda row: row.run.seq)


class Journal:
    """One namespace: its rows and the indexes over them. Not thread-safe.

    ``hint`` is set by whatever may interest another process; who tells them clears it.
    """

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}  # in the order of creation
        self.workers: dict[str, _Worker] = {}  # in the order of registration
        self.hint = False
        self._seq = 0
        self._unique: dict[tuple[str, str], str] = {}  # (definition, unique_key) -> live run
        self._waiters: dict[str, dict[str, None]] = {}  # child -> runs with a wait row naming it
        self._lanes: dict[tuple[str, str, bool], _Heap[Place]] = {}
        self._dues: _Heap[Due] = _Heap(self._is_due)
        self._paused: dict[str, _Row] = {}

    def apply(self, batch: Sequence[Transition], now: Micros) -> list[Outcome]:
        """Apply a batch: in the order given, claims last."""
        outcomes: dict[int, Outcome] = {}
        for index in sorted(range(len(batch)), key=lambda i: isinstance(batch[i], Claim)):
            outcomes[index] = self._apply(batch[index], now)
        return [outcomes[index] for index in range(len(batch))]

    def _apply(self, transition: Transition, now: Micros) -> Outcome:  # noqa: C901, PLR0912  # a flat table
        match transition:
            case SaveCheckpoint():
                return self._save(transition, now)
            case Settle():
                return self._settle(transition, now)
            case CreateRun():
                return self._create(transition, now)
            case Claim():
                return self._claim(transition, now)
            case Heartbeat():
                return self._heartbeat(transition, now)
            case RegisterWorker():
                return self._register(transition, now)
            case CancelRun():
                return self._cancel(transition, now)
            case PauseRun():
                return self._pause(transition, now)
            case ResumeRun():
                return self._resume(transition, now)
            case RetryRun():
                return self._retry(transition, now)
            case RetireWorker():
                return self._retire(transition, now)
            case RescueWorker():
                return self._rescue(transition, now)
            case GiveBack():
                return self._give_back(transition, now)
            case _:
                assert_never(transition)

    # --- work --------------------------------------------------------------------------------

    def _create(self, create: CreateRun, now: Micros) -> Created | Exists | Fenced:
        row = self.rows.get(create.run_id)
        if row is not None and row.run.token == create.token:
            return Created(create.run_id)
        if create.by is not None and self._held_by(create.by) is None:
            return Fenced(create.by.run_id)
        if row is None and create.unique_key is not None:
            taken_by = self._unique.get((create.definition, create.unique_key))
            row = None if taken_by is None else self.rows[taken_by]
        if row is not None:
            same = row.run.definition == create.definition and row.run.input == create.input
            return Exists(row.run.run_id, same)
        self._seq += 1
        row = _Row(lifecycle.create(create, self._seq, now))
        self.rows[create.run_id] = row
        self._take_unique_key(row.run)
        self._index(row, now)
        return Created(create.run_id)

    def _claim(self, claim: Claim, now: Micros) -> Claimed:
        worker = self.workers.get(claim.worker_id)
        if worker is None:
            return Claimed((), now, self._next_due_at(), suspects=False, known=False)
        self._promote(now)
        given = [row for row in worker.held.values() if row.run.grant == claim.token]
        given.sort(key=lambda row: _place(row.run))
        runs = tuple(
            self._claimed(row)
            for row in given or self._give_paused(worker, claim, now) or self._give(claim, now)
        )
        suspects = any(lane.first() for lane in self._lanes_of(claim, suspect=True))
        return Claimed(runs, now, self._next_due_at(), suspects)

    def _promote(self, now: Micros) -> None:
        """Queue every waiting run whose time has come."""
        while (due := self._dues.first()) is not None and due[0] <= now:
            row = self.rows[due[2]]
            lifecycle.queue_again(row.run, now)
            self._index(row, now)

    def _give_paused(self, worker: _Worker, claim: Claim, now: Micros) -> list[_Row]:
        """Give paused mismatches that the worker may fit; one that is a suspect is queued."""
        versions = worker.record.definitions
        asked = {name: versions[name] for name in claim.definitions if name in versions}
        fitting = [
            row
            for row in self._paused.values()
            if row.run.queue in claim.queues and lifecycle.may_refit(row.run, asked)
        ]
        fitting.sort(key=lambda row: row.run.seq)
        given: list[_Row] = []
        for row in fitting[: claim.limit]:
            lifecycle.refit(row.run, now)
            if row.run.rank is not Rank.SUSPECT:
                lifecycle.claim(row.run, claim.worker_id, claim.token, now)
                given.append(row)
            self._index(row, now)
        return given

    def _give(self, claim: Claim, now: Micros) -> list[_Row]:
        """Give one suspect alone, where that is asked for, or the first of all its lanes."""
        if claim.suspects:
            suspects = self._give_from(self._lanes_of(claim, suspect=True), 1, claim, now)
            if suspects:
                return suspects
        return self._give_from(self._lanes_of(claim, suspect=False), claim.limit, claim, now)

    def _give_from(
        self, lanes: Iterable[_Heap[Place]], limit: int, claim: Claim, now: Micros
    ) -> list[_Row]:
        heads = [(place, lane) for lane in lanes if (place := lane.first()) is not None]
        heapq.heapify(heads)  # places are unique, so that lanes are never compared
        given: list[_Row] = []
        while heads and len(given) < limit:
            place, lane = heapq.heappop(heads)
            row = self.rows[place[-1]]
            lifecycle.claim(row.run, claim.worker_id, claim.token, now)
            self._index(row, now)
            given.append(row)
            if (behind := lane.first()) is not None:
                heapq.heappush(heads, (behind, lane))
        return given

    def _claimed(self, row: _Row) -> ClaimedRun:
        checkpoints = tuple(
            checkpoint
            for (generation, _), checkpoint in row.checkpoints.items()
            if generation == row.run.generation
        )
        children = dict.fromkeys(wait.key for wait in row.waits if wait.kind is WaitKind.CHILD)
        return ClaimedRun(copy(row.run), checkpoints, tuple(self.endings(children).values()))

    def _save(self, save: SaveCheckpoint, now: Micros) -> Saved | Fenced | Conflict:
        row = self.rows.get(save.grant.run_id)
        if row is None or not _is_newest(row.run, save.grant):
            return Fenced(save.grant.run_id)
        run = row.run
        ended = run.status is not Status.RUNNING
        recorded = row.checkpoints.get((run.generation, save.key))
        if recorded is not None and recorded.epoch == run.epoch:  # by this very grant
            known = ended or _is_final(recorded) or _is_same_try(recorded, save)
            if known:
                return Saved(run.control, recorded.due_at)
        if ended:
            return Fenced(run.run_id)
        if recorded is not None and _is_final(recorded):
            return Conflict(run.run_id, save.key.path)
        due_at = None if save.delay is None else now + save.delay
        row.checkpoints[run.generation, save.key] = Checkpoint(
            key=save.key,
            position=save.position,
            kind=save.kind,
            outcome=save.outcome,
            value=save.value,
            tries=save.tries,
            log=save.log,
            due_at=due_at,
            started_at=save.started_at,
            ended_at=save.ended_at,
            site=save.site,
            text=save.text,
            epoch=save.grant.epoch,
        )
        run.updated_at = now
        return Saved(run.control, due_at)

    def _settle(self, settle: Settle, now: Micros) -> Settled | Fenced:
        row = self.rows.get(settle.grant.run_id)
        if row is None:
            return Fenced(settle.grant.run_id)
        if not lifecycle.holds(row.run, settle.grant):
            return lifecycle.settle(row.run, settle, now)  # fenced, or settled before
        before = copy(row.run)
        lifecycle.settle(row.run, settle, now)
        self._set_waits(row, ())
        self._release(before)
        if row.run.waiting_for is None:
            self._index(row, now)
            return Settled(row.run.status)
        match settle.verdict:
            case Retrying(error=error, culprits=culprits):
                row.attempts.append(
                    lifecycle.attempt_row(before, "failed", error, now, row.run.due_at)
                )
                self._reopen(row, culprits, now)
            case Suspended(waits=waits):
                self._set_waits(row, waits)
            case _:
                raise AssertionError(f"{settle.verdict!r} left {row.run.run_id!r} waiting")
        self._index(row, now)
        self._wake_if_fulfilled(row, now)
        return Settled(row.run.status)

    def _wake_if_fulfilled(self, row: _Row, now: Micros) -> None:
        """Wake a waiting run of which a join is fulfilled already."""
        is_fulfilled = any(not still_open for still_open in row.open.values())
        if row.run.status is Status.WAITING and is_fulfilled:
            self._wake(row, now)

    def _reopen(self, row: _Row, culprits: Iterable[StepKey], now: Micros) -> None:
        """Make the steps that failed or were given up in an attempt due again at once."""
        for key in culprits:
            identity = (row.run.generation, key)
            recorded = row.checkpoints.get(identity)
            if recorded is None or recorded.outcome in {StepOutcome.OK, StepOutcome.PENDING}:
                continue
            row.checkpoints[identity] = replace(
                recorded, outcome=StepOutcome.PENDING, tries=0, due_at=now
            )

    # --- operators ---------------------------------------------------------------------------

    def _cancel(self, cancel: CancelRun, now: Micros) -> Controlled | Refused | Missing:
        return self._operate(
            "cancel", cancel, lambda row: lifecycle.cancel(row.run, cancel, now), now
        )

    def _pause(self, pause: PauseRun, now: Micros) -> Controlled | Refused | Missing:
        return self._operate("pause", pause, lambda row: lifecycle.pause(row.run, pause, now), now)

    def _resume(self, resume: ResumeRun, now: Micros) -> Controlled | Refused | Missing:
        def decide(row: _Row) -> Controlled | Refused:
            shift = lifecycle.paused_for(row.run, now)
            outcome = lifecycle.resume(row.run, resume, now)
            if isinstance(outcome, Controlled):
                self._shift(row, shift)
            return outcome

        return self._operate("resume", resume, decide, now)

    def _operate(
        self,
        action: str,
        asked: CancelRun | PauseRun | ResumeRun,
        decide: Callable[[_Row], Controlled | Refused],
        now: Micros,
    ) -> Controlled | Refused | Missing:
        """Do what an operator asks of a run, unless it was done, and keep an audit row."""
        row = self.rows.get(asked.run_id)
        if row is None:
            return Missing(asked.run_id)
        if asked.request_id in row.audit:
            return Controlled(row.run.status)
        outcome = decide(row)
        if isinstance(outcome, Controlled):
            row.audit[asked.request_id] = Audit(asked.request_id, asked.run_id, action, now)
            self.hint = True
            self._index(row, now)
            self._wake_if_fulfilled(row, now)
            return Controlled(row.run.status)
        return outcome

    def _shift(self, row: _Row, shift: Micros) -> None:
        """Move everything that is due by so much."""
        row.waits = tuple(
            wait if wait.due_at is None else replace(wait, due_at=wait.due_at + shift)
            for wait in row.waits
        )
        for identity, recorded in row.checkpoints.items():
            if identity[0] == row.run.generation and recorded.due_at is not None:
                row.checkpoints[identity] = replace(recorded, due_at=recorded.due_at + shift)

    def _retry(self, retry: RetryRun, now: Micros) -> Controlled | Refused | Missing:
        row = self.rows.get(retry.run_id)
        if row is None:
            return Missing(retry.run_id)
        if retry.request_id in row.audit:
            return Controlled(row.run.status)
        before = copy(row.run)
        if before.status in {Status.FAILED, Status.CANCELLED} and before.unique_key is not None:
            taken_by = self._unique.get((before.definition, before.unique_key))
            if taken_by is not None:
                return Refused(retry.run_id, before.status, f"unique_key is held by {taken_by!r}")
        outcome = lifecycle.retry(row.run, retry, now)
        if isinstance(outcome, Controlled):
            ended_at = now if before.finished_at is None else before.finished_at
            row.attempts.append(
                lifecycle.attempt_row(before, str(before.status), before.error, ended_at)
            )
            self._reopen(row, lifecycle.decode_keys(before.culprits), now)
            row.audit[retry.request_id] = Audit(retry.request_id, retry.run_id, "retry", now)
            self._take_unique_key(row.run)
            self._unfulfil(retry.run_id)
            self._index(row, now)
        return outcome

    # --- workers -----------------------------------------------------------------------------

    def _register(self, register: RegisterWorker, now: Micros) -> Beaten:
        if register.worker_id not in self.workers:
            self.workers[register.worker_id] = _Worker(
                WorkerRecord(
                    worker_id=register.worker_id,
                    host=register.host,
                    pid=register.pid,
                    definitions=dict(register.definitions),
                    queues=register.queues,
                    slots=register.slots,
                    started_at=now,
                    beat_at=now,
                    beat=0,
                )
            )
        return self._beaten(register.worker_id)

    def _heartbeat(self, heartbeat: Heartbeat, now: Micros) -> Beaten:
        worker = self.workers.get(heartbeat.worker_id)
        if worker is not None:
            worker.record = replace(worker.record, beat=worker.record.beat + 1, beat_at=now)
        return self._beaten(heartbeat.worker_id)

    def _beaten(self, worker_id: str) -> Beaten:
        worker = self.workers.get(worker_id)
        if worker is None:
            return Beaten(known=False, beat=0, held=0)
        controls = tuple(
            (row.run.run_id, row.run.control) for row in worker.in_order() if row.run.control
        )
        return Beaten(True, worker.record.beat, len(worker.held), controls)

    def _retire(self, retire: RetireWorker, now: Micros) -> Rescued:
        worker = self.workers.get(retire.worker_id)
        if worker is None:
            return Rescued()
        rescued = self._take_back(worker.in_order(), now)
        del self.workers[retire.worker_id]
        return rescued

    def _give_back(self, give_back: GiveBack, now: Micros) -> Rescued:
        worker = self.workers.get(give_back.worker_id)
        if worker is None:
            return Rescued()
        known = set(give_back.held)
        rows = worker.in_order()
        return self._take_back(
            [row for row in rows if (row.run.run_id, row.run.epoch) not in known], now
        )

    def _take_back(self, rows: list[_Row], now: Micros) -> Rescued:
        for row in rows:
            self._release(row.run)
            lifecycle.take_back(row.run, now)
            self._index(row, now)
        return _rescued(rows)

    def _rescue(self, rescue: RescueWorker, now: Micros) -> Rescued:
        worker = self.workers.get(rescue.worker_id)
        if worker is None or rescue.beat not in {None, worker.record.beat}:
            return Rescued()
        rows = worker.in_order()
        for row in rows:
            row.attempts.append(lifecycle.attempt_row(row.run, "crashed", rescue.error, now))
            progressed = any(
                checkpoint.epoch == row.run.epoch for checkpoint in row.checkpoints.values()
            )
            self._release(row.run)
            lifecycle.rescue(row.run, rescue, progressed=progressed, now=now)
            self._index(row, now)
        del self.workers[rescue.worker_id]
        return _rescued(rows)

    # --- indexes -----------------------------------------------------------------------------

    def _index(self, row: _Row, now: Micros) -> None:
        """Enter a run where its new status belongs, and wake others where it has ended."""
        run = row.run
        self._paused.pop(run.run_id, None)
        match run.status:
            case Status.QUEUED:
                lane = (run.definition, run.queue, run.rank is Rank.SUSPECT)
                self._lanes.setdefault(lane, _Heap(self._is_queued)).push(_place(run))
                self.hint = True
            case Status.WAITING:
                if run.due_at is not None:
                    self._dues.push((run.due_at, run.seq, run.run_id))
            case Status.RUNNING:
                self._holder(run).held[run.run_id] = row
            case Status.PAUSED:
                self._paused[run.run_id] = row
                self.hint = True
            case Status.COMPLETED | Status.FAILED | Status.CANCELLED:
                self.hint = True
                if run.unique_key is not None:
                    del self._unique[run.definition, run.unique_key]
                self._set_waits(row, ())
                self._fulfil(run.run_id, now)
            case _:
                assert_never(run.status)

    def _release(self, run: RunRecord) -> None:
        """Strike a running run from its worker's list."""
        del self._holder(run).held[run.run_id]

    def _holder(self, run: RunRecord) -> _Worker:
        assert run.worker_id is not None
        return self.workers[run.worker_id]

    def _take_unique_key(self, run: RunRecord) -> None:
        if run.unique_key is not None:
            self._unique[run.definition, run.unique_key] = run.run_id

    def _set_waits(self, row: _Row, waits: tuple[Wait, ...]) -> None:
        """Replace the wait rows of a run, and work out which children its joins still wait for."""
        waiter = row.run.run_id
        for child in {wait.key for wait in row.waits if wait.kind is WaitKind.CHILD}:
            del self._waiters[child][waiter]
            if not self._waiters[child]:
                del self._waiters[child]
        row.waits = waits
        row.open = {}
        for wait in waits:
            if wait.kind is WaitKind.CHILD:
                self._waiters.setdefault(wait.key, {})[waiter] = None
                still_open = row.open.setdefault(wait.join, set())
                if not self._is_terminal(wait.key):
                    still_open.add(wait.key)

    def _fulfil(self, child_id: str, now: Micros) -> None:
        """A run has ended: wake those whose join has waited for it alone."""
        for waiter in self._waiters.get(child_id, ()):
            row = self.rows[waiter]
            waited = [still_open for still_open in row.open.values() if child_id in still_open]
            for still_open in waited:
                still_open.remove(child_id)
            if row.run.status is Status.WAITING and not all(waited):
                self._wake(row, now)

    def _unfulfil(self, child_id: str) -> None:
        """An ended run is tried again: whoever has a wait row of it waits for it again."""
        for waiter in self._waiters.get(child_id, ()):
            row = self.rows[waiter]
            for wait in row.waits:
                if wait.kind is WaitKind.CHILD and wait.key == child_id:
                    row.open[wait.join].add(child_id)

    def _wake(self, row: _Row, now: Micros) -> None:
        due_at = row.run.due_at
        lifecycle.wake(row.run, now)
        if row.run.due_at != due_at or row.run.status is Status.QUEUED:
            self._index(row, now)

    def _lanes_of(self, claim: Claim, *, suspect: bool) -> Iterator[_Heap[Place]]:
        for definition in dict.fromkeys(claim.definitions):
            for queue in dict.fromkeys(claim.queues):
                lane = self._lanes.get((definition, queue, suspect))
                if lane is not None:
                    yield lane

    def _next_due_at(self) -> Micros | None:
        due = self._dues.first()
        return None if due is None else due[0]

    def _is_queued(self, place: Place) -> bool:
        run = self.rows[place[-1]].run
        return run.status is Status.QUEUED and _place(run) == place

    def _is_due(self, due: Due) -> bool:
        run = self.rows[due[-1]].run
        return run.status is Status.WAITING and run.due_at == due[0]

    def _is_terminal(self, run_id: str) -> bool:
        row = self.rows.get(run_id)
        return row is not None and row.run.status in TERMINAL

    def _held_by(self, grant: Grant) -> _Row | None:
        row = self.rows.get(grant.run_id)
        return row if row is not None and lifecycle.holds(row.run, grant) else None

    # --- reads -------------------------------------------------------------------------------

    def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        """Return how those of the named runs ended that are terminal."""
        ended = (self.rows[run_id].run for run_id in run_ids if self._is_terminal(run_id))
        return {
            run.run_id: Ending(run.run_id, run.status, run.result, run.error, run.reason)
            for run in ended
        }

    def history(self, run_id: str) -> History | None:
        """Return everything kept of a run."""
        row = self.rows.get(run_id)
        if row is None:
            return None
        return History(
            run=copy(row.run),
            attempts=tuple(row.attempts),
            checkpoints=tuple(row.checkpoints.values()),
            waits=row.waits,
            audit=tuple(row.audit.values()),
        )

    def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the runs that match, newest first."""
        page: list[RunRecord] = []
        for row in reversed(self.rows.values()):
            if len(page) >= query.limit:
                break
            if _matches(row.run, query):
                page.append(copy(row.run))
        return page

    def counts(self, *, by_definition: bool, by_queue: bool) -> list[Count]:
        """Return how many runs there are of each status."""
        found = Counter(
            (
                row.run.definition if by_definition else None,
                row.run.queue if by_queue else None,
                row.run.status,
            )
            for row in self.rows.values()
        )
        counts = [Count(status, name, queue, runs) for (name, queue, status), runs in found.items()]
        return sorted(counts, key=count_order)


def _place(run: RunRecord) -> Place:
    return (run.rank, run.priority, run.seq, run.run_id)


def _is_newest(run: RunRecord, grant: Grant) -> bool:
    """Tell whether no claim came after the grant's and nobody took it back."""
    return run.epoch == grant.epoch and run.grant == grant.token


def _is_final(recorded: Checkpoint) -> bool:
    return recorded.outcome is not StepOutcome.PENDING


def _is_same_try(recorded: Checkpoint, save: SaveCheckpoint) -> bool:
    return save.outcome is StepOutcome.PENDING and save.tries == recorded.tries


def _rescued(rows: list[_Row]) -> Rescued:
    ended = [row.run.run_id for row in rows if row.run.status in TERMINAL]
    queued = [row.run.run_id for row in rows if row.run.status not in TERMINAL]
    return Rescued(tuple(queued), tuple(ended))


def _matches(run: RunRecord, query: RunQuery) -> bool:
    return (
        (not query.statuses or run.status in query.statuses)
        and (not query.definitions or run.definition in query.definitions)
        and (query.reason is None or run.reason == query.reason)
        and (query.parent_id is None or run.parent_id == query.parent_id)
        and (query.queue is None or run.queue == query.queue)
        and (query.unique_key is None or run.unique_key == query.unique_key)
        and (query.tag is None or query.tag in run.tags)
        and (query.created_after is None or run.created_at >= query.created_after)
        and (query.created_before is None or run.created_at < query.created_before)
        and (query.text is None or _mentions(run, ascii_lower(query.text)))
        and (query.id_prefix is None or run.run_id.startswith(query.id_prefix))
        and (query.before is None or run.seq < query.before)
    )


def _mentions(run: RunRecord, lowered: str) -> bool:
    texts = (run.run_id, run.definition, run.unique_key or "", *run.tags)
    return any(lowered in ascii_lower(text) for text in texts)
