"""The committer: the one way from the engine to the store, with group commit.

While one batch is being written, everything that arrives forms the next one, so a busy process
pays for one synchronisation per batch and an idle one for exactly what it asked. Claims ride in
the same batches: before each write the committer asks its claimants whether they have room.

Where one flow of control alone writes, and waits for each of its writes, there is no group to
form: then a write is made at once, on a store that can, and spares two turns of the event loop.

Nothing here knows what a transition means. Failures of the store are of three kinds and are met
here and nowhere else: a batch that was certainly not applied is tried again (for a worker's own
writes as long as it takes, for a caller's until its patience ends), an unknown one is applied
again as it is, and a batch that the store cannot take is halved until the culprit is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, Protocol, cast, overload

from perdure.clock import Clock
from perdure.errors import (
    AppNotReady,
    NotApplied,
    OutcomeUnknown,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
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
from perdure.model.leader import Leading, LeaveLead, NotLeading, TakeLead
from perdure.model.progress import SetProgress
from perdure.model.queues import PauseQueue, PutQueue, QueueKept, ResumeQueue
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
    Scheduled,
    Unscheduled,
)
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    Beaten,
    CancelRun,
    Claim,
    Claimed,
    Conflict,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Fenced,
    ForkRun,
    GiveBack,
    Missing,
    Outcome,
    PauseRun,
    Refused,
    RegisterWorker,
    Rescued,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    RetryRun,
    SaveCheckpoint,
    Saved,
    Settle,
    Settled,
    Transition,
)
from perdure.model.versions import PinRun
from perdure.store import Store
from perdure.telemetry import Log

log = Log("perdure.committer")

MAX_BATCH = 500
"""Transitions in one batch: beyond this the share of the synchronisation is below 1 us each."""

RETRY_DELAYS = (0.01, 0.05, 0.2, 0.5, 1.0)
"""Seconds between tries of a batch that was not applied; the last one repeats."""

LONE_AFTER = 8
"""Batches of one in a row, all by the same task, after which it is served at once."""

MOST_AT_ONCE = 4
"""Writes at once in one turn of the event loop: others on it are held up by half a millisecond."""

UNKNOWN_TRIES = 5
"""How often an unknown batch is applied again before a caller is told that it is unknown."""


class Claimant(Protocol):
    """A worker that takes what the store has to give."""

    def next_claim(self, batch: Sequence[Transition]) -> Claim | None:
        """Return a claim to ride in the batch now forming, or None for no room or no reason.

        Args:
            batch: the transitions that will take effect before the claim does.
        """
        ...

    def claim_answered(self, answer: Claimed) -> None:
        """Take the answer of the last claim. Runs that were given must be started or released."""
        ...

    def claim_failed(self) -> None:
        """The last claim was not answered; claim again later."""
        ...


class _Entry:
    __slots__ = ("future", "maybe_applied", "patient", "transition")

    def __init__(
        self, transition: Transition, future: asyncio.Future[Outcome], *, patient: bool
    ) -> None:
        self.transition = transition
        self.future = future
        self.patient = patient
        self.maybe_applied = False


class Committer:
    """Group commit for one store on one event loop.

    ``troubled`` is called where a failure of the store is logged, with how many in a row it was,
    ``committed`` after each batch.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._pending: list[_Entry] = []
        self._claimants: list[Claimant] = []
        self._claim_wanted = False
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._ready_claim: tuple[Claimant, Claim] | None = None
        self._lone = 0
        self._at_once = 0
        self._lone_writer = 0
        self._failures = 0
        self.troubled: Callable[[StoreError, int], None] | None = None
        self.committed: Callable[[], None] | None = None
        self.batches = 0
        self.transitions = 0

    def start(self) -> None:
        """Begin to write. Call it on the loop that owns the store."""
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._closing = False
        self._task = asyncio.Task(self._write_batches(), loop=self._loop, name="perdure-committer")

    async def close(self) -> None:
        """Write what is pending, then stop. Closing twice is harmless."""
        self._closing = True
        self.kick()
        if self._task is not None:
            await self._task
            self._task = None

    @overload
    def submit(
        self, transition: CreateRun, *, patient: bool = ...
    ) -> asyncio.Future[Created | Exists | Fenced]: ...
    @overload
    def submit(
        self, transition: SaveCheckpoint, *, patient: bool = ...
    ) -> asyncio.Future[Saved | Fenced | Conflict]: ...
    @overload
    def submit(
        self, transition: WriteStream | SetProgress, *, patient: bool = ...
    ) -> asyncio.Future[Saved | Fenced]: ...
    @overload
    def submit(
        self, transition: Settle, *, patient: bool = ...
    ) -> asyncio.Future[Settled | Fenced]: ...
    @overload
    def submit(
        self,
        transition: CancelRun | PauseRun | ResumeRun | RetryRun | RestartRun | PinRun,
        *,
        patient: bool = ...,
    ) -> asyncio.Future[Controlled | Refused | Missing]: ...
    @overload
    def submit(
        self, transition: ForkRun, *, patient: bool = ...
    ) -> asyncio.Future[Created | Exists | Fenced | Refused | Missing]: ...
    @overload
    def submit(
        self, transition: RegisterWorker, *, patient: bool = ...
    ) -> asyncio.Future[Beaten]: ...
    @overload
    def submit(
        self, transition: RetireWorker | RescueWorker | GiveBack, *, patient: bool = ...
    ) -> asyncio.Future[Rescued]: ...
    @overload
    def submit(
        self,
        transition: PauseSchedule | ResumeSchedule | RemoveSchedule,
        *,
        patient: bool = ...,
    ) -> asyncio.Future[Scheduled | Unscheduled]: ...
    @overload
    def submit(
        self, transition: PutSchedule, *, patient: bool = ...
    ) -> asyncio.Future[Scheduled | Overdue]: ...
    @overload
    def submit(
        self, transition: FireSchedule, *, patient: bool = ...
    ) -> asyncio.Future[Fired | Passed | Unscheduled | NotLeading]: ...
    @overload
    def submit(
        self, transition: PutQueue | PauseQueue | ResumeQueue, *, patient: bool = ...
    ) -> asyncio.Future[QueueKept]: ...
    @overload
    def submit(
        self, transition: PutRetentions, *, patient: bool = ...
    ) -> asyncio.Future[RetentionsKept]: ...
    @overload
    def submit(
        self, transition: Prune, *, patient: bool = ...
    ) -> asyncio.Future[Pruned | NotLeading]: ...
    @overload
    def submit(
        self, transition: TakeLead | LeaveLead, *, patient: bool = ...
    ) -> asyncio.Future[Leading]: ...
    @overload
    def submit(
        self, transition: MoveSubscriber | RemoveSubscriber, *, patient: bool = ...
    ) -> asyncio.Future[Subscribed]: ...
    @overload
    def submit(
        self, transition: Listen | Unlisten, *, patient: bool = ...
    ) -> asyncio.Future[Listening]: ...
    @overload
    def submit(
        self, transition: Publish | SendEvent, *, patient: bool = ...
    ) -> asyncio.Future[Published | Exists | Refused | Missing | Fenced]: ...
    @overload
    def submit(
        self, transition: TakeEvent, *, patient: bool = ...
    ) -> asyncio.Future[Taken | TimedOut | Awaiting | Fenced | Conflict]: ...
    @overload
    def submit(
        self, transition: GiveUpEvent, *, patient: bool = ...
    ) -> asyncio.Future[Saved | Fenced]: ...
    def submit(self, transition: Transition, *, patient: bool = False) -> asyncio.Future[Any]:
        """Put a transition into the next batch.

        Args:
            transition: what to write; its payloads are already validated.
            patient: keep trying while the store cannot take it (a worker's own writes). A caller's
                write is answered with the store's error instead.

        Returns:
            A future of the outcome; it fails with a StoreError.

        Raises:
            AppNotReady: the app is not connected.
        """
        if self._task is None:
            raise AppNotReady("the app is not connected; use `async with app:`")
        future: asyncio.Future[Outcome] = self._loop.create_future()
        entry = _Entry(transition, future, patient=patient)
        # Where a batch is forming or being written already, it joins that, and asks no more.
        if self._wake is None or not (self._is_lone() and self._write_at_once(entry)):
            self._pending.append(entry)
            self._wake_up()
        return future

    def kick(self) -> None:
        """Form a batch now, though nothing is pending: a claimant has room."""
        self._claim_wanted = True
        self._wake_up()

    def _wake_up(self) -> None:
        wake = self._wake
        if wake is not None:
            self._wake = None
            wake.set_result(None)

    def add_claimant(self, claimant: Claimant) -> None:
        """Ask this worker for a claim whenever a batch is formed."""
        self._claimants.append(claimant)

    def remove_claimant(self, claimant: Claimant) -> None:
        """Stop asking it."""
        self._claimants.remove(claimant)

    async def _write_batches(self) -> None:
        while True:
            if not self._pending and not self._claim_wanted:
                if self._closing:
                    return
                self._wake = self._loop.create_future()
                await self._wake
            self._claim_wanted = False
            entries, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            batch = [entry.transition for entry in entries]
            claimant, claim = self._next_claim(batch)
            if claim is not None:
                batch.append(claim)
            if batch:
                await self._write(entries, batch, claimant)

    # --- a lone writer ---------------------------------------------------------------------------

    def _is_lone(self) -> bool:
        """Tell whether the task that is writing now is the only one that has of late."""
        writer = id(asyncio.current_task())  # not the task, which would be kept alive
        if writer != self._lone_writer:
            self._lone_writer = writer
            self._lone = 0
        return self._lone >= LONE_AFTER and self._at_once < MOST_AT_ONCE

    def _write_at_once(self, entry: _Entry) -> bool:
        """Write one transition before anything else happens; tell whether it was done."""
        if not self._at_once:
            self._loop.call_soon(self._turned)
        self._at_once += 1
        batch = [entry.transition]
        claimant, claim = self._next_claim(batch)
        if claim is not None:
            batch.append(claim)
        wake, self._wake = self._wake, None  # what this brings about is no lone write
        outcomes: list[Outcome] | None = None
        try:
            outcomes = self._store.apply_at_once(batch)
            if outcomes is not None:
                # Not in the context of whoever wrote: what a claim starts is nothing of theirs.
                self._context.run(self._answer, [entry], batch, outcomes, claimant)
        except Exception as error:  # noqa: BLE001 -- met where the same batch is written again
            entry.maybe_applied = not isinstance(error, NotApplied)
        finally:
            self._wake = wake
        if outcomes is None:
            self._lone = 0
            if claimant is not None and claim is not None:
                self._ready_claim = (claimant, claim)
        elif self._pending or self._claim_wanted:
            self._wake_up()
        return outcomes is not None

    def _turned(self) -> None:
        self._at_once = 0

    # --- batches ---------------------------------------------------------------------------------

    def _next_claim(self, batch: list[Transition]) -> tuple[Claimant | None, Claim | None]:
        ready, self._ready_claim = self._ready_claim, None
        if ready is not None:
            return ready
        for index, claimant in enumerate(self._claimants):
            claim = claimant.next_claim(batch)
            if claim is not None:
                self._claimants.append(self._claimants.pop(index))
                return claimant, claim
        return None, None

    async def _write(
        self, entries: list[_Entry], batch: list[Transition], claimant: Claimant | None
    ) -> None:
        try:
            outcomes = await self._apply(batch)
        except StoreError as error:
            if claimant is not None:
                claimant.claim_failed()
            await self._write_failed(entries, error)
            return
        self._failures = 0
        self._lone = self._lone + 1 if len(entries) == 1 else 0
        self._answer(entries, batch, outcomes, claimant)

    def _answer(
        self,
        entries: list[_Entry],
        batch: list[Transition],
        outcomes: list[Outcome],
        claimant: Claimant | None,
    ) -> None:
        self.batches += 1
        self.transitions += len(batch)
        if self.committed is not None:
            self.committed()
        for entry, outcome in zip(entries, outcomes, strict=False):
            future = entry.future
            if not future.done():
                future.set_result(outcome)
        if claimant is not None:
            try:
                claimant.claim_answered(cast("Claimed", outcomes[-1]))
            except Exception:
                # Whoever claims answers for its own errors; the writes of all others go on.
                log.exception("worker could not take its claim's answer")

    async def _apply(self, batch: list[Transition]) -> list[Outcome]:
        """Apply a batch; a store that breaks its promise about errors is taken for unknown."""
        try:
            return await self._store.apply(batch)
        except StoreError:
            raise
        except Exception as error:
            log.exception("store failed in a way that no store may")
            raise OutcomeUnknown(f"the store failed unexpectedly: {error!r}") from error

    async def _write_failed(self, entries: list[_Entry], error: StoreError) -> None:
        self._failures += 1
        if isinstance(error, OutcomeUnknown):
            for entry in entries:
                entry.maybe_applied = True
            await self._again(entries, error, impatient=self._failures >= UNKNOWN_TRIES)
        elif refuses_the_value(error):
            await self._isolate(entries, error)
        elif isinstance(error, NotApplied):
            await self._again(entries, error, impatient=True)
        else:
            _fail(entries, error)

    async def _again(self, entries: list[_Entry], error: StoreError, *, impatient: bool) -> None:
        """Keep the patient ones for the next batch, in order, after a pause."""
        keep = [entry for entry in entries if entry.patient or not impatient]
        if self._closing and self._failures > len(RETRY_DELAYS):
            keep = []
        kept = set(map(id, keep))
        _fail([entry for entry in entries if id(entry) not in kept], error)
        if keep:
            self._pending[:0] = keep
        if self._failures in (1, 10) or self._failures % 100 == 0:
            log.warning("store did not take a batch", failures=self._failures, error=error)
            if self.troubled is not None:
                self.troubled(error, self._failures)
        if keep or self._claimants:
            await self._clock.sleep(RETRY_DELAYS[min(self._failures, len(RETRY_DELAYS)) - 1])

    async def _isolate(self, entries: list[_Entry], error: StoreError) -> None:
        """Write the halves apart until the one that the store cannot take is alone."""
        if len(entries) <= 1:
            _fail(entries, error)
            return
        middle = len(entries) // 2
        first, second = entries[:middle], entries[middle:]
        await self._write(first, [entry.transition for entry in first], None)
        kept = [entry for entry in first if not entry.future.done()]
        if kept:
            # The first half must wait for the store, so the second waits behind it, in order.
            self._pending[len(kept) : len(kept)] = second
        else:
            await self._write(second, [entry.transition for entry in second], None)


def refuses_the_value(error: BaseException) -> bool:
    """Tell whether the store cannot take what it was given, rather than anything just now."""
    return isinstance(error, NotApplied) and not isinstance(
        error, StoreBusy | StoreFull | StoreReadOnly
    )


def _fail(entries: list[_Entry], error: StoreError) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(_said_of(entry, error))


def _said_of(entry: _Entry, error: StoreError) -> StoreError:
    """Return what the error means for one entry: a refused try says nothing of an earlier one."""
    if not entry.maybe_applied or not isinstance(error, NotApplied):
        return error
    unknown = OutcomeUnknown(f"an earlier try may have been applied; the last one was not: {error}")
    unknown.__cause__ = error
    return unknown
