"""Queues: limits that hold at the claim, over all workers, and whose slots nothing can leak."""

from collections import Counter
from random import Random

import pytest
import pytest_asyncio

from perdure.model.queues import (
    Limits,
    PauseQueue,
    PutQueue,
    QueueKept,
    QueueRecord,
    Rate,
    ResumeQueue,
    free_starts,
)
from perdure.model.records import Rank, RunQuery, RunRecord, Status
from perdure.model.transitions import (
    CancelRun,
    Claim,
    Claimed,
    Failed,
    Mismatched,
    PauseRun,
    Released,
    ResumeRun,
    RetireWorker,
    Retrying,
    Settle,
    Suspended,
)
from perdure.testing.contract.desk import (
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    ManualClock,
    fresh_token,
    grant_of,
    ids,
    timer,
)

MINUTE = 60 * SECOND


async def put(desk: Desk, queue: str = "default", **limits: object) -> None:
    outcome = await desk.do(PutQueue(queue, Limits(**limits)))  # type: ignore[arg-type]
    assert isinstance(outcome, QueueKept)


@pytest_asyncio.fixture(autouse=True)
async def two_workers(desk: Desk) -> None:
    await desk.worker("w")
    await desk.worker("v")


# --- what is kept --------------------------------------------------------------------------------


async def test_what_is_kept_of_a_queue_is_listed_by_name(desk: Desk, clock: ManualClock):
    limits = Limits(3, Rate(10, MINUTE, 2), 1, Rate(1, SECOND))
    assert await desk.do(PutQueue("b", limits)) == QueueKept(QueueRecord("b", limits))
    clock.advance(1)
    assert await desk.do(PauseQueue("ä")) == QueueKept(QueueRecord("ä", Limits(), START + 1))
    assert await desk.store.queues() == [
        QueueRecord("b", limits),
        QueueRecord("ä", Limits(), START + 1),
    ]


async def test_every_verb_is_idempotent_and_leaves_the_rest(desk: Desk, clock: ManualClock):
    await put(desk, concurrency=1)
    await desk.do(PauseQueue("default"))
    clock.advance(SECOND)
    paused = QueueKept(QueueRecord("default", Limits(1), START))
    assert await desk.do(PauseQueue("default")) == paused
    assert await desk.do(PutQueue("default", Limits(1))) == paused
    running = QueueKept(QueueRecord("default", Limits(2), None))
    await put(desk, concurrency=2)
    assert await desk.do(ResumeQueue("default")) == running
    assert await desk.do(ResumeQueue("default")) == running


async def test_a_limit_key_is_kept_and_found(desk: Desk):
    await desk.create("a", "b", limit_key="k")
    await desk.create("c", limit_key="K")
    await desk.create("d")
    assert [(await desk.run(each)).limit_key for each in "acd"] == ["k", "K", None]
    found = await desk.store.list_runs(RunQuery(limit_key="k"))
    assert [run.run_id for run in found] == ["b", "a"]


# --- concurrency ---------------------------------------------------------------------------------


async def test_no_more_runs_of_a_queue_work_than_it_has_slots(desk: Desk):
    await put(desk, concurrency=2)
    await desk.create("a", "b", "c", "d")
    await desk.create("other", queue="free")
    first = await desk.claim(1)
    second = await desk.claim(worker_id="v", queues=("default", "free"))
    assert (ids(first), ids(second)) == (["a"], ["b", "other"])
    assert ids(await desk.claim()) == []
    await desk.settle(grant_of(first.runs[0]))
    assert ids(await desk.claim()) == ["c"]


