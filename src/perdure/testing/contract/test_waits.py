"""Suspended: what a run waits for while it holds nothing, and what wakes it."""

from itertools import pairwise

import pytest

from perdure.model.records import Rank, Status, Wait, WaitKind
from perdure.model.transitions import (
    CancelledByWorker,
    Completed,
    Mismatched,
    Released,
    RescueWorker,
    Retrying,
    Settle,
    Settled,
    Suspended,
)
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    child,
    grant_of,
    ids,
    save,
    timer,
)


async def test_a_suspended_run_keeps_its_conditions_as_rows(desk: Desk):
    """The rows are kept as given, in order; the run waits for the earliest of its due times."""
    await desk.worker()
    waits = (
        child("x", join=3),
        timer(START + 2 * SECOND, path="é/'", join=1),
        child("y", join=3, due_at=START + SECOND),
    )
    assert await desk.suspend(await desk.start(), *waits) is Status.WAITING
    history = await desk.history()
    assert history.waits == waits
    assert (history.run.due_at, history.run.waiting_for) == (START + SECOND, WaitKind.CHILD)
    assert (await desk.claim()).next_due_at == START + SECOND


async def test_a_run_that_waits_for_children_alone_has_no_due_time(desk: Desk, clock):
    """It is not claimable however much time passes."""
    await desk.worker()
    await desk.suspend(await desk.start(), child("x"))
    run = await desk.run()
    assert (run.due_at, run.waiting_for) == (None, WaitKind.CHILD)
    clock.advance(10**15)
    claimed = await desk.claim(suspects=True)
    assert (ids(claimed), claimed.next_due_at) == ([], None)


@pytest.mark.parametrize("kind", ["retry", "sleep", "child"])
async def test_the_earliest_due_time_wakes_alone(desk: Desk, clock, kind: str):
    """A timer, or a child's time limit, makes the run claimable whatever else it waits for."""
    await desk.worker()
    due_at = START + SECOND
    first = child("x", due_at=due_at) if kind == "child" else timer(due_at, kind=WaitKind(kind))
    waits = (child("y"), timer(START + 2 * SECOND), first)
    await desk.suspend(await desk.start(), *waits)
    assert (await desk.run()).waiting_for == kind
    clock.advance(SECOND - 1)
    assert ids(await desk.claim()) == []
    clock.advance(1)
    assert ids(await desk.claim()) == ["r"]
    assert (await desk.history()).waits == waits


async def test_a_due_time_that_has_passed_is_found_by_the_next_claim(desk: Desk):
    """Suspending on an instant of the past is as good as being due."""
    await desk.worker()
    assert await desk.suspend(await desk.start(), timer(START - SECOND)) is Status.WAITING
    assert ids(await desk.claim()) == ["r"]


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "by its worker", "crashed"])
async def test_the_end_of_a_child_wakes_its_parent(desk: Desk, how: str):
    """However the child ends, in that same transition the parent is queued as resumed."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("child"))
    if how == "cancelled":
        await desk.create("child")
        await desk.cancel("child")
    else:
        await desk.worker("v")
        await desk.create("child")
        grant = await desk.claim_one("child", worker_id="v")
        assert await desk.status("parent") is Status.WAITING
        match how:
            case "completed":
                await desk.settle(grant, DONE)
            case "failed":
                await desk.settle(grant, FAIL)
            case "by its worker":
                await desk.settle(grant, CancelledByWorker())
            case "crashed":
                await desk.do(RescueWorker("v", None, 1, CRASH))
    assert (await desk.run("child")).finished_at is not None
    run = await desk.run("parent")
    assert (run.status, run.rank, run.waiting_for) == (Status.QUEUED, Rank.RESUMED, None)


@pytest.mark.parametrize(
    "verdict", [Released(), Retrying(b"{}", 1), Suspended((child("x"),)), Mismatched(b"{}", "1")]
)
async def test_a_child_that_goes_on_wakes_nobody(desk: Desk, verdict):
    """Only a terminal child fulfils a wait."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("child"))
    await desk.settle(await desk.start("child"), verdict)
    assert await desk.status("parent") is Status.WAITING


