"""The leader: one worker at most, each term once, and an old one is refused."""

import asyncio

import pytest

from perdure.model.leader import (
    NOBODY,
    Lead,
    LeaderRecord,
    Leading,
    LeaveLead,
    NotLeading,
    TakeLead,
)
from perdure.model.retention import Prune, Pruned
from perdure.model.schedules import Fire, Fired, FireOutcome, FireSchedule, PutSchedule, Schedule
from perdure.model.transitions import Heartbeat, RescueWorker, RetireWorker
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    SECOND,
    START,
    Desk,
    ManualClock,
    register,
)
from perdure.testing.contract.fixtures import MakeStore
from perdure.timing import Timing

MINUTE = 60 * SECOND


async def two_workers(desk: Desk) -> None:
    """Register v and w; w leads since START."""
    await desk.apply(register("v"), register("w"))
    assert await desk.do(TakeLead("w", 1)) == Leading(LeaderRecord("w", 1, START))


async def test_nobody_leads_at_first(desk: Desk) -> None:
    """And every claim says which term is to be had."""
    await desk.worker()
    assert await desk.store.leader() == NOBODY
    assert (await desk.claim()).vacant_term == 1


async def test_one_takes_the_lead_and_the_others_hear_who_has_it(desk: Desk) -> None:
    """In one batch or in two; the same again is the same."""
    await desk.apply(register("v"), register("w"))
    led = LeaderRecord("w", 1, START)
    assert await desk.apply(TakeLead("w", 1), TakeLead("v", 1)) == [Leading(led)] * 2
    desk.clock.advance(SECOND)
    assert await desk.apply(TakeLead("v", 1), TakeLead("w", 1)) == [Leading(led)] * 2
    assert await desk.do(TakeLead("v", 2)) == Leading(led)
    assert await desk.store.leader() == led
    assert (await desk.claim()).vacant_term is None


async def test_only_a_registered_worker_leads(desk: Desk) -> None:
    """One that was rescued meanwhile asks for nothing."""
    assert await desk.do(TakeLead("w", 1)) == Leading(NOBODY)
    await two_workers(desk)


async def test_only_the_next_term_can_be_begun(desk: Desk) -> None:
    """So that what was asked long ago, and arrives again, takes nothing."""
    await two_workers(desk)
    await desk.do(LeaveLead(Lead("w", 1)))
    vacant = LeaderRecord(None, 1, START)
    for term in (0, 1, 3):
        assert await desk.do(TakeLead("w", term)) == Leading(vacant)
    assert (await desk.claim()).vacant_term == 2
    assert await desk.do(TakeLead("v", 2)) == Leading(LeaderRecord("v", 2, START))


async def test_a_leader_leaves_only_its_own_lead(desk: Desk) -> None:
    """Nobody's stop removes another's, nor a newer one of its own."""
    await two_workers(desk)
    led = Leading(LeaderRecord("w", 1, START))
    for other in (Lead("v", 1), Lead("w", 0), Lead("w", 2)):
        assert await desk.do(LeaveLead(other)) == led
    desk.clock.advance(SECOND)
    vacant = Leading(LeaderRecord(None, 1, START + SECOND))
    assert await desk.do(LeaveLead(Lead("w", 1))) == vacant
    desk.clock.advance(SECOND)
    assert await desk.do(LeaveLead(Lead("w", 1))) == vacant
    await desk.do(TakeLead("w", 2))
    assert await desk.do(LeaveLead(Lead("w", 1))) == Leading(
        LeaderRecord("w", 2, START + 2 * SECOND)
    )