@pytest.mark.parametrize("how", ["wait", "retry", "pause", "cancel", "fail", "rescue", "retire"])
async def test_whatever_takes_a_run_from_its_worker_frees_the_slot(desk: Desk, how: str):
    await put(desk, concurrency=1, key_concurrency=1)
    await desk.create("a", limit_key="k")
    await desk.create("b", limit_key="k")
    await desk.create("c")
    grant = await desk.claim_one("a")
    assert ids(await desk.claim(worker_id="v")) == []
    match how:
        case "wait":
            await desk.suspend(grant, timer(START + MINUTE))
        case "retry":
            await desk.settle(grant, Retrying(b"e", MINUTE))
        case "pause":
            await desk.do(PauseRun("a", "q"))
            await desk.settle(grant, Released())
        case "cancel":
            await desk.cancel("a")
            await desk.settle(grant)
        case "fail":
            await desk.settle(grant, FAIL)
        case "rescue":
            await desk.rescue("w")
            await desk.worker("w")
        case _:
            await desk.do(RetireWorker("w"))
            await desk.worker("w")
    again = ["a"] if how in {"rescue", "retire"} else ["b"]  # it is first in line again
    assert ids(await desk.claim(1)) == again
    assert ids(await desk.claim(1)) == []


async def test_a_limit_that_is_lowered_lets_what_runs_run(desk: Desk):
    await desk.create("a", "b", "c", "d")
    claimed = await desk.claim(3)
    await put(desk, concurrency=2)
    assert ids(await desk.claim()) == []
    await desk.settle(grant_of(claimed.runs[0]))
    assert ids(await desk.claim()) == []
    await desk.settle(grant_of(claimed.runs[1]))
    assert ids(await desk.claim()) == ["d"]


async def test_a_limit_that_is_taken_away_holds_no_more(desk: Desk):
    await put(desk, concurrency=1, key_concurrency=1)
    await desk.create("a", "b", "c", limit_key="k")
    assert ids(await desk.claim()) == ["a"]
    await put(desk)
    assert ids(await desk.claim()) == ["b", "c"]


async def test_the_first_by_rank_priority_and_age_get_the_slots(desk: Desk, clock: ManualClock):
    await put(desk, concurrency=2)
    await desk.create("resumed")
    await desk.suspend(await desk.claim_one("resumed"), timer(START + SECOND))
    await desk.create("late", priority=5)
    await desk.create("a")
    await desk.create("soon", priority=-1)
    clock.advance(SECOND)
    claimed = await desk.claim()
    assert ids(claimed) == ["resumed", "soon"]
    await desk.settle(grant_of(claimed.runs[0]))
    await desk.settle(grant_of(claimed.runs[1]))
    assert ids(await desk.claim()) == ["a", "late"]


async def test_the_same_claim_is_answered_as_before(desk: Desk):
    await put(desk, concurrency=2, key_concurrency=1, rate=Rate(2, MINUTE, 2))
    await desk.create("a", "b", limit_key="k")
    await desk.create("c")
    token = fresh_token()
    assert ids(await desk.claim(token=token)) == ["a", "c"]
    assert ids(await desk.claim(token=token)) == ["a", "c"]


async def test_fresh_runs_may_be_asked_for_first(desk: Desk, clock: ManualClock):
    await desk.create("a", "b")
    for given in (await desk.claim()).runs:
        await desk.suspend(grant_of(given), timer(START + SECOND))
    await desk.create("c", priority=1)
    await desk.create("d")
    clock.advance(SECOND)
    assert ids(await desk.claim(1, fresh_first=True)) == ["d"]
    token = fresh_token()
    assert ids(await desk.claim(2, token=token, fresh_first=True)) == ["c", "a"]
    assert ids(await desk.claim(2, token=token, fresh_first=True)) == ["c", "a"]
    assert ids(await desk.claim()) == ["b"]


# --- by key --------------------------------------------------------------------------------------


async def test_a_full_key_holds_up_nobody_else(desk: Desk):
    await put(desk, key_concurrency=1)
    await desk.create("a1", "a2", "a3", limit_key="a")
    await desk.create("b1", "b2", limit_key="b")
    await desk.create("free")
    claimed = await desk.claim()
    assert ids(claimed) == ["a1", "b1", "free"]
    assert ids(await desk.claim()) == []
    await desk.settle(grant_of(claimed.runs[1]))
    assert ids(await desk.claim()) == ["b2"]
    await desk.settle(grant_of(claimed.runs[0]))
    assert ids(await desk.claim()) == ["a2"]