async def test_a_join_waits_for_all_its_children(desk: Desk):
    """The last one wakes the parent, whatever their order, and not the one before."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("a"), child("b"), child("c"))
    for run_id in ("b", "c"):
        await desk.end(run_id)
        assert await desk.status("parent") is Status.WAITING
    await desk.create("a")
    await desk.cancel("a")
    assert await desk.status("parent") is Status.QUEUED
    [given] = (await desk.claim()).runs
    assert {ending.run_id for ending in given.endings} == {"a", "b", "c"}


async def test_any_join_of_several_wakes(desk: Desk):
    """Waits of different joins are alternatives."""
    await desk.worker()
    waits = (child("a", join=1), child("b", join=1), child("c", join=2), child("e", join=3))
    await desk.suspend(await desk.start("parent"), *waits)
    await desk.end("a")
    assert await desk.status("parent") is Status.WAITING
    await desk.end("c")
    assert await desk.status("parent") is Status.QUEUED


async def test_one_child_may_stand_in_several_joins(desk: Desk):
    """It counts in each of them, also when it is named twice in one."""
    await desk.worker()
    waits = (child("a", join=1), child("b", join=1), child("a", join=2), child("a", join=2))
    await desk.suspend(await desk.start("parent"), *waits)
    await desk.end("a")
    assert await desk.status("parent") is Status.QUEUED


async def test_a_timer_in_a_join_does_not_hold_up_its_children(desk: Desk):
    """A join is its children: a due time wakes by itself and delays nobody."""
    await desk.worker()
    waits = (child("a", join=1), timer(START + 10**12, join=1), timer(START + 10**12, join=2))
    await desk.suspend(await desk.start("parent"), *waits)
    await desk.end("a")
    assert await desk.status("parent") is Status.QUEUED


async def test_a_child_that_has_ended_already_wakes_at_once(desk: Desk):
    """No end is lost between the child's creation and the parent's suspension."""
    await desk.worker()
    await desk.end("child")
    parent = await desk.start("parent")
    assert await desk.do(Settle(parent, Suspended((child("child"),)))) == Settled(Status.QUEUED)
    [given] = (await desk.claim()).runs
    assert [ending.run_id for ending in given.endings] == ["child"]


async def test_ended_children_count_towards_their_join(desk: Desk):
    """Those that ended before and those that end later make up the join together."""
    await desk.worker()
    await desk.end("early")
    parent = await desk.start("parent")
    assert await desk.suspend(parent, child("early"), child("late")) is Status.WAITING
    await desk.end("late")
    assert await desk.status("parent") is Status.QUEUED


async def test_a_child_that_is_created_later_still_wakes(desk: Desk):
    """A wait may name a run that does not exist yet."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("child"))
    await desk.end("child")
    assert await desk.status("parent") is Status.QUEUED


async def test_several_parents_of_one_child_are_all_woken(desk: Desk):
    """Everyone that waits for a run hears of its end."""
    await desk.worker()
    for name in ("p1", "p2", "p3"):
        await desk.suspend(await desk.start(name), child("child"))
    await desk.end("child")
    assert [await desk.status(name) for name in ("p1", "p2", "p3")] == [Status.QUEUED] * 3


async def test_a_parent_that_does_not_wait_is_left_alone(desk: Desk, clock):
    """Queued or running again, it keeps its wait rows and learns of the end with its next claim."""
    await desk.worker()
    waits = (child("child"), timer(START + 1))
    await desk.suspend(await desk.start("parent"), *waits)
    clock.advance(1)
    parent = await desk.claim_one("parent")
    before = await desk.history("parent")
    await desk.create("child")
    await desk.cancel("child")
    assert await desk.history("parent") == before
    assert before.waits == waits
    assert await desk.suspend(parent, *waits) is Status.QUEUED