@pytest.mark.parametrize(
    "goes", [RetireWorker("w"), RescueWorker("w", None, 10, CRASH)], ids=["retired", "rescued"]
)
async def test_the_lead_ends_with_its_worker(desk: Desk, goes: RetireWorker | RescueWorker) -> None:
    """In the same transition; another's stands."""
    await two_workers(desk)
    desk.clock.advance(MINUTE)
    await desk.do(goes)
    assert await desk.store.leader() == LeaderRecord(None, 1, START + MINUTE)
    assert await desk.do(TakeLead("w", 2)) == Leading(LeaderRecord(None, 1, START + MINUTE))
    led = LeaderRecord("v", 2, START + MINUTE)
    assert await desk.do(TakeLead("v", 2)) == Leading(led)
    await desk.do(register("w"))
    await desk.do(goes)
    assert await desk.store.leader() == led


async def test_a_rescue_that_is_refused_leaves_the_lead(desk: Desk) -> None:
    """The worker lives: its beat has risen."""
    await two_workers(desk)
    await desk.do(Heartbeat("w"))
    await desk.do(RescueWorker("w", 0, 10, CRASH))
    assert await desk.store.leader() == LeaderRecord("w", 1, START)


def firing(lead: Lead | None) -> FireSchedule:
    """Fire the instant START of the schedule k."""
    fire = Fire(START, FireOutcome.ON_TIME, START)
    return FireSchedule("k", 0, START, START + MINUTE, (fire,), lead)


async def test_an_old_leader_fires_nothing(desk: Desk) -> None:
    """Also an instant that nobody has fired yet; the new one does, and whoever asks by hand."""
    await two_workers(desk)
    await desk.do(PutSchedule(Schedule("k", Timing(every=MINUTE), "d", b'"in"'), START))
    await desk.do(LeaveLead(Lead("w", 1)))
    vacant = NotLeading(LeaderRecord(None, 1, START))
    assert await desk.do(firing(Lead("w", 1))) == vacant
    await desk.do(TakeLead("v", 2))
    led = NotLeading(LeaderRecord("v", 2, START))
    for old in (Lead("w", 1), Lead("w", 2), Lead("v", 1)):
        assert await desk.do(firing(old)) == led
    assert await desk.store.fires("k") == []
    assert isinstance(await desk.do(firing(Lead("v", 2))), Fired)
    assert len(await desk.store.fires("k")) == 1


async def test_whoever_asks_by_hand_needs_no_lead(desk: Desk) -> None:
    """To fire and to prune."""
    await desk.do(PutSchedule(Schedule("k", Timing(every=MINUTE), "d", b'"in"'), START))
    assert isinstance(await desk.do(firing(None)), Fired)
    assert await desk.do(Prune(10)) == Pruned()


async def test_an_old_leader_prunes_nothing(desk: Desk) -> None:
    """The run stays until the new one asks."""
    await two_workers(desk)
    await desk.end("r", DONE)
    await desk.do(LeaveLead(Lead("w", 1)))
    await desk.do(TakeLead("v", 2))
    old = Prune(10, older_than=0, lead=Lead("w", 1))
    assert await desk.do(old) == NotLeading(LeaderRecord("v", 2, START))
    assert await desk.store.get("r") is not None
    assert await desk.do(Prune(10, older_than=0, lead=Lead("v", 2))) == Pruned(runs=1)


async def test_each_namespace_has_a_leader_of_its_own(
    desk: Desk, make_store: MakeStore, clock: ManualClock
) -> None:
    """They know nothing of each other."""
    await two_workers(desk)
    other = Desk(await make_store(namespace="other"), clock)
    assert await other.store.leader() == NOBODY
    await other.do(register("w"))
    await other.do(TakeLead("w", 1))
    await other.do(RetireWorker("w"))
    assert await desk.store.leader() == LeaderRecord("w", 1, START)


@pytest.mark.parametrize(
    "goes", [LeaveLead(Lead("w", 1)), RescueWorker("w", None, 10, CRASH)], ids=["left", "rescued"]
)
async def test_a_vacant_lead_is_a_hint(
    desk: Desk, make_store: MakeStore, goes: LeaveLead | RescueWorker
) -> None:
    """To every process that could take it."""
    await two_workers(desk)
    heard = asyncio.Event()
    (await make_store()).listen(heard.set)
    await desk.do(goes)
    await asyncio.wait_for(heard.wait(), 10)