async def test_a_key_counts_in_its_queue_only(desk: Desk):
    await put(desk, key_concurrency=1)
    await desk.create("a", "b", limit_key="k")
    await desk.create("c", "d", limit_key="k", queue="free")
    assert ids(await desk.claim(queues=("default", "free"))) == ["a", "c", "d"]


async def test_of_a_key_the_first_by_priority_goes_first(desk: Desk):
    await put(desk, key_concurrency=1)
    await desk.create("a", "b", limit_key="k")
    assert ids(await desk.claim(0)) == []
    await desk.create("soon", priority=-1, limit_key="k")
    claimed = await desk.claim()
    assert ids(claimed) == ["soon"]
    await desk.settle(grant_of(claimed.runs[0]))
    assert ids(await desk.claim()) == ["a"]


async def test_a_run_of_a_definition_that_nobody_has_bars_no_key(desk: Desk):
    await put(desk, key_concurrency=1)
    await desk.create("a", limit_key="k", definition="unknown")
    await desk.create("b", limit_key="k")
    assert ids(await desk.claim()) == ["b"]


@pytest.mark.parametrize("how", [CancelRun, PauseRun])
async def test_the_next_of_a_key_follows_one_that_leaves_the_line(
    desk: Desk, how: type[CancelRun] | type[PauseRun]
):
    await put(desk, key_concurrency=1)
    await desk.create("a", "b", limit_key="k")
    assert ids(await desk.claim(0)) == []
    await desk.do(how("a", "q"))
    assert ids(await desk.claim()) == ["b"]


async def test_a_run_that_wakes_takes_its_place_among_those_of_its_key(
    desk: Desk, clock: ManualClock
):
    await put(desk, key_concurrency=1)
    await desk.create("a", "b", limit_key="k")
    await desk.suspend(await desk.claim_one("a"), timer(START + SECOND))
    grant = await desk.claim_one("b")
    clock.advance(SECOND)
    assert ids(await desk.claim()) == []
    await desk.create("c", limit_key="k")
    await desk.settle(grant)
    assert ids(await desk.claim()) == ["a"]


async def test_any_number_of_runs_may_share_a_key_without_a_limit(desk: Desk):
    await desk.create(*(f"r{number:03}" for number in range(200)), limit_key="k")
    given: list[str] = []
    while claimed := ids(await desk.claim(30)):
        given += claimed
    assert given == [f"r{number:03}" for number in range(200)]


async def test_a_claim_that_is_not_over_says_so(desk: Desk, clock: ManualClock):
    """A worker with room asks again at once, as long as next_due_at has come."""
    await desk.create(*(f"r{number:03}" for number in range(200)), limit_key="k")
    claimed = await desk.claim(200)
    assert 0 < len(claimed.runs) < 200
    assert claimed.next_due_at is not None
    assert claimed.next_due_at <= clock.now()


# --- rates ---------------------------------------------------------------------------------------


async def test_starts_are_evenly_spaced(desk: Desk, clock: ManualClock):
    await put(desk, rate=Rate(6, MINUTE))
    await desk.create("a", "b", "c")
    claimed = await desk.claim()
    assert (ids(claimed), claimed.next_due_at) == (["a"], START + 10 * SECOND)
    clock.advance(10 * SECOND - 1)
    assert ids(await desk.claim()) == []
    clock.advance(1)
    assert ids(await desk.claim()) == ["b"]
    clock.advance(3_600 * SECOND)  # a quiet time saves nothing up
    assert ids(await desk.claim()) == ["c"]


async def test_a_burst_may_follow_a_quiet_time(desk: Desk, clock: ManualClock):
    await put(desk, rate=Rate(60, MINUTE, 3))
    await desk.create(*(f"r{number}" for number in range(9)))
    assert ids(await desk.claim()) == ["r0", "r1", "r2"]
    clock.advance(SECOND)
    assert ids(await desk.claim()) == ["r3"]
    clock.advance(MINUTE)
    assert ids(await desk.claim()) == ["r4", "r5", "r6"]