async def test_a_queued_parent_is_left_alone(desk: Desk):
    """A second child's end changes nothing of a parent that the first has woken."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("a", join=1), child("b", join=2))
    await desk.create("a", "b")
    await desk.cancel("a")
    before = await desk.history("parent")
    desk.clock.advance(1)
    await desk.cancel("b")
    assert await desk.history("parent") == before
    [given] = (await desk.claim()).runs
    assert {ending.run_id for ending in given.endings} == {"a", "b"}


async def test_the_next_suspension_replaces_the_rows(desk: Desk, clock):
    """Ends of children that are no longer waited for wake nobody."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("old"), timer(START + 1))
    clock.advance(1)
    await desk.suspend(await desk.claim_one("parent"), child("new"))
    assert (await desk.history("parent")).waits == (child("new"),)
    await desk.end("old")
    assert await desk.status("parent") is Status.WAITING
    await desk.end("new")
    assert await desk.status("parent") is Status.QUEUED


@pytest.mark.parametrize(
    "verdict",
    [DONE, FAIL, Retrying(b"{}", 1), Released(), Mismatched(b"{}", "1"), CancelledByWorker()],
)
async def test_any_other_verdict_deletes_the_rows(desk: Desk, clock, verdict):
    """Wait rows live until the next settle; later ends of their children wake nobody."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("child"), timer(START + 1))
    clock.advance(1)
    await desk.settle(await desk.claim_one("parent"), verdict)
    before = await desk.history("parent")
    assert before.waits == ()
    await desk.create("child")
    await desk.cancel("child")
    assert await desk.history("parent") == before


async def test_a_crash_keeps_the_rows_for_the_next_claim(desk: Desk):
    """Whoever continues a dead worker's replay is given the same endings."""
    await desk.worker()
    await desk.end("child")
    await desk.suspend(await desk.start("parent"), child("child"))
    await desk.crash("parent")
    [given] = (await desk.claim()).runs
    assert [ending.run_id for ending in given.endings] == ["child"]


async def test_a_child_that_is_retried_is_waited_for_again(desk: Desk):
    """A child that an operator sets going again is open, until it ends once more."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("a"), child("b"))
    await desk.end("a", FAIL)
    await desk.retry("a")
    await desk.settle(await desk.claim_one("a"), Released())
    await desk.create("b")
    await desk.cancel("b")
    assert await desk.status("parent") is Status.WAITING
    await desk.settle(await desk.claim_one("a"), DONE)
    assert await desk.status("parent") is Status.QUEUED


async def test_a_retried_child_does_not_count_at_suspension(desk: Desk):
    """Only a run that is terminal now fulfils a wait, not one that has been."""
    await desk.worker()
    await desk.end("child", FAIL)
    await desk.retry("child")
    await desk.settle(await desk.claim_one("child"), Retrying(b"{}", SECOND))
    assert await desk.suspend(await desk.start("parent"), child("child")) is Status.WAITING


# --- coalesced wake-ups --------------------------------------------------------------------------


async def test_wake_ups_coalesce(desk: Desk, clock):
    """The first end sets a due time, later ones do not move it, and the parent wakes once."""
    await desk.worker()
    waits = [child(run_id, join=n) for n, run_id in enumerate("abc")]
    await desk.suspend(await desk.start("parent"), *waits, coalesce=10)
    await desk.create(*"abc")
    await desk.cancel("a")
    run = await desk.run("parent")
    assert (run.status, run.due_at) == (Status.WAITING, START + 10)
    clock.advance(5)
    await desk.cancel("b")
    assert (await desk.run("parent")).due_at == START + 10
    clock.advance(4)
    assert ids(await desk.claim(definitions=("d",))) == ["c"]
    clock.advance(1)
    [given] = (await desk.claim()).runs
    assert {ending.run_id for ending in given.endings} == {"a", "b"}


async def test_an_earlier_due_time_beats_the_coalesced_one(desk: Desk):
    """`due_at` becomes at most now + coalesce: it is never put off."""
    await desk.worker()
    waits = (child("child"), timer(START + 5, join=1))
    await desk.suspend(await desk.start("parent"), *waits, coalesce=10)
    await desk.end("child")
    assert (await desk.run("parent")).due_at == START + 5


async def test_a_later_due_time_yields_to_the_coalesced_one(desk: Desk, clock):
    """And the run is claimable at the earlier instant, once."""
    await desk.worker()
    waits = (child("child"), timer(START + 50, join=1))
    await desk.suspend(await desk.start("parent"), *waits, coalesce=10)
    await desk.end("child")
    assert (await desk.run("parent")).due_at == START + 10
    clock.advance(10)
    grant = await desk.claim_one("parent")
    await desk.settle(grant)
    clock.advance(100)
    assert ids(await desk.claim()) == []


async def test_a_join_that_is_fulfilled_already_coalesces_too(desk: Desk, clock):
    """A parent that suspends on finished children is not replayed before its interval is over."""
    await desk.worker()
    await desk.end("child")
    parent = await desk.start("parent")
    assert await desk.suspend(parent, child("child"), coalesce=10) is Status.WAITING
    assert (await desk.run("parent")).due_at == START + 10
    clock.advance(10)
    assert ids(await desk.claim()) == ["parent"]


async def test_coalescing_ends_with_its_suspension(desk: Desk, clock):
    """The next suspension names its own interval."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), timer(START + 1), coalesce=10)
    clock.advance(1)
    await desk.suspend(await desk.claim_one("parent"), child("child"))
    await desk.end("child")
    assert await desk.status("parent") is Status.QUEUED


