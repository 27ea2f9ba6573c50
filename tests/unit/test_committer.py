"""The committer: group commit, and the three kinds of failure of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import pytest

from perdure._engine.committer import Committer
from perdure.clock import SystemClock
from perdure.errors import AppNotReady, NotApplied, OutcomeUnknown, StoreCorrupt, StoreFull
from perdure.model.transitions import Claim, Claimed, Created, CreateRun, Outcome, Transition
from perdure.stores.memory import MemoryStore


class Impatient(SystemClock):
    """A clock whose sleeps pass at once."""

    async def sleep(self, seconds: float) -> None:
        """Let others run."""
        await asyncio.sleep(0)


class Faulty(MemoryStore):
    """A real store whose batches can be made to fail, before or after they are applied."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Transition]] = []
        self.before: list[Exception | None] = []
        self.after: list[Exception | None] = []
        self.poison = ""

    async def apply(self, batch: Sequence[Transition]) -> list[Outcome]:
        """Fail as told, else apply."""
        self.batches.append(list(batch))
        if self.before and (error := self.before.pop(0)):
            raise error
        if any(getattr(t, "run_id", None) == self.poison for t in batch):
            raise NotApplied("a value that this store cannot take")
        outcomes = await super().apply(batch)
        if self.after and (error := self.after.pop(0)):
            raise error
        return outcomes


class Bench:
    """A committer on a faulty store."""

    def __init__(self) -> None:
        self.store = Faulty()
        self.committer = Committer(self.store, Impatient())

    async def __aenter__(self) -> Self:
        await self.store.open()
        self.committer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.committer.close()


def create(run_id: str) -> CreateRun:
    """Return a create of that id."""
    return CreateRun(run_id, "job", b"{}", token=hash(run_id) & 0xFFFF)


async def test_what_is_ready_together_is_one_batch():
    """Fifty callers of one moment share a batch, and what arrives meanwhile forms the next."""
    async with Bench() as bench:
        answers = await asyncio.gather(
            *(bench.committer.submit(create(f"r{i}")) for i in range(50))
        )
        assert answers == [Created(f"r{i}") for i in range(50)]
        assert [len(batch) for batch in bench.store.batches] == [50]


async def test_a_poisoned_transition_fails_alone():
    """The batch is halved until the culprit is alone; its neighbours are applied."""
    async with Bench() as bench:
        bench.store.poison = "r3"
        answers: list[Any] = await asyncio.gather(
            *(bench.committer.submit(create(f"r{i}")) for i in range(8)), return_exceptions=True
        )
        assert isinstance(answers.pop(3), NotApplied)
        assert answers == [Created(f"r{i}") for i in range(8) if i != 3]
        assert await bench.store.get("r3") is None


async def test_an_unknown_batch_is_applied_again():
    """The answer was lost after the commit: the same batch again tells, and nothing is doubled."""
    async with Bench() as bench:
        bench.store.after = [OutcomeUnknown("the answer was lost")]
        assert await bench.committer.submit(create("r1")) == Created("r1")
        assert bench.store.batches[0] == bench.store.batches[1]


async def test_a_caller_is_told_that_it_stays_unknown():
    """After a few tries a caller's write fails as unknown."""
    async with Bench() as bench:
        bench.store.before = [OutcomeUnknown("lost") for _ in range(5)]
        with pytest.raises(OutcomeUnknown):
            await bench.committer.submit(create("r1"))


async def test_a_refusal_after_an_unknown_try_stays_unknown():
    """Who is told that nothing was applied may ask anew: so it must be true of every try."""
    async with Bench() as bench:
        bench.store.after = [OutcomeUnknown("the answer was lost")]
        bench.store.before = [None, StoreFull("no space")]
        with pytest.raises(OutcomeUnknown, match="earlier try"):
            await bench.committer.submit(create("r1"))
        assert await bench.store.get("r1") is not None


async def test_a_full_store_refuses_callers_and_keeps_the_patient():
    """A caller hears at once that the store is full; a worker's write waits for space."""
    async with Bench() as bench:
        bench.store.before = [StoreFull("no space") for _ in range(20)]
        caller = bench.committer.submit(create("caller"))
        worker = bench.committer.submit(create("worker"), patient=True)
        with pytest.raises(StoreFull):
            await caller
        assert await worker == Created("worker")
        assert await bench.store.get("caller") is None


async def test_the_order_of_one_run_survives_a_failure():
    """What was submitted first is still written first after the batch was tried again."""
    async with Bench() as bench:
        bench.store.before = [StoreFull("no space")]
        first = bench.committer.submit(create("r1"), patient=True)
        await asyncio.sleep(0)
        second = bench.committer.submit(create("r2"), patient=True)
        await asyncio.gather(first, second)
        written = [t.run_id for t in bench.store.batches[-1] if isinstance(t, CreateRun)]
        assert written in (["r1", "r2"], ["r2"])


async def test_a_damaged_store_fails_everybody():
    """Nothing is tried again on damaged data, however patient."""
    async with Bench() as bench:
        bench.store.before = [StoreCorrupt("damaged")]
        with pytest.raises(StoreCorrupt):
            await bench.committer.submit(create("r1"), patient=True)


async def test_submitting_without_connection_is_a_usage_error():
    """Before start and after close there is nobody to write."""
    committer = Committer(MemoryStore(), SystemClock())
    with pytest.raises(AppNotReady, match="async with app"):
        committer.submit(create("r1"))


class Claimant:
    """Claims once, and remembers what it heard."""

    def __init__(self) -> None:
        self.wanted = True
        self.seen: list[Sequence[Transition]] = []
        self.answers: list[Claimed] = []
        self.failures = 0

    def next_claim(self, batch: Sequence[Transition]) -> Claim | None:
        """Return a claim while it wants one."""
        self.seen.append(list(batch))
        if not self.wanted:
            return None
        self.wanted = False
        return Claim("nobody", 7, ("job",), ("default",), 10)

    def claim_answered(self, answer: Claimed) -> None:
        """Remember it."""
        self.answers.append(answer)

    def claim_failed(self) -> None:
        """Count it, and want one again."""
        self.failures += 1
        self.wanted = True


async def test_a_claim_rides_in_the_batch_and_takes_effect_last():
    """A claimant is shown the batch that forms, and its claim is the batch's last transition."""
    async with Bench() as bench:
        claimant = Claimant()
        bench.committer.add_claimant(claimant)
        await bench.committer.submit(create("r1"))
        assert claimant.seen[0] == [create("r1")]
        assert [type(t) for t in bench.store.batches[0]] == [CreateRun, Claim]
        assert [answer.known for answer in claimant.answers] == [False]


async def test_a_failed_claim_is_reported_and_the_rest_goes_on():
    """The claimant hears that its claim failed; the callers' writes are tried again without it."""
    async with Bench() as bench:
        claimant = Claimant()
        bench.committer.add_claimant(claimant)
        bench.store.before = [OutcomeUnknown("lost")]
        assert await bench.committer.submit(create("r1")) == Created("r1")
        assert claimant.failures == 1


async def test_a_kick_writes_a_claim_alone():
    """A claimant with room need not wait for somebody's write."""
    async with Bench() as bench:
        claimant = Claimant()
        bench.committer.add_claimant(claimant)
        bench.committer.kick()
        for _ in range(20):
            await asyncio.sleep(0)
        assert [[type(t) for t in batch] for batch in bench.store.batches] == [[Claim]]


async def test_closing_writes_what_is_pending():
    """What was submitted before the close is written by it."""
    async with Bench() as bench:
        future = bench.committer.submit(create("r1"))
        await bench.committer.close()
        assert future.result() == Created("r1")