async def test_a_run_that_goes_on_is_no_start(desk: Desk, clock: ManualClock):
    await put(desk, rate=Rate(1, MINUTE))
    await desk.create("a", "b")
    await desk.suspend(await desk.claim_one("a"), timer(START + SECOND))
    clock.advance(SECOND)
    assert ids(await desk.claim()) == ["a"]


async def test_a_rate_that_nobody_waits_for_wakes_nobody(desk: Desk):
    await put(desk, rate=Rate(1, MINUTE))
    await desk.create("a")
    assert (await desk.claim()).next_due_at is None
    assert (await desk.claim()).next_due_at is None


async def test_each_key_has_a_rate_of_its_own(desk: Desk, clock: ManualClock):
    await put(desk, key_rate=Rate(6, MINUTE, 2))
    await desk.create("a1", "a2", "a3", "a4", limit_key="a")
    await desk.create("b1", limit_key="b")
    await desk.create("free1", "free2")
    assert ids(await desk.claim()) == ["a1", "a2", "b1", "free1", "free2"]
    claimed = await desk.claim()
    assert (ids(claimed), claimed.next_due_at) == ([], START + 10 * SECOND)
    clock.advance(10 * SECOND)
    assert ids(await desk.claim()) == ["a3"]
    clock.advance(10 * SECOND)
    assert ids(await desk.claim()) == ["a4"]


async def test_the_starts_of_a_key_count_although_nothing_of_it_is_left(
    desk: Desk, clock: ManualClock
):
    await put(desk, key_rate=Rate(1, MINUTE))
    await desk.create("a", limit_key="k")
    await desk.settle(await desk.claim_one("a"))
    clock.advance(SECOND)
    assert ids(await desk.claim()) == []
    await desk.create("b", limit_key="k")
    assert ids(await desk.claim()) == []
    clock.advance(MINUTE - SECOND)
    assert ids(await desk.claim()) == ["b"]


async def test_two_definitions_share_the_rate_of_a_key(desk: Desk, clock: ManualClock):
    await put(desk, key_rate=Rate(1, MINUTE))
    await desk.create("a", limit_key="k")
    await desk.create("b", limit_key="k", definition="e")
    assert ids(await desk.claim(definitions=("d", "e"))) == ["a"]
    clock.advance(MINUTE)
    assert ids(await desk.claim(definitions=("d", "e"))) == ["b"]


# --- pauses --------------------------------------------------------------------------------------


async def test_nothing_of_a_paused_queue_is_claimed(desk: Desk, clock: ManualClock):
    await desk.create("running", "waiting")
    running, waiting = (await desk.claim()).runs
    await desk.suspend(grant_of(waiting), timer(START + SECOND))
    await desk.create("fresh")
    await desk.create("keyed", limit_key="k")
    await desk.do(PauseQueue("default"))
    clock.advance(SECOND)
    assert ids(await desk.claim()) == []
    assert await desk.settle(grant_of(running)) is Status.COMPLETED
    assert await desk.status("waiting") is Status.QUEUED
    await desk.do(ResumeQueue("default"))
    assert sorted(ids(await desk.claim())) == ["fresh", "keyed", "waiting"]


# --- runs that pass through no line --------------------------------------------------------------


@pytest.mark.parametrize("limit", ["paused", "queue", "key"])
async def test_a_mismatch_comes_back_within_the_limits(desk: Desk, limit: str):
    await desk.do(RetireWorker("v"))
    await desk.create("a", limit_key="k")
    await desk.settle(await desk.claim_one("a"), Mismatched(b"e", "1"))
    await desk.worker("v", {"d": "2"})
    grant = None
    match limit:
        case "paused":
            await desk.do(PauseQueue("default"))
        case "queue":
            await put(desk, concurrency=1)
        case _:
            await put(desk, key_concurrency=1)
    if limit != "paused":
        await desk.create("b", limit_key="k")
        grant = await desk.claim_one("b")
    claimed = await desk.claim(worker_id="v")
    assert (ids(claimed), claimed.next_due_at) == ([], None)  # nobody has to ask again at once
    if grant is None:
        await desk.do(ResumeQueue("default"))
    else:
        await desk.settle(grant)
    assert ids(await desk.claim(worker_id="v")) == ["a"]


