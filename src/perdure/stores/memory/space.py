"""One namespace in plain dictionaries: its rows and the indexes over them.

Which status follows which is decided in :mod:`perdure.model.lifecycle`; what a transition does to
the rows stands in the modules beside this one, named after the verbs. Locks, clocks and hints are
the business of :mod:`perdure.stores.memory.store`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

from perdure.model import lifecycle
from perdure.model.changes import ChangeKind, SubscriberRecord, how_left, kind_after
from perdure.model.events import EventRecord, ListenerRecord
from perdure.model.leader import NOBODY, LeaderRecord
from perdure.model.records import (
    TERMINAL,
    Attempt,
    Audit,
    Checkpoint,
    Grant,
    Micros,
    ParentClose,
    RunRecord,
    Status,
    StepKey,
    Wait,
    WaitKind,
    WorkerRecord,
)
from perdure.model.retention import Retention
from perdure.model.schedules import Fire, ScheduleRecord
from perdure.stores.memory.feed import Feed
from perdure.stores.memory.kept import Kept
from perdure.stores.memory.ready import Due, Heap, Ready
from perdure.stores.memory.streams import StreamRow


@dataclass(slots=True)
class Row:
    """A run with everything that is kept of it.

    ``checkpoints`` are in the order in which they were first recorded. ``open`` holds, for each
    join of ``waits``, the children that have not ended. ``taken`` says by which wait, of which
    generation, an event (by its seq) was taken. ``counted_as`` is the status as which it counts.
    """

    run: RunRecord
    checkpoints: dict[tuple[int, StepKey], Checkpoint] = field(
        default_factory=dict[tuple[int, StepKey], Checkpoint]
    )
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    waits: tuple[Wait, ...] = ()
    open: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    audit: dict[str, Audit] = field(default_factory=dict[str, Audit])
    taken: dict[tuple[int, int], StepKey] = field(default_factory=dict[tuple[int, int], StepKey])
    counted_as: Status | None = None
    streams: dict[str, StreamRow] = field(default_factory=dict[str, StreamRow])


@dataclass(slots=True)
class WorkerRow:
    """A registered worker and the running runs that it holds, by id."""

    record: WorkerRecord
    held: dict[str, Row] = field(default_factory=dict[str, Row])

    def in_order(self) -> list[Row]:
        """Return what it holds in the order of creation."""
        return sorted(self.held.values(), key=lambda row: row.run.seq)


class Space:
    """One namespace: its rows and the indexes over them. Not thread-safe.

    ``hint`` is set by whatever may interest another process; who tells them clears it.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}  # in the order of creation
        self.workers: dict[str, WorkerRow] = {}  # in the order of registration
        self.leader: LeaderRecord = NOBODY
        self.hint = False
        self.seq = 0
        self.unique: dict[tuple[str, str], str] = {}  # (definition, unique_key) -> who holds it
        self.windows: Kept[tuple[str, str]] = Kept()  # likewise, of those that are throttled
        self.taken_inputs: Kept[tuple[str, int]] = Kept()  # (run_id, token) of a create -> by whom
        self.paused: dict[str, Row] = {}
        self.events: dict[str, EventRecord] = {}  # in the order of acceptance
        self.event_seq = 0
        self.listeners: dict[tuple[str, str], ListenerRecord] = {}  # by type and definition
        self._waiters: dict[str, dict[str, None]] = {}  # child -> runs with a wait row naming it
        self.schedules: dict[str, ScheduleRecord] = {}
        self.fires: dict[str, list[Fire]] = {}
        self._event_waiters: dict[str, dict[str, None]] = {}  # type -> runs with a wait for it
        self.retentions: dict[str, Retention] = {}  # by definition
        # Ended runs by definition, then by how they ended, in the order in which they did; those
        # that have a retention of their own stand apart.
        self.ended: dict[str, dict[tuple[Status, str | None], dict[str, Row]]] = {}
        self.retained: dict[str, Row] = {}
        self.counts: Counter[tuple[str, str, Status]] = Counter()  # by definition, queue, status
        self.feed = Feed()
        self.subscribers: dict[str, SubscriberRecord] = {}
        self.ready = Ready(self.rows)
        self._dues: Heap[Due] = Heap(self._is_due)
        self.attached: dict[str, dict[str, None]] = {}  # by parent, in the order of creation
        self.closing: deque[Row] = deque()  # whose body is over, in this transition

    def moved(self, row: Row, how: ChangeKind, now: Micros) -> None:
        """Note the new status of a run, and enter it where that belongs.

        Args:
            row: of the run.
            how: what happened to it where it is queued or waiting now.
            now: the store's time.
        """
        self.feed.note(row.run, kind_after(row.run, how), now)
        self.index(row, now)

    def controlled(self, row: Row, before: RunRecord, how: ChangeKind, now: Micros) -> None:
        """Enter a run that an operator has dealt with, and note what that altered, if anything.

        Args:
            row: of the run.
            before: as it was.
            how: what happened to it where it is queued or waiting now.
            now: the store's time.
        """
        self.hint = True
        if lifecycle.standing(row.run) == lifecycle.standing(before):
            self.index(row, now)
        else:
            self.moved(row, how_left(before, row.run, how), now)

    def index(self, row: Row, now: Micros) -> None:
        """Enter a run where its status belongs, and wake others where it has ended."""
        run = row.run
        self._count(row, run.status)
        self.paused.pop(run.run_id, None)
        if run.closing:
            self.closing.append(row)
        self.ready.moved(run, now)
        match run.status:
            case Status.QUEUED:
                self.hint = True
            case Status.WAITING:
                if run.due_at is not None:
                    self._dues.push((run.due_at, run.seq, run.run_id))
            case Status.RUNNING:
                self.holder(run).held[run.run_id] = row
            case Status.PAUSED:
                self.paused[run.run_id] = row
                self.hint = True
            case Status.COMPLETED | Status.FAILED | Status.CANCELLED:
                self.hint = True
                self.free_unique_key(run)
                self.set_waits(row, ())
                self._enter_ended(row)
                self.fulfil(run.run_id, now)
            case _:
                assert_never(run.status)

    def _count(self, row: Row, status: Status | None) -> None:
        """Count a run under its new status; None for one that is removed."""
        place = (row.run.definition, row.run.queue)
        if row.counted_as is not None:
            self.counts[*place, row.counted_as] -= 1
        if status is not None:
            self.counts[*place, status] += 1
        row.counted_as = status

    def _enter_ended(self, row: Row) -> None:
        run = row.run
        if run.retention is not None:
            self.retained[run.run_id] = row
        else:
            way = _way(run)
            self.ended.setdefault(run.definition, {}).setdefault(way, {})[run.run_id] = row

    def strike_ended(self, run: RunRecord) -> None:
        """Strike a run from the ended ones, before it changes."""
        if run.retention is not None:
            del self.retained[run.run_id]
            return
        ways = self.ended[run.definition]
        del ways[_way(run)][run.run_id]
        if not any(ways.values()):
            del self.ended[run.definition]

    def remove(self, row: Row) -> None:
        """Forget an ended run that nobody needs."""
        self.strike_ended(row.run)
        self._count(row, None)
        self._detach(row.run)
        del self.rows[row.run.run_id]

    def attach(self, run: RunRecord) -> None:
        """Enter a new run among those that are cancelled when the body of their parent is over."""
        assert run.parent_id is not None
        self.rows[run.parent_id].run.attaches = True
        self.attached.setdefault(run.parent_id, {})[run.run_id] = None

    def _detach(self, run: RunRecord) -> None:
        if run.on_parent_close is not ParentClose.ABANDON:
            assert run.parent_id is not None
            beside = self.attached[run.parent_id]
            del beside[run.run_id]
            if not beside:
                del self.attached[run.parent_id]

    def is_needed(self, run: RunRecord) -> bool:
        """Tell whether somebody may still ask how an ended run ended."""
        if run.run_id in self._waiters:
            return True
        parent = None if run.parent_id is None else self.rows.get(run.parent_id)
        return parent is not None and parent.run.status is not Status.COMPLETED

    def release(self, run: RunRecord) -> None:
        """Strike a running run from its worker's list, and free its slot."""
        del self.holder(run).held[run.run_id]
        self.ready.released(run)
        if run.queue in self.ready.queues:
            self.hint = True  # another worker may take the slot

    def holder(self, run: RunRecord) -> WorkerRow:
        """Return the worker that holds a running run."""
        assert run.worker_id is not None
        return self.workers[run.worker_id]

    def take_unique_key(self, run: RunRecord) -> None:
        """Enter the unique_key of a run that lives."""
        if run.unique_key is not None:
            self.unique[run.definition, run.unique_key] = run.run_id

    def free_unique_key(self, run: RunRecord) -> None:
        """Strike the unique_key of a run, where it holds it."""
        holder = self.holder_of_key(run.definition, run.unique_key)
        if holder is not None and holder.run is run:
            del self.unique[run.definition, run.unique_key or ""]

    def holder_of_key(self, definition: str, unique_key: str | None) -> Row | None:
        """Return the run that holds a unique_key."""
        if unique_key is None:
            return None
        run_id = self.unique.get((definition, unique_key))
        return None if run_id is None else self.rows[run_id]

    def set_waits(self, row: Row, waits: tuple[Wait, ...]) -> None:
        """Replace the wait rows of a run, and work out which children its joins still wait for."""
        waiter = row.run.run_id
        for child in {wait.key for wait in row.waits if wait.kind is WaitKind.CHILD}:
            del self._waiters[child][waiter]
            if not self._waiters[child]:
                del self._waiters[child]
        for type_ in {wait.key for wait in row.waits if wait.kind is WaitKind.EVENT}:
            del self._event_waiters[type_][waiter]
            if not self._event_waiters[type_]:
                del self._event_waiters[type_]
        row.waits = waits
        row.open = {}
        for wait in waits:
            if wait.kind is WaitKind.EVENT:
                self._event_waiters.setdefault(wait.key, {})[waiter] = None
            if wait.kind is WaitKind.CHILD:
                self._waiters.setdefault(wait.key, {})[waiter] = None
                still_open = row.open.setdefault(wait.join, set())
                if not self.is_terminal(wait.key):
                    still_open.add(wait.key)

    def fulfil(self, child_id: str, now: Micros) -> None:
        """A run has ended: wake those whose join has waited for it alone."""
        for waiter in self._waiters.get(child_id, ()):
            row = self.rows[waiter]
            waited = [still_open for still_open in row.open.values() if child_id in still_open]
            for still_open in waited:
                still_open.remove(child_id)
            if row.run.status is Status.WAITING and not all(waited):
                self.wake(row, now)

    def unfulfil(self, child_id: str) -> None:
        """An ended run is tried again: whoever has a wait row of it waits for it again."""
        for waiter in self._waiters.get(child_id, ()):
            row = self.rows[waiter]
            for wait in row.waits:
                if wait.kind is WaitKind.CHILD and wait.key == child_id:
                    row.open[wait.join].add(child_id)

    def waiting_for_event(self, type: str) -> Iterator[Row]:
        """Yield the runs with a wait for events of a type, in the order of their suspension."""
        return (self.rows[run_id] for run_id in self._event_waiters.get(type, ()))

    def wake(self, row: Row, now: Micros) -> None:
        """Wake a waiting run, now or soon."""
        due_at = row.run.due_at
        lifecycle.wake(row.run, now)
        if row.run.status is Status.QUEUED:
            self.moved(row, ChangeKind.WOKEN, now)
        elif row.run.due_at != due_at:
            self.index(row, now)

    def wake_if_fulfilled(self, row: Row, now: Micros) -> None:
        """Wake a waiting run of which a join is fulfilled already."""
        is_fulfilled = any(not still_open for still_open in row.open.values())
        if row.run.status is Status.WAITING and is_fulfilled:
            self.wake(row, now)

    def promote(self, now: Micros) -> None:
        """Queue every waiting run whose time has come."""
        while (due := self._dues.first()) is not None and due[0] <= now:
            row = self.rows[due[2]]
            lifecycle.queue_again(row.run, now)
            self.moved(row, ChangeKind.WOKEN, now)

    def next_due_at(self) -> Micros | None:
        """Return the earliest due time of a waiting run, or time to look at a gate."""
        due = self._dues.first()
        times = (None if due is None else due[0], self.ready.next_look_at())
        return min((time for time in times if time is not None), default=None)

    def _is_due(self, due: Due) -> bool:
        row = self.rows.get(due[-1])
        return (
            row is not None
            and row.run.status is Status.WAITING
            and (row.run.due_at, row.run.seq) == due[:2]
        )

    def is_terminal(self, run_id: str) -> bool:
        """Tell whether there is such a run and it has ended."""
        row = self.rows.get(run_id)
        return row is not None and row.run.status in TERMINAL

    def held_by(self, grant: Grant) -> Row | None:
        """Return the run that is running under a grant, if it is."""
        row = self.rows.get(grant.run_id)
        return row if row is not None and lifecycle.holds(row.run, grant) else None


def clear_ready(row: Row, generation: int) -> None:
    """Clear away what was laid ready for the generation after this one."""
    following = generation + 1
    for identity in [identity for identity in row.checkpoints if identity[0] == following]:
        del row.checkpoints[identity]
    for place in [place for place in row.taken if place[0] == following]:
        del row.taken[place]
    for stream in row.streams.values():
        stream.forget(following)


def _way(run: RunRecord) -> tuple[Status, str | None]:
    """Return how a run ended, as far as retention goes by it."""
    return run.status, "declined" if run.reason == "declined" else None
