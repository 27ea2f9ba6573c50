"""The Store contract: a journal that applies transitions. These docstrings are the specification.

What a store is
    A store keeps runs, checkpoints, attempts, waits, workers and audit rows of one *namespace*;
    two stores on the same database with different namespaces never see each other's rows. It
    changes them through :meth:`Store.apply` alone. Which status may follow which is written once,
    in :mod:`perdure.model.lifecycle`; each transition's guard, key and answers are written at its
    class in :mod:`perdure.model.transitions`.

Rows and their owners
    Wait rows belong to a ``waiting`` run and stay while it is queued and running again, because
    its replay looks at their endings; the next settle replaces or deletes them and so does every
    end. The control word is set on ``running`` runs only. A ``running`` run has a registered
    worker. A unique_key is held by one run at most, which is not terminal; see
    :mod:`perdure.model.keys`.

Atomic, guarded, idempotent
    A transition happens whole or not at all, together with every index it touches. One whose
    guard does not hold changes nothing and is answered with a typed outcome (``Fenced``,
    ``Refused``, ...), never with an exception. The same transition applied again, in the same batch
    or years later, answers as it did and changes nothing, because its natural key is found.

Batches
    ``apply`` takes many transitions in one round trip and makes them durable with one
    synchronisation; each succeeds or is refused on its own. Transitions on one run take effect in
    the order given; a ``Claim`` takes effect last. If the store fails (not a refusal: disk full,
    connection lost, a value it cannot take) it raises a :class:`~perdure.errors.StoreError` for
    the whole batch: :class:`~perdure.errors.NotApplied` where certainly nothing of it was applied,
    :class:`~perdure.errors.OutcomeUnknown` where that cannot be known. The committer then applies
    the same batch again, or its halves until the culprit is alone.

Time
    Only the store's clock decides what is due; callers hand over lengths. A store may be given a
    clock for tests. Leases are never judged by any clock: see Rescue.

Waking
    A run that becomes terminal, by whatever transition, fulfils the ``child`` waits that name it
    for as long as it is terminal. When the last ``child`` wait of a join of a ``waiting`` run is
    fulfilled, the run becomes ``queued`` (RESUMED) if its
    ``coalesce`` is 0; otherwise its ``due_at`` becomes at most now + ``coalesce``, so that a
    parent of a thousand children is not replayed a thousand times. Runs that are not ``waiting``
    are left alone: they look at their waits' endings when they are claimed or suspended next.
    An event that a wait of a ``waiting`` run would take wakes it in the same way; see
    :mod:`perdure.model.events`.

Attached children
    The body of a run is over when the run becomes terminal, or begins to undo its steps. Then, in
    the same transition, every attached run that it created and that lives is cancelled by the
    ``CancelRun`` of :func:`perdure.model.lifecycle.cancel_of_attached`: with ``compensate`` where
    the parent undoes its compensations. Those that have children attached in turn pass it on in the
    same way. A body that is suspended, retried, restarted or continued as new is not over. Each
    ``attaches`` closes once: a child that an operator tries again goes on by itself, until
    its parent, tried again too, attaches another child and ends.

Rescue
    The store judges nobody dead by time. A rescuer that saw a beat unchanged for one lease, on
    its own monotonic clock, asks with ``RescueWorker`` naming that beat; if the beat has risen
    meanwhile nothing happens. Where the store knows more (a lock file beside a database on the
    same machine), :meth:`Store.departed` says so and the rescue needs no lease.

Leader
    One worker of a namespace at most leads; see :mod:`perdure.model.leader`. Its lead ends with
    its row, so that the rescue of a dead leader makes its lead vacant, too.

Retention
    What is kept ends: see :mod:`perdure.model.retention`. A run that was removed is as if it had
    never been; its id, and an event's, may be given again. Nothing removes a run that lives.

Changes
    Every transition that gives a run another status, or records how a step stands, notes that in
    the change feed, in the same transaction; :mod:`perdure.model.changes` says what holds for it.
    A run of which a transition says several things (it suspends, and is woken in the same breath)
    has a change for each, in order. A step that is reopened because its run is tried again, and
    what a fork or another generation keeps of the record, have no change of their own.

Wake-ups
    After a commit that may interest another process (a run became claimable or terminal, a
    control word was set, the lead became vacant, a run wrote to a stream or said how far it is) the
    store gives a hint to whoever listens. Losing one is harmless: a poll stands behind it.

Threads and loops
    A store object belongs to the event loop it was opened in. :meth:`Store.side` gives a second
    one, with a connection of its own, for the loop of another thread (the heartbeat's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from perdure.model.changes import ChangePage, SubscriberRecord
from perdure.model.events import EventQuery, EventRecord, ListenerRecord
from perdure.model.leader import LeaderRecord
from perdure.model.queues import QueueRecord
from perdure.model.records import Count, Ending, History, Micros, RunQuery, RunRecord, WorkerRecord
from perdure.model.retention import Prune, Pruned
from perdure.model.schedules import Fire, ScheduleRecord
from perdure.model.streams import StreamPage
from perdure.model.transitions import Outcome, Transition
from perdure.model.versions import Pinned


class Capabilities(msgspec.Struct, frozen=True):
    """What a store can do and promises; nobody asks which store it is.

    Args:
        name: for messages: ``memory``, ``sqlite``.
        durability: what an acknowledged write survives: ``process`` (nothing but exceptions),
            ``kill`` (kill -9 of every process) or ``power`` (loss of power too).
        shared: several processes may use it at once.
        knows_departed: :meth:`Store.departed` can name dead workers before their lease is over.
    """

    name: str
    durability: str
    shared: bool
    knows_departed: bool


class Store(Protocol):
    """The journal. See the module's text for what holds for every method."""

    @property
    def capabilities(self) -> Capabilities:
        """What this store can do."""
        ...

    async def open(self) -> None:
        """Connect, create or verify the schema. Opening twice is harmless.

        Raises:
            StoreCorrupt: the data is damaged; it is left as it is.
            SchemaTooNew: a newer version of Perdure wrote it.
            StoreReadOnly, StoreBusy, StoreFull: it cannot be used now.
        """
        ...

    async def plan(self) -> list[str]:
        """Return what :meth:`open` would create or change, a sentence each; do none of it.

        Empty where the store is ready to be opened as it is. It may be asked of a store that is
        not open.

        Raises:
            StoreCorrupt, SchemaTooNew, StoreReadOnly, StoreBusy: as :meth:`open`.
        """
        ...

    async def damage(self) -> list[str]:
        """Return what the store's own check of its data finds, a sentence each; empty for sound.

        It may read everything there is. What the runs in it should be like is not its business:
        see :mod:`perdure._runtime.doctor`.
        """
        ...

    async def close(self) -> None:
        """Release connections and files. Closing twice, or before opening, is harmless."""
        ...

    def side(self) -> Store:
        """Return an unopened second store on the same data, for another thread's loop."""
        ...

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Apply transitions; see Batches above.

        Args:
            batch: at least one; at most one ``Claim``. Its runs' payloads are already validated.

        Returns:
            One outcome a transition, in the order given.

        Raises:
            NotApplied, OutcomeUnknown, StoreCorrupt, StoreClosed: for the whole batch.
        """
        ...

    def apply_at_once(self, batch: Sequence[Transition]) -> list[Outcome] | None:
        """Apply a small batch before this returns, where that neither waits nor takes long.

        It spares a lone writer the event loop's turns. A store that must ask a server returns None
        always; so may any other.

        Args:
            batch: as for :meth:`apply`.

        Returns:
            The outcomes; None where the batch must go through :meth:`apply`: then nothing of it
            was applied.

        Raises:
            As :meth:`apply`.
        """
        ...

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the run, or None where this namespace has none of that id."""
        ...

    async def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        """Return how those of the named runs ended that are terminal, in one round trip."""
        ...

    async def history(self, run_id: str) -> History | None:
        """Return everything kept of a run as of one instant; checkpoints as first recorded."""
        ...

    async def list_runs(self, query: RunQuery) -> list[RunRecord]:
        """Return the runs that match, newest first, as of one instant.

        Newest is by ``seq``, the order of creation, which nothing changes later: pages by
        ``before`` show each run that was there at the first page once, whatever is written
        between them; runs created since are on none of them. A text that no run can hold (a lone
        surrogate) matches none. A store may look at every run older than ``before`` to fill a
        page, except for ``id_prefix``.
        """
        ...

    async def count_runs(self, query: RunQuery) -> int:
        """Return how many runs match, as of one instant; ``limit`` and ``before`` do not count.

        A store may look at every run for it.
        """
        ...

    async def counts(self, *, by_definition: bool = False, by_queue: bool = False) -> list[Count]:
        """Return how many runs there are of each status, as of one instant.

        There is no count of 0. They come by definition, then queue (both in the order of their
        code points), then in the order of :class:`~perdure.model.records.Status`. A store keeps
        them: however many runs there are, it takes the same time.

        Args:
            by_definition: count each definition apart.
            by_queue: count each queue apart.
        """
        ...

    async def pins(self) -> list[Pinned]:
        """Return how many runs that have not ended are pinned to which version, as of one instant.

        They come by definition, then version, in the order of their code points. A store reads no
        more for it than the runs that it counts.
        """
        ...

    async def events(self, query: EventQuery) -> list[EventRecord]:
        """Return the events that match, newest first, as of one instant."""
        ...

    async def listeners(self) -> list[ListenerRecord]:
        """Return the registered listeners by type, then definition, also those not announced."""
        ...

    async def schedules(self, *, due_by: Micros | None = None) -> list[ScheduleRecord]:
        """Return the schedules, in the order of their keys.

        Args:
            due_by: only those that are not paused and whose next instant is not after this one.
        """
        ...

    async def fires(self, key: str, limit: int = 100) -> list[Fire]:
        """Return what became of the instants of a schedule, newest first; at most so many."""
        ...

    async def prunable(self, asked: Prune) -> Pruned:
        """Return how much Prune would remove if it had no ``limit``, as of one instant.

        ``more`` is false. A store may read every ended run for it.
        """
        ...

    async def queues(self) -> list[QueueRecord]:
        """Return the queues of which something is kept, in the order of their names."""
        ...

    async def next_start_of_key(self, queue: str, limit_key: str) -> Micros:
        """Return from when on the rate of a key allows a start, as it is kept; 0 for nothing kept.

        Which rate that is stands in the queue's limits.
        """
        ...

    async def stream(
        self, run_id: str, name: str, after: int = 0, limit: int = 100
    ) -> StreamPage | None:
        """Return entries of a stream of a run, oldest first, as of one instant.

        A stream to which nothing was written has none. See :mod:`perdure.model.streams`.

        Args:
            run_id: of the run.
            name: of the stream.
            after: only entries with higher numbers.
            limit: at most so many (at least 1); fewer, but one, where they are large.

        Returns:
            The page; None where this namespace has no run of that id.
        """
        ...

    async def changes(self, after: str | None = None, limit: int = 100) -> ChangePage:
        """Return the changes that follow on a position, oldest first, as of one instant.

        Args:
            after: the position; None for the oldest change that is kept.
            limit: at most so many (at least 1).

        Raises:
            InvalidValue: ``after`` is no position.
            CursorExpired: what follows on it is gone, or is not what followed on it.
        """
        ...

    async def position(self, back: int = 0) -> str:
        """Return a position on which at least the newest ``back`` changes follow, if there are.

        0 gives the end: what follows on it has not happened yet. A store may give one from further
        back, where that is cheaper than to count.
        """
        ...

    async def subscribers(self) -> list[SubscriberRecord]:
        """Return the subscribers, in the order of their names."""
        ...

    async def workers(self) -> list[WorkerRecord]:
        """Return the registered workers in order of registration."""
        ...

    async def leader(self) -> LeaderRecord:
        """Return who leads."""
        ...

    async def now(self) -> int:
        """Return the store's time in microseconds since the epoch."""
        ...

    def hold(self, worker_id: str) -> Callable[[], None]:
        """Take the sign of life of a worker of this process; return what releases it.

        Where the store has no such means (``knows_departed`` is false) both do nothing. The
        operating system gives the sign up when the process dies, however it dies.
        """
        ...

    def departed(self, worker_ids: Iterable[str]) -> set[str]:
        """Return those of the named workers that are certainly dead; never one that may live."""
        ...

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back in this loop at hints from other processes; return what ends it.

        The callback must be quick; hints may come in bursts, be lost, or come for nothing.
        """
        ...
