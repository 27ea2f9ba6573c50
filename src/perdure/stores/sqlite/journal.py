"""Applying batches through one connection, each in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.clock import Clock
from perdure.errors import StoreError
from perdure.model.changes import MoveSubscriber, RemoveSubscriber
from perdure.model.events import (
    GiveUpEvent,
    Listen,
    Publish,
    SendEvent,
    TakeEvent,
    Unlisten,
)
from perdure.model.leader import LeaveLead, TakeLead
from perdure.model.progress import SetProgress
from perdure.model.queues import PauseQueue, PutQueue, ResumeQueue
from perdure.model.records import Grant, Status
from perdure.model.retention import Prune, PutRetentions
from perdure.model.schedules import (
    FireSchedule,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    ResumeSchedule,
)
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    CancelRun,
    Claim,
    Created,
    CreateRun,
    ForkRun,
    GiveBack,
    Heartbeat,
    Missing,
    Outcome,
    PauseRun,
    RegisterWorker,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    RetryRun,
    SaveCheckpoint,
    Settle,
    Transition,
)
from perdure.model.versions import PinRun
from perdure.stores.sqlite import (
    attached,
    counting,
    events,
    leader,
    lineage,
    pruning,
    queues,
    rows,
    runs,
    saving,
    schedules,
    streams,
    subscribers,
    workers,
)
from perdure.stores.sqlite.claims import claim
from perdure.stores.sqlite.connecting import lengthen_log
from perdure.stores.sqlite.failures import UNFIT_VALUES, is_busy, store_error
from perdure.stores.sqlite.feed import Ends
from perdure.stores.sqlite.flushing import flush
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.payloads import Payloads
from perdure.stores.sqlite.rows import Row
from perdure.stores.sqlite.unit import INSERT_PLAIN_RUNS, NotNew, NotQuick, Unit

VERBS: Final[dict[type[Any], Callable[[Unit, Any], Outcome]]] = {
    SaveCheckpoint: saving.save,
    WriteStream: streams.add,
    SetProgress: runs.say,
    Settle: runs.settle,
    CreateRun: runs.create,
    Heartbeat: workers.heartbeat,
    CancelRun: runs.cancel,
    PauseRun: runs.pause,
    ResumeRun: runs.resume,
    RetryRun: runs.retry,
    PinRun: runs.pin,
    RestartRun: lineage.restart,
    ForkRun: lineage.fork,
    RegisterWorker: workers.register,
    RetireWorker: workers.retire,
    RescueWorker: workers.rescue,
    GiveBack: workers.give_back,
    Listen: events.listen,
    Unlisten: events.unlisten,
    Publish: events.publish,
    SendEvent: events.send,
    TakeEvent: events.take,
    GiveUpEvent: events.give_up,
    PutSchedule: schedules.put,
    RemoveSchedule: schedules.remove,
    PauseSchedule: schedules.pause,
    ResumeSchedule: schedules.resume,
    FireSchedule: schedules.fire,
    PutQueue: queues.put,
    PauseQueue: queues.pause,
    ResumeQueue: queues.resume,
    PutRetentions: pruning.put,
    Prune: pruning.prune,
    MoveSubscriber: subscribers.move,
    RemoveSubscriber: subscribers.remove,
    TakeLead: leader.take,
    LeaveLead: leader.leave,
}

_MOST_HELD = 10_000
_BRIEF: Final = 8  # batches of a visit for which nothing is prepared: to enqueue and leave
_LATER: Final = Missing("")  # stands where a claim's answer will


class Applied(msgspec.Struct):
    """What became of a batch.

    Args:
        outcomes: the answers, in the order of the batch.
        hint: other processes may be interested.
        removed: workers that are no longer registered.
    """

    outcomes: list[Outcome]
    hint: bool
    removed: Sequence[str] = ()


class Journal:
    """The writing side of one store: its connection, and what is known between batches.

    Running runs are remembered (without their payloads), so that a checkpoint or a settle reads
    nothing: 50 checkpoints take 90 us less. What is remembered is true as long as
    ``PRAGMA data_version`` says that no other connection has committed since.

    Args:
        connection: for this object alone.
        path: of the file, for messages.
        namespace: the name of the namespace.
        clock: what decides when something is due.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, namespace: str, clock: Clock
    ) -> None:
        self._connection = connection
        self._path = path
        self._clock = clock
        self._names = Names(connection)
        self._payloads = Payloads(connection)
        self._namespace_name = namespace
        self._namespace: int | None = None
        self._held: dict[str, Row] = {}
        self._batches = 0
        self._created = 0  # runs, since some were counted
        self._ends: Ends | None = None  # of the feed
        self._counted: int | None = None
        (self._version,) = connection.execute("PRAGMA data_version").fetchone()

    def apply(self, batch: Sequence[Transition], *, quick: bool) -> Applied:
        """Apply a batch.

        Args:
            batch: what to apply.
            quick: give up with NotQuick where there is unexpectedly much to do.

        Raises:
            sqlite3.Error: another connection is writing; nothing was done.
            NotQuick: it takes long; nothing was done.
            StoreError: anything else that went wrong; see :mod:`perdure.store`.
        """
        if self._batches == _BRIEF:
            if quick:
                raise NotQuick
            lengthen_log(self._connection, self._path)
        self._batches += 1
        if self._created >= counting.FOLD:
            if quick:
                raise NotQuick
            self._fold()
        if type(batch[0]) is CreateRun:
            creates = [one for one in batch if type(one) is CreateRun]
            applied = self._create_plainly(creates) if len(creates) == len(batch) else None
            if applied is not None:
                return applied
        try:
            return self._transact(batch, careful=False, quick=quick)
        except NotNew:
            return self._transact(batch, careful=True, quick=quick)

    def _create_plainly(self, creates: Sequence[CreateRun]) -> Applied | None:
        """Insert new runs that say nothing unusual; None, and nothing done, where it takes more.

        One alone is one statement, which is a transaction: 165 us against 185. Many are a few
        statements without a unit of work: 1 us less a run, of 8.
        """
        names = self._names.numbers
        namespace = self._namespace
        if namespace is None or not all(_is_plain(create, names) for create in creates):
            return None
        now = self._clock.now()
        columns: list[Any] = []
        for create in creates:
            columns += rows.plain_create(create, namespace, now, self._names)
        try:
            if len(creates) == 1:
                are_new = bool(INSERT_PLAIN_RUNS.run(self._connection, columns))
            else:
                are_new = self._insert_all(columns, len(creates))
        except BaseException as error:
            self._rolled_back()
            if isinstance(error, (sqlite3.Error, *UNFIT_VALUES)) and not is_busy(error):
                raise store_error(error, self._path, at_commit=True) from error
            raise
        if not are_new:
            return None
        self._created += len(creates)
        if self._ends is not None:
            self._ends = self._ends.after_creates(len(creates))
        return Applied([Created(create.run_id) for create in creates], hint=True)

    def _fold(self) -> None:
        """Count runs that are not the newest any more, in a transaction of its own."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            counting.fold(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            self._rolled_back()
            raise
        self._created = 0
        self._counted = None

    def _insert_all(self, columns: list[Any], count: int) -> bool:
        """Insert so many runs, or none where one of them is there already; tell which."""
        self._connection.execute("BEGIN IMMEDIATE")
        are_new = INSERT_PLAIN_RUNS.run(self._connection, columns) == count
        self._connection.execute("COMMIT" if are_new else "ROLLBACK")
        return are_new

    def _transact(self, batch: Sequence[Transition], *, careful: bool, quick: bool) -> Applied:
        at_commit = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            unit = self._unit(batch, careful=careful, quick=quick)
            _apply(unit, batch)
            at_commit = True
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._rolled_back()
            if is_busy(error) or isinstance(error, NotNew | NotQuick | StoreError):
                raise
            if isinstance(error, (sqlite3.Error, *UNFIT_VALUES)):
                raise store_error(error, self._path, at_commit=at_commit) from error
            raise
        self._committed(unit)
        return Applied(unit.outcomes, unit.hint, unit.removed)

    def _unit(self, batch: Sequence[Transition], *, careful: bool, quick: bool) -> Unit:
        """Begin a unit of work, and read the runs that the batch names."""
        if self._namespace is None:
            self._namespace = self._names.number(self._namespace_name)
        named = list(dict.fromkeys(_named(batch, careful=careful)))
        if named:
            self._see_others()
        unit = Unit(
            self._connection,
            self._namespace,
            self._names,
            self._payloads,
            held=self._held,
            counted=self._counted if named else None,
            ends=self._ends if named else None,
            now=self._clock.now(),
            careful=careful,
            quick=quick,
        )
        if named:
            unit.load(named)
        return unit

    def _see_others(self) -> None:
        """Forget what was remembered where another connection has committed since."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._held.clear()
            self._counted = self._ends = None
            self._version = version

    def _committed(self, unit: Unit) -> None:
        self._names.committed()
        self._created += unit.created
        self._counted = unit.upto
        self._ends = unit.known_ends
        for run_id, row in unit.rows.items():
            if row is not None and row.run.status is Status.RUNNING:
                self._held[run_id] = row
            else:
                self._held.pop(run_id, None)
        if len(self._held) > _MOST_HELD:
            self._held.clear()

    def _rolled_back(self) -> None:
        """Forget what did not become true. SQLite may have rolled back by itself (disk full)."""
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # what led here is raised; the transaction ends anyway
                self._connection.execute("ROLLBACK")
        self._namespace = None
        self._counted = None
        self._names.rolled_back()
        self._ends = None
        self._held.clear()