# --- scale ---------------------------------------------------------------------------------------


async def test_a_join_of_a_thousand_children_wakes_once_at_the_last(desk: Desk):
    """A wide fan-out is neither lost nor woken early."""
    await desk.worker()
    names = [f"c{n}" for n in range(1_000)]
    await desk.suspend(await desk.start("parent"), *(child(name) for name in names))
    await desk.create(*names)
    claimed = await desk.claim(2_000)
    settles = [Settle(grant_of(given), Completed(b"1")) for given in claimed.runs]
    await desk.apply(*settles[:-1])
    assert await desk.status("parent") is Status.WAITING
    await desk.apply(*settles[-1:])
    [given] = (await desk.claim()).runs
    assert {ending.run_id for ending in given.endings} == set(names)


async def test_a_chain_of_parents_is_woken_link_by_link(desk: Desk):
    """Each end wakes one parent, whose own end wakes the next."""
    await desk.worker()
    names = [f"r{n}" for n in range(20)]
    for above, below in pairwise(names):
        await desk.suspend(await desk.start(above), child(below))
    await desk.end(names[-1])
    for name in reversed(names[:-1]):
        await desk.settle(await desk.claim_one(name))
    assert [await desk.status(name) for name in names] == [Status.COMPLETED] * 20


async def test_waits_are_matched_by_the_whole_id(desk: Desk):
    """An id that another is a prefix of, or differs from in case, fulfils nothing."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("r1"))
    await desk.create("r", "r10", "R1", "r1 ", "r_", "r%")
    for run_id in ("r", "r10", "R1", "r1 ", "r_", "r%"):
        await desk.cancel(run_id)
    assert await desk.status("parent") is Status.WAITING
    await desk.end("r1")
    assert await desk.status("parent") is Status.QUEUED


async def test_a_wait_for_a_step_is_not_a_wait_for_a_run_of_that_name(desk: Desk):
    """A retry's key is a path: the run that happens to be called so fulfils nothing."""
    await desk.worker()
    grant = await desk.start("parent")
    await desk.do(save(grant, "other"))
    await desk.suspend(grant, Wait(WaitKind.RETRY, "x", START + 10**12), child("never", join=1))
    await desk.end("x")
    assert await desk.status("parent") is Status.WAITING