async def test_a_suspect_needs_a_slot_too(desk: Desk):
    await desk.create("a", limit_key="k")
    await desk.crash("a", times=2)
    await put(desk, concurrency=1)
    await desk.create("b")
    grant = await desk.claim_one("b")
    assert ids(await desk.claim(worker_id="v", suspects=True)) == []
    await desk.settle(grant)
    assert ids(await desk.claim(worker_id="v", suspects=True)) == ["a"]


# --- anything at all -----------------------------------------------------------------------------


class Line:
    """What must be true of limits, looked up in the store itself."""

    def __init__(self, desk: Desk, limits: Limits) -> None:
        self.desk = desk
        self.limits = limits
        self.starts: list[int] = []
        self.starts_of: dict[str, list[int]] = {}

    async def check(self) -> list[RunRecord]:
        """Assert that no limit is passed; return all runs."""
        runs = await self.desk.store.list_runs(RunQuery(limit=1_000))
        running = [run for run in runs if run.status is Status.RUNNING]
        limits = self.limits
        if limits.concurrency is not None:
            assert len(running) <= limits.concurrency
        if limits.key_concurrency is not None:
            keys = Counter(run.limit_key for run in running if run.limit_key)
            assert max(keys.values(), default=0) <= limits.key_concurrency
        return runs

    def started(self, run: RunRecord, now: int) -> None:
        """Note a start, and assert that no stretch of a period has too many."""
        if run.epoch == 1:
            self._count(self.starts, self.limits.rate, now)
            if run.limit_key is not None:
                starts = self.starts_of.setdefault(run.limit_key, [])
                self._count(starts, self.limits.key_rate, now)

    def _count(self, starts: list[int], rate: Rate | None, now: int) -> None:
        starts.append(now)
        if rate is not None:
            within = [each for each in starts if each > now - rate.period]
            assert len(within) <= rate.limit + rate.burst - 1

    async def check_idle(self, now: int) -> None:
        """Assert that a claim that gave nothing left nothing that the limits allow."""
        runs = await self.check()
        record = {each.queue: each for each in await self.desk.store.queues()}["default"]
        running = [run for run in runs if run.status is Status.RUNNING]
        keys = Counter(run.limit_key for run in running)
        may_start = free_starts(self.limits.rate, record.next_start_at, now) != 0
        for run in runs:
            if run.status is not Status.QUEUED or record.paused_at is not None:
                continue
            is_full = len(running) == self.limits.concurrency
            is_key_full = run.limit_key and keys[run.limit_key] == self.limits.key_concurrency
            is_over = run.epoch == 0 and not may_start
            # How many starts a key has left is not told; a suspect stands behind those of its key.
            may_be_over = run.limit_key is not None and self.limits.key_rate is not None
            is_behind = run.limit_key is not None and run.rank is Rank.SUSPECT
            over = is_over or (run.epoch == 0 and may_be_over)
            assert is_full or is_key_full or over or is_behind, run.run_id