def _is_plain(create: CreateRun, names: Mapping[str, int]) -> bool:
    """Tell whether a create is one row of few columns, with names that are known."""
    return (
        create.by is None
        and create.definition in names
        and create.queue in names
        and create.version in names
        and rows.is_plain_create(create)
    )


def _apply(unit: Unit, batch: Sequence[Transition]) -> None:
    claims: list[tuple[int, Claim]] = []
    outcomes = unit.outcomes
    for transition in batch:
        if type(transition) is Claim:
            claims.append((len(outcomes), transition))
            outcomes.append(_LATER)
        else:
            outcome = VERBS[type(transition)](unit, transition)
            outcomes.append(attached.close(unit, outcome) if unit.closing else outcome)
    flush(unit)
    for index, transition in claims:
        outcomes[index] = claim(unit, transition)
    unit.moves.write(unit.connection, unit.namespace)
    unit.write_feed()


def _named(batch: Sequence[Transition], *, careful: bool) -> Iterator[str]:  # a flat table
    """Yield the ids of the runs that a batch names, those that it would create if careful."""
    for transition in batch:
        match transition:
            case (
                SaveCheckpoint()
                | WriteStream()
                | SetProgress()
                | Settle()
                | TakeEvent()
                | GiveUpEvent()
            ):
                yield transition.grant.run_id
            case CreateRun():
                if careful:
                    yield transition.run_id
                yield from _holder(transition.by)
            case ForkRun():
                yield from (transition.source, transition.create.run_id)
            case Publish():
                yield from _holder(transition.by)
            case SendEvent():
                yield transition.run_id
                yield from _holder(transition.by)
            case CancelRun() | PauseRun() | ResumeRun() | RetryRun() | RestartRun() | PinRun():
                yield transition.run_id
            case _:
                pass


def _holder(by: Grant | None) -> Iterator[str]:
    if by is not None:
        yield by.run_id
