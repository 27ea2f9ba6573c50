"""Whole batches on SQLite against the memory store, the readable specification.

The SQLite store reorders what it writes, guesses that creates and checkpoints are new, and
remembers runs between batches; none of that may show. Batches are drawn over few runs, keys and
workers, so that most transitions meet others of the same batch, and go to one of two stores on the
file in turn. The other suites send single transitions or batches of one kind.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from perdure.model.keys import Debounce, Replace, Throttle
from perdure.model.progress import SetProgress
from perdure.model.records import (
    Grant,
    History,
    ParentClose,
    RunQuery,
    RunRecord,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
    Wait,
    WaitKind,
)
from perdure.model.streams import WriteStream
from perdure.model.transitions import (
    CancelledByWorker,
    CancelRun,
    Claim,
    Claimed,
    Completed,
    Continued,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Failed,
    ForkRun,
    GiveBack,
    Heartbeat,
    Mismatched,
    Outcome,
    PauseRun,
    Refused,
    RegisterWorker,
    Released,
    RescueWorker,
    RestartRun,
    ResumeRun,
    RetireWorker,
    Retrying,
    RetryRun,
    SaveCheckpoint,
    Settle,
    Settled,
    Suspended,
    Transition,
    Undone,
    Verdict,
)
from perdure.model.versions import PinRun
from perdure.stores.memory import MemoryData, MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.contract.desk import Desk, ManualClock, child, fresh_token, register

T = TypeVar("T")

SEEDS = range(25)
STEPS = 60
RUNS = [f"r{number}" for number in range(6)] + [
    f"0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f6a7{number}" for number in range(3)
]
KEYS = [
    StepKey(b"", path, fingerprint, k)
    for path in "ab"
    for fingerprint in (b"", b"f" * 16)
    for k in (0, 1)
]
WORKERS = ["w", "v"]
VERSIONS = ["1", "2"]
STREAMS = ["lines", "other"]
SHORT_AND_LONG = [b"1", b"2", b"x" * 1_100]


class Chance:
    """Draws transitions; grants and claims that were given come back in later ones."""

    def __init__(self, seed: int, clock: ManualClock) -> None:
        self.random = random.Random(seed)
        self.clock = clock
        self.grants: list[Grant] = []
        self.claims: list[Claim] = []
        self.batches: list[list[Transition]] = []

    def one(self, *among: T) -> T:
        return self.random.choice(among)

    def is_so(self, probability: float) -> bool:
        return self.random.random() < probability

    def batch(self) -> list[Transition]:
        """Draw a batch, now and then one that was applied before."""
        if self.batches and self.is_so(0.1):
            return self.one(*self.batches[-3:])
        kinds: dict[Callable[[], Transition], int] = {
            self.create: 22,
            self.save: 28,
            self.write: 10,
            self.say: 4,
            self.settle: 25,
            self.cancel: 7,
            self.retry: 6,
            self.pause: 2,
            self.resume: 3,
            self.restart: 4,
            self.pin: 4,
            self.fork: 3,
            self.register: 4,
            self.about_worker: 5,
        }
        drawn = self.random.choices(list(kinds), list(kinds.values()), k=self.one(1, 1, 2, 5, 12))
        batch = [draw() for draw in drawn]
        if self.is_so(0.6):
            batch.insert(self.random.randrange(len(batch) + 1), self.claim())
        self.batches.append(batch)
        return batch

    def grant(self) -> Grant:
        if self.grants and self.is_so(0.95):
            return self.one(*self.grants[-12:])
        return Grant(self.one(*RUNS), self.one(0, 1, 2), self.one(0, 1, 2))

    def create(self) -> CreateRun:
        by = self.grant() if self.is_so(0.3) else None
        parent = by if self.is_so(0.6) else None
        return CreateRun(
            self.one(*RUNS),
            self.one("d", "e"),
            self.one(*SHORT_AND_LONG),
            self.random.randrange(4),
            version=self.one("", "v"),
            queue=self.one("default", "q"),
            priority=self.one(0, 1, 2),
            unique_key=self.one(None, None, None, "k1", "k2"),
            tags=self.one((), ("t",)),
            delay=self.one(0, 0, 0, 7),
            parent_id=self.one(None, RUNS[0]) if parent is None else parent.run_id,
            by=by,
            on_parent_close=self.one(*ParentClose) if parent else ParentClose.ABANDON,
            key_rule=self.one(
                None, None, None, Replace(), Throttle(9), Debounce(), Debounce(max_wait=9)
            ),
            pin=self.one(*[None] * 6, *VERSIONS),
        )

    def save(self) -> SaveCheckpoint:
        outcome = self.one(*StepOutcome, StepOutcome.OK, StepOutcome.OK, StepOutcome.PENDING)
        return SaveCheckpoint(
            self.grant(),
            self.one(*KEYS),
            0,
            StepKind.STEP,
            outcome,
            b"v",
            tries=self.one(1, 2, 3),
            delay=5 if outcome is StepOutcome.PENDING else None,
            ended_at=self.random.randrange(50),
            site=self.one("", "s:1"),
        )

    def write(self) -> WriteStream:
        scope, path = self.one((b"", ""), (b"inside a 4567890", "a/"))
        value, at = self.one(b"1", b"", b"x" * 1_100, None), self.random.randrange(50)
        k = self.random.randrange(5)
        return WriteStream(self.grant(), self.one(*STREAMS), scope, path, k, value, at)

    def say(self) -> SetProgress:
        return SetProgress(self.grant(), self.one(b"1", b"2"))

    def settle(self) -> Settle:
        return Settle(self.grant(), self.verdict(), cleans=self.is_so(0.3))

    def verdict(self) -> Verdict:
        culprits = tuple(self.random.sample(KEYS, self.one(0, 1, 2)))
        waits = tuple(self.wait() for _ in range(self.one(1, 2, 3)))
        payload = self.one(*SHORT_AND_LONG)
        return self.one(
            Completed(payload),
            Completed(payload),
            Failed(payload, culprits=culprits, compensates=self.is_so(0.4)),
            Undone(*self.one((None, ()), (payload, (KEYS[0],)))),
            Retrying(payload, self.random.randrange(10), culprits),
            Suspended(waits, self.one(0, 0, 5)),
            Suspended(waits),
            Continued(payload),
            Released(),
            Mismatched(payload, self.one("1", "2")),
            CancelledByWorker(),
        )

    def wait(self) -> Wait:
        due_at = self.one(None, None, self.clock.now() + self.random.randrange(-5, 20))
        if self.is_so(0.6):
            return Wait(WaitKind.CHILD, self.one(*RUNS), due_at, self.one(0, 1))
        return Wait(WaitKind.RETRY, "a", self.clock.now() + self.random.randrange(-5, 20))

    def cancel(self) -> CancelRun:
        request = f"cancel {self.random.randrange(90)}"
        return CancelRun(self.one(*RUNS), request, compensate=self.is_so(0.3))

    def retry(self) -> RetryRun:
        return RetryRun(self.one(*RUNS), f"retry {self.random.randrange(90)}")

    def pause(self) -> PauseRun:
        return PauseRun(self.one(*RUNS), f"pause {self.random.randrange(90)}")

    def resume(self) -> ResumeRun:
        return ResumeRun(self.one(*RUNS), f"resume {self.random.randrange(90)}")

    def restart(self) -> RestartRun:
        step = self.one(None, *KEYS)
        pin = self.one(None, None, *VERSIONS)
        return RestartRun(self.one(*RUNS), f"restart {self.random.randrange(90)}", step, pin)

    def pin(self) -> PinRun:
        request = f"pin {self.random.randrange(90)}"
        return PinRun(self.one(*RUNS), request, self.one(None, *VERSIONS))

    def fork(self) -> ForkRun:
        source = self.one(*RUNS)
        create = msgspec.structs.replace(self.create(), caused_by=f"fork:{source}")
        edited = tuple((key, b"edited") for key in self.random.sample(KEYS, self.one(0, 0, 1)))
        return ForkRun(create, source, self.one(0, 0, 1), self.one(None, *KEYS), edited)

    def register(self) -> RegisterWorker:
        definitions = {"d": self.one("1", "2"), "e": "1"}
        cleans = self.one((), ("d",), ("d", "e"))
        queues = ("default", "q")
        earlier = self.one((), (), (("d", "1"),), (("d", "2"), ("e", "2")))
        pinning = self.one((), ("d",), ("d", "e"))
        worker_id = self.one(*WORKERS)
        return RegisterWorker(
            worker_id,
            "host",
            1,
            definitions,
            queues,
            3,
            cleans=cleans,
            earlier=earlier,
            pinning=pinning,
        )

    def about_worker(self) -> Transition:
        worker = self.one(*WORKERS)
        held = tuple((grant.run_id, grant.epoch) for grant in self.grants[-3:])
        return self.one(
            Heartbeat(worker),
            RetireWorker(worker),
            RescueWorker(worker, self.one(None, 0, 1), 3, b"crash"),
            GiveBack(worker, held),
        )

    def claim(self) -> Claim:
        if self.claims and self.is_so(0.15):
            return self.one(*self.claims)
        claim = Claim(
            self.one(*WORKERS),
            1_000 + len(self.claims),
            tuple(self.random.sample("def", self.one(1, 2, 3))),
            self.one(("default",), ("default", "q"), ("q", "none has this name")),
            self.random.randrange(5),
            self.is_so(0.3),
        )
        self.claims.append(claim)
        return claim


def without_touch(run: RunRecord) -> RunRecord:
    """Leave out ``updated_at``: memory moves it with a checkpoint, for SQLite a write too many."""
    return msgspec.structs.replace(run, updated_at=0)


def comparable(outcome: Outcome | History | None) -> object:
    if isinstance(outcome, Claimed):
        runs = tuple(
            msgspec.structs.replace(
                given, run=without_touch(given.run), marks=tuple(sorted(given.marks, key=repr))
            )
            for given in outcome.runs
        )
        return msgspec.structs.replace(outcome, runs=runs)
    if isinstance(outcome, History):
        return msgspec.structs.replace(outcome, run=without_touch(outcome.run))
    return outcome


@asynccontextmanager
async def stores(
    path: Path, clock: ManualClock
) -> AsyncIterator[tuple[MemoryStore, list[SqliteStore]]]:
    memory = MemoryStore(data=MemoryData(clock))
    files = [SqliteStore(path, clock=clock, inline=inline) for inline in (True, False)]
    for store in (memory, *files):
        await store.open()
    yield memory, files
    for store in (memory, *files):
        await store.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_batches_are_answered_as_in_memory(tmp_path: Path, seed: int):
    """Same batches, same answers, same histories, whichever store of the file they went to."""
    clock = ManualClock()
    chance = Chance(seed, clock)
    statuses: set[Status] = set()
    async with stores(tmp_path / "perdure.db", clock) as (memory, files):
        for store in (memory, files[0]):
            await store.apply([register(worker, {"d": "1", "e": "1"}) for worker in WORKERS])
        for _ in range(STEPS):
            clock.advance(chance.random.randrange(6))
            batch = chance.batch()
            expected = await memory.apply(batch)
            found = await chance.one(*files).apply(batch)
            for transition, wanted, got in zip(batch, expected, found, strict=True):
                assert comparable(got) == comparable(wanted), transition
                if isinstance(wanted, Claimed):
                    chance.grants += [
                        Grant(given.run.run_id, given.run.epoch, given.run.grant)
                        for given in wanted.runs
                    ]
            reader = chance.one(*files)
            for run_id in RUNS:
                history = await memory.history(run_id)
                assert comparable(await reader.history(run_id)) == comparable(history), batch
                for stream in STREAMS:
                    page = await memory.stream(run_id, stream)
                    assert await reader.stream(run_id, stream) == page, batch
                if history is not None:
                    statuses.add(history.run.status)
            assert await reader.workers() == await memory.workers()
            assert await reader.endings(RUNS) == await memory.endings(RUNS)
            assert await reader.pins() == await memory.pins()
            query = RunQuery(version=chance.one(*VERSIONS))
            assert [run.run_id for run in await reader.list_runs(query)] == [
                run.run_id for run in await memory.list_runs(query)
            ]
    assert len(statuses) >= 4, "these batches met too little"


# What the batches above seldom meet, each a mistake that the store has made.


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = ManualClock()
    store = SqliteStore(tmp_path / "perdure.db", clock=clock)
    await store.open()
    yield Desk(store, clock)
    await store.close()


async def test_a_retry_takes_its_key_before_a_create_behind_it(desk: Desk):
    """Creates are written in bulk and before changes, but not past this one."""
    await desk.create("r", unique_key="k")
    await desk.cancel("r")
    answers = await desk.apply(
        RetryRun("r", "request"), CreateRun("s", "d", b"1", fresh_token(), unique_key="k")
    )
    assert answers == [Controlled(Status.QUEUED), Exists("r", same=False)]


async def test_a_key_that_is_freed_may_be_taken_behind_it(desk: Desk):
    """In one batch, though creates are written before changes."""
    await desk.create("r", unique_key="k")
    answers = await desk.apply(
        CancelRun("r", "request"),
        CreateRun("s", "d", b"1", fresh_token(), unique_key="k"),
        CreateRun("t", "d", b"1", fresh_token(), unique_key="k"),
    )
    assert answers == [Controlled(Status.CANCELLED), Created("s"), Exists("s", same=True)]


async def test_a_repeated_settle_tells_who_was_woken_before_it(desk: Desk):
    """Waking is done in bulk and behind everything, but not past this one."""
    await desk.worker()
    parent = await desk.start("parent")
    await desk.create("child")
    suspend = Settle(parent, Suspended((child("child"),)))
    assert await desk.do(suspend) == Settled(Status.WAITING)
    answers = await desk.apply(CancelRun("child", "request"), suspend)
    assert answers == [Controlled(Status.CANCELLED), Settled(Status.QUEUED)]


async def test_an_ended_child_that_is_retried_is_waited_for_again(desk: Desk):
    """Its mark is set again: the other child's end does not wake the parent."""
    await desk.worker()
    parent = await desk.start("parent")
    await desk.create("one", "other")
    await desk.suspend(parent, child("one"), child("other"))
    await desk.apply(CancelRun("one", "request"), RetryRun("one", "request again"))
    await desk.cancel("other")
    assert await desk.status("parent") is Status.WAITING
    await desk.cancel("one")
    assert await desk.status("parent") is Status.QUEUED


async def test_a_fork_sees_what_another_store_has_committed(tmp_path: Path):
    """What is remembered of its source from earlier batches may be over."""
    clock = ManualClock()
    async with stores(tmp_path / "perdure.db", clock) as (_, files):
        one, other = (Desk(store, clock) for store in files)
        await one.worker()
        grant = await one.start("r")
        await other.settle(grant)
        create = CreateRun("f", "d", b"1", fresh_token(), caused_by="fork:r")
        answer = await one.do(ForkRun(create, "r", 0, KEYS[0]))
        assert answer == Refused("r", Status.COMPLETED, "the step is not recorded")