class Play:
    """Random transitions on one queue, each followed by a look at what must hold."""

    def __init__(self, desk: Desk, clock: ManualClock, seed: int) -> None:
        dice = self.dice = Random(seed)  # noqa: S311  # nothing secret
        self.desk = desk
        self.clock = clock
        self.created = 0
        limits = Limits(
            dice.choice((None, 1, 2, 5)),
            dice.choice((None, None, Rate(5, MINUTE, dice.choice((1, 3))))),
            dice.choice((None, 1, 2)),
            dice.choice((None, None, Rate(2, MINUTE, dice.choice((1, 2))))),
        )
        self.line = Line(desk, limits)

    async def create(self) -> None:
        """Add a run."""
        dice = self.dice
        fields = {"priority": dice.randrange(3), "delay": dice.choice((0, 0, SECOND))}
        key = dice.choice((None, "a", "b", "c"))
        await self.desk.create(f"r{self.created}", limit_key=key, **fields)
        self.created += 1

    async def claim(self) -> Claimed:
        """Claim some, and count the starts."""
        dice = self.dice
        claimed = await self.desk.claim(
            dice.randrange(1, 6), fresh_first=dice.random() < 0.2, suspects=dice.random() < 0.5
        )
        for given in claimed.runs:
            self.line.started(given.run, self.clock.now())
        return claimed

    async def leave(self) -> None:
        """End, retry, hand back or suspend a running run."""
        running = await self.desk.store.list_runs(RunQuery((Status.RUNNING,), limit=1_000))
        if running:
            wait = Suspended((timer(self.clock.now() + SECOND),))
            verdict = self.dice.choice((DONE, FAIL, Released(), Retrying(b"e", SECOND), wait, wait))
            await self.desk.settle(grant_of(self.dice.choice(running)), verdict)

    async def operate(self) -> None:
        """Cancel, pause or resume any run."""
        if self.created:
            verb = self.dice.choice((CancelRun, PauseRun, ResumeRun))
            run_id = f"r{self.dice.randrange(self.created)}"
            await self.desk.do(verb(run_id, f"q{fresh_token()}"))

    async def disturb(self) -> None:
        """Kill the worker, or pause or resume the queue."""
        if self.dice.random() < 0.5:
            await self.desk.rescue("w")
            await self.desk.worker("w")
        else:
            await self.desk.do(self.dice.choice((PauseQueue, ResumeQueue))("default"))

    async def wait(self) -> None:
        """Let time pass."""
        self.clock.advance(self.dice.choice((1, SECOND, 7 * SECOND)))

    async def any(self) -> None:
        """Do one of these."""
        acts = (self.create, self.claim, self.leave, self.operate, self.disturb, self.wait)
        (act,) = self.dice.choices(acts, (6, 4, 5, 2, 1, 3))
        await act()
        await self.line.check()

    async def finish(self) -> None:
        """Claim and end until nothing is queued any more."""
        for _ in range(500):
            claimed = await self.claim()
            await self.line.check()
            if claimed.runs:
                await self.desk.settle(grant_of(self.dice.choice(claimed.runs)))
            elif claimed.next_due_at is None or claimed.next_due_at > self.clock.now():
                await self.line.check_idle(self.clock.now())
                await self.leave()
                await self.desk.do(ResumeQueue("default"))
                self.clock.advance(12 * SECOND)
        assert not await self.desk.store.list_runs(RunQuery((Status.QUEUED,)))


@pytest.mark.parametrize("seed", range(10))
async def test_limits_are_exact_and_nothing_is_left_behind(
    desk: Desk, clock: ManualClock, seed: int
):
    await desk.do(RetireWorker("v"))
    play = Play(desk, clock, seed)
    await desk.do(PutQueue("default", play.line.limits))
    for _ in range(150):
        await play.any()
    await play.finish()


async def test_slots_survive_a_thousand_dead_holders(desk: Desk):
    await put(desk, concurrency=2, key_concurrency=1)
    for key in ("a", "b", "c"):
        await desk.create(*(f"{key}{number}" for number in range(2)), limit_key=key)
    for _ in range(1_000):
        claimed = await desk.claim(suspects=True)
        assert 1 <= len(claimed.runs) <= 2
        assert len({given.run.limit_key for given in claimed.runs}) == len(claimed.runs)
        await desk.rescue("w")
        await desk.worker("w")
        for given in claimed.runs:
            if (await desk.run(given.run.run_id)).status is Status.FAILED:
                await desk.retry(given.run.run_id)


async def test_a_batch_of_ends_and_a_claim_frees_and_takes_at_once(desk: Desk):
    await put(desk, concurrency=2)
    await desk.create("a", "b", "c", "d")
    first, second = (await desk.claim()).runs
    outcomes = await desk.apply(
        Settle(grant_of(first), DONE),
        Settle(grant_of(second), Failed(b"e")),
        Claim("v", fresh_token(), ("d",), ("default",), 10),
    )
    assert ids(outcomes[-1]) == ["c", "d"]  # type: ignore[arg-type]
