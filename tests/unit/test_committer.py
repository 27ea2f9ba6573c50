"""The committer: group commit, and the three kinds of failure of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Self

import pytest

from perdure._engine.committer import LONE_AFTER, MOST_AT_ONCE, Committer
from perdure.clock import SystemClock
from perdure.errors import AppNotReady, NotApplied, OutcomeUnknown, StoreCorrupt, StoreFull
from perdure.model.transitions import Claim, Claimed, Created, CreateRun, Outcome, Transition
from perdure.stores.memory import MemoryStore, journal


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


# --- a lone writer -------------------------------------------------------------------------------


class Quick(Faulty):
    """A store that can apply at once, and counts how often it did; it can be made to refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once: list[list[Transition]] = []
        self.errors: list[Exception] = []
        self.is_slow = False

    def apply_at_once(self, batch: Sequence[Transition]) -> list[Outcome] | None:
        """Apply, unless it is slow or told to fail."""
        if self.is_slow:
            return None
        if self.errors:
            raise self.errors.pop(0)
        self.at_once.append(list(batch))
        return journal.apply(self.data.spaces[self.namespace], batch, self.data.clock.now())


class LoneBench(Bench):
    """A committer on a quick store, whose last batches were of one transition each."""

    def __init__(self) -> None:
        self.store = self.quick = Quick()
        self.committer = Committer(self.store, Impatient())

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for number in range(LONE_AFTER + 1):  # the first finds the committer still starting
            await self.committer.submit(create(f"before{number}"))
        assert not self.quick.at_once
        await asyncio.sleep(0)
        return self


async def test_a_lone_writer_is_served_at_once():
    """Its write is done when submit returns; after a few of them the loop has its turn."""
    async with LoneBench() as bench:
        writes = [bench.committer.submit(create(f"r{n}")) for n in range(MOST_AT_ONCE + 1)]
        assert [write.done() for write in writes] == [True] * MOST_AT_ONCE + [False]
        assert await asyncio.gather(*writes) == [Created(f"r{n}") for n in range(MOST_AT_ONCE + 1)]
        assert bench.committer.submit(create("next")).done()


async def test_two_writers_share_batches():
    """Neither is alone, however regularly they take turns, so that nobody is served at once."""
    async with LoneBench() as bench:

        async def write(name: str) -> None:
            for number in range(3 * LONE_AFTER):
                await bench.committer.submit(create(f"{name}{number}"))

        await asyncio.gather(write("a"), write("b"))
        assert not bench.quick.at_once
        sizes = [len(batch) for batch in bench.store.batches[LONE_AFTER + 1 :]]
        assert sizes == [2] * 3 * LONE_AFTER


async def test_a_lone_write_that_is_interrupted_leaves_the_committer_alive():
    """Whatever ends the process's loop in the middle of a write, closing still ends."""
    async with LoneBench() as bench:
        bench.quick.errors = [KeyboardInterrupt()]  # type: ignore[list-item]
        with pytest.raises(KeyboardInterrupt):
            bench.committer.submit(create("r1"))
        await asyncio.wait_for(bench.committer.close(), 5)


async def test_a_claim_rides_with_a_lone_write():
    """It is answered in the committer's context, not in that of whoever wrote."""
    mine: ContextVar[str] = ContextVar("mine", default="")

    class Curious(Claimant):
        def claim_answered(self, answer: Claimed) -> None:
            super().claim_answered(answer)
            heard_in.append(mine.get())

    heard_in: list[str] = []
    async with LoneBench() as bench:
        bench.committer.add_claimant(Curious())
        mine.set("the writer's")
        assert bench.committer.submit(create("r1")).done()
        assert [type(t) for t in bench.quick.at_once[0]] == [CreateRun, Claim]
    assert heard_in == [""]


async def test_a_lone_write_that_takes_longer_keeps_its_claim():
    """The batch goes the common way, with the claim that was asked for, and both are answered."""
    async with LoneBench() as bench:
        claimant = Claimant()
        bench.committer.add_claimant(claimant)
        bench.quick.is_slow = True
        assert await bench.committer.submit(create("r1")) == Created("r1")
        assert [type(t) for t in bench.store.batches[-1]] == [CreateRun, Claim]
        assert (len(claimant.answers), claimant.failures) == (1, 0)


async def test_a_lone_write_that_failed_is_written_again():
    """Failures are met in one place: the same batch is applied again by the common way."""
    async with LoneBench() as bench:
        bench.quick.errors = [OutcomeUnknown("lost"), RuntimeError("no store may")]
        for name in ("r1", "r2"):
            assert await bench.committer.submit(create(name)) == Created(name)
            bench.committer._lone = LONE_AFTER
            await asyncio.sleep(0)
        assert not bench.quick.at_once


async def test_a_lone_write_that_may_have_been_applied_is_not_said_to_be_refused():
    """Unknown at once, refused the second time: the caller hears that it is unknown."""
    async with LoneBench() as bench:
        bench.quick.errors = [OutcomeUnknown("lost")]
        bench.store.before = [StoreFull("no space")]
        with pytest.raises(OutcomeUnknown, match="no space"):
            await bench.committer.submit(create("r1"))
