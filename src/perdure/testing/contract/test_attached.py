"""Attached children: cancelled in the transition in which the body of their parent is over."""

import pytest

from perdure.model.keys import Replace
from perdure.model.records import Control, Grant, ParentClose, Status, Undoing
from perdure.model.transitions import (
    CancelledByWorker,
    CancelRun,
    Claim,
    Claimed,
    Completed,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Failed,
    Fenced,
    ForkRun,
    GiveBack,
    PauseRun,
    RegisterWorker,
    Released,
    Rescued,
    RestartRun,
    RetireWorker,
    Retrying,
    Saved,
    Settle,
    Settled,
    Suspended,
    Undone,
    Verdict,
)
from perdure.testing.contract.desk import (
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    fresh_token,
    grant_of,
    save,
    timer,
)
from perdure.testing.contract.desk import child as end_of


def attached(
    run_id: str, by: Grant, policy: ParentClose = ParentClose.CANCEL, **fields: object
) -> CreateRun:
    return CreateRun(
        run_id,
        "d",
        b'"in"',
        fresh_token(),
        parent_id=by.run_id,
        root_id=by.run_id,
        by=by,
        on_parent_close=policy,
        **fields,  # type: ignore[arg-type]
    )


async def parent(desk: Desk, *children: str, **fields: object) -> Grant:
    """Return the grant of a run "r", which has created attached children."""
    await desk.worker()
    grant = await desk.start()
    for run_id in children:
        assert await desk.do(attached(run_id, grant, **fields)) == Created(run_id)
    return grant


def cancel(run_id: str = "r", *, compensate: bool = False) -> CancelRun:
    return CancelRun(run_id, f"request-{fresh_token()}", compensate)


# --- what is over, and what is not ---------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict, status",
    [
        (DONE, Status.COMPLETED),
        (FAIL, Status.FAILED),
        (CancelledByWorker(), Status.CANCELLED),
    ],
)
async def test_children_are_cancelled_with_the_end_of_their_parent(
    desk: Desk, verdict: Verdict, status: Status
):
    """In one transition: nobody ever sees the parent ended and the child alive."""
    grant = await parent(desk, "a", "b")
    assert await desk.do(Settle(grant, verdict)) == Settled(status, ("a", "b"))
    assert [await desk.status(one) for one in "rab"] == [status, Status.CANCELLED, Status.CANCELLED]
    assert [entry.action for entry in (await desk.history("a")).audit] == ["cancel"]
    assert (await desk.run()).attaches is False


@pytest.mark.parametrize(
    "verdict",
    [
        Released(),
        Suspended((timer(START + SECOND),)),
        Retrying(b'"boom"', SECOND),
    ],
)
async def test_a_body_that_is_to_go_on_keeps_its_children(desk: Desk, verdict: Verdict):
    """Suspended, released, retried: the run has not ended."""
    grant = await parent(desk, "a")
    await desk.do(Settle(grant, verdict))
    assert await desk.status("a") is Status.QUEUED
    assert (await desk.run()).attaches is True


async def test_a_restart_keeps_the_children(desk: Desk):
    """They belong to the run, and end with it at last."""
    grant = await parent(desk, "a")
    await desk.suspend(grant, timer(START + SECOND))
    await desk.do(RestartRun("r", "restart"))
    assert await desk.status("a") is Status.QUEUED
    claimed = await desk.claim(1)
    assert [one.run.run_id for one in claimed.runs] == ["r"]
    assert await desk.do(Settle(grant_of(claimed.runs[0]), DONE)) == Settled(
        Status.COMPLETED, ("a",)
    )


async def test_others_are_left_alone(desk: Desk):
    """Children that are not attached, those that have ended, and attached ones of other runs."""
    grant = await parent(desk, "a")
    await desk.apply(attached("free", grant, ParentClose.ABANDON))
    await desk.do(cancel("a"))
    await desk.create("other")
    claimed = await desk.claim(2)
    grants = {one.run.run_id: grant_of(one) for one in claimed.runs}
    await desk.apply(attached("of other", grants["other"]))
    assert await desk.do(Settle(grant, DONE)) == Settled(Status.COMPLETED)
    assert await desk.status("of other") is Status.QUEUED
    assert await desk.status("free") is Status.RUNNING


async def test_a_run_that_was_found_is_not_attached(desk: Desk):
    """It is somebody else's."""
    await desk.worker()
    await desk.create("mine", unique_key="k")
    await desk.claim()
    grant = await desk.start()
    assert await desk.do(attached("a", grant, unique_key="k")) == Exists("mine", same=True)
    assert await desk.do(Settle(grant, DONE)) == Settled(Status.COMPLETED)
    assert await desk.status("mine") is Status.RUNNING


async def test_a_fenced_body_attaches_nothing(desk: Desk):
    """Its create is refused, and its run has no mark."""
    grant = await parent(desk)
    await desk.do(RegisterWorker("w2", "host", 1, {"d": "1"}, ("default",), 8))
    await desk.rescue()
    assert await desk.do(attached("a", grant)) == Fenced("r")
    assert (await desk.run()).attaches is False


async def test_the_same_create_again_attaches_nothing_more(desk: Desk):
    """Applied again once its parent has ended, it is answered as it was."""
    grant = await parent(desk)
    create = attached("a", grant)
    assert await desk.apply(create, create) == [Created("a"), Created("a")]
    assert await desk.do(Settle(grant, DONE)) == Settled(Status.COMPLETED, ("a",))
    assert await desk.do(create) == Created("a")
    assert (await desk.run()).attaches is False
    assert await desk.status("a") is Status.CANCELLED


# --- whatever ends the parent --------------------------------------------------------------------


async def test_a_cancel_by_hand(desk: Desk):
    """Of a parent that waits, which ends at once."""
    grant = await parent(desk, "a")
    await desk.suspend(grant, timer(START + SECOND))
    assert await desk.do(cancel()) == Controlled(Status.CANCELLED, ("a",))
    assert await desk.status("a") is Status.CANCELLED


async def test_a_cancel_of_a_running_parent_waits_for_its_body(desk: Desk):
    """Until the claim ends, the body may be using what its children do."""
    grant = await parent(desk, "a")
    assert await desk.do(cancel()) == Controlled(Status.RUNNING)
    assert await desk.status("a") is Status.QUEUED
    assert await desk.do(Settle(grant, Released())) == Settled(Status.CANCELLED, ("a",))


async def test_a_create_that_takes_the_place_of_the_parent(desk: Desk):
    """The replaced run is cancelled, and so is what is attached to it."""
    await desk.worker()
    grant = await desk.start(unique_key="k")
    await desk.apply(attached("a", grant))
    await desk.suspend(grant, timer(START + SECOND))
    create = CreateRun("s", "d", b'"in"', fresh_token(), unique_key="k", key_rule=Replace())
    assert await desk.do(create) == Created("s", "r", ("a",))
    assert await desk.status("a") is Status.CANCELLED


async def test_a_rescue_that_ends_the_parent(desk: Desk):
    """The crash cap, and a cancel that was asked for; the children are among those that ended."""
    await parent(desk, "a")
    await desk.do(cancel())
    assert await desk.rescue() == Rescued((), ("r", "a"))
    assert await desk.status("a") is Status.CANCELLED


@pytest.mark.parametrize("leave", [RetireWorker("w"), GiveBack("w", ())])
async def test_a_worker_that_gives_its_parent_back(desk: Desk, leave: RetireWorker | GiveBack):
    """As of a cancelled run, which ends with that."""
    await parent(desk, "a")
    await desk.do(cancel())
    assert await desk.do(leave) == Rescued((), ("r", "a"))


async def test_a_parent_that_undoes_its_steps_has_no_children_meanwhile(desk: Desk):
    """They are cancelled before it undoes anything, and undo what they did, as it does."""
    grant = await parent(desk, "a")
    claimed = await desk.claim(1)
    await desk.suspend(grant_of(claimed.runs[0]), timer(START + SECOND))
    answer = await desk.do(Settle(grant, Failed(b'"boom"', compensates=True)))
    assert answer == Settled(Status.QUEUED)
    assert (await desk.run("a")).undoing is Undoing.COMPENSATE
    assert (await desk.run("a")).status is Status.QUEUED


async def test_what_is_attached_while_undoing_lasts_until_the_end(desk: Desk):
    """A compensation may start a run, too."""
    grant = await parent(desk)
    await desk.do(Settle(grant, Failed(b'"boom"', compensates=True)))
    grant = await desk.claim_one("r")
    await desk.apply(attached("a", grant))
    await desk.suspend(grant, timer(START))
    assert await desk.status("a") is Status.QUEUED
    claimed = await desk.claim(1)
    assert [one.run.run_id for one in claimed.runs] == ["r"]
    settle = Settle(grant_of(claimed.runs[0]), Undone())
    assert await desk.do(settle) == Settled(Status.FAILED, ("a",))


# --- what becomes of the children ----------------------------------------------------------------


async def test_children_in_every_status(desk: Desk):
    """Waiting, paused, delayed: cancelled at once. Running: told so, and cancelled as it ends."""
    grant = await parent(desk, "running", "waiting", "paused")
    await desk.apply(attached("delayed", grant, delay=SECOND))
    grants = {one.run.run_id: grant_of(one) for one in (await desk.claim()).runs}
    await desk.suspend(grants["waiting"], timer(START + SECOND))
    await desk.suspend(grants["paused"], timer(START + SECOND))
    await desk.do(PauseRun("paused", "pause"))
    answer = await desk.do(Settle(grant, DONE))
    assert answer == Settled(Status.COMPLETED, ("waiting", "paused", "delayed"))
    assert (await desk.run("running")).control is Control.CANCEL
    assert await desk.apply(save(grants["running"], "s")) == [Saved(Control.CANCEL)]
    assert await desk.settle(grants["running"]) is Status.CANCELLED


async def test_grandchildren_go_with_their_parent(desk: Desk):
    """Each closing passes it on; a running child passes it on when its own claim ends."""
    grant = await parent(desk, "a")
    of_a = await desk.claim_one("a")
    await desk.apply(attached("b", of_a))
    of_b = await desk.claim_one("b")
    await desk.apply(attached("c", of_b))
    await desk.suspend(of_a, end_of("b"))
    await desk.suspend(of_b, end_of("c"))
    assert await desk.do(Settle(grant, DONE)) == Settled(Status.COMPLETED, ("a", "b", "c"))


async def test_a_long_chain_of_generations(desk: Desk):
    """It is no recursion."""
    await desk.worker()
    grant = first = await desk.start()
    for number in range(400):
        await desk.apply(attached(f"c{number}", grant))
        below = await desk.claim_one(f"c{number}")
        if grant is not first:
            await desk.suspend(grant, timer(START + SECOND))
        grant = below
    await desk.suspend(grant, timer(START + SECOND))
    answer = await desk.do(Settle(first, DONE))
    assert answer == Settled(Status.COMPLETED, tuple(f"c{number}" for number in range(400)))


async def test_who_waits_for_a_child_is_woken(desk: Desk):
    """As by any end."""
    grant = await parent(desk, "a")
    await desk.create("other")
    claimed = await desk.claim()
    [other] = [grant_of(one) for one in claimed.runs if one.run.run_id == "other"]
    [of_a] = [grant_of(one) for one in claimed.runs if one.run.run_id == "a"]
    await desk.suspend(other, end_of("a"))
    await desk.suspend(of_a, timer(START + SECOND))
    await desk.do(Settle(grant, DONE))
    assert await desk.status("other") is Status.QUEUED


async def test_a_child_that_is_tried_again_goes_on_by_itself(desk: Desk):
    """Its parent has ended, and ends no second time; unless it is tried again, and attaches."""
    grant = await parent(desk, "a")
    await desk.settle(grant, FAIL)
    await desk.retry("a")
    await desk.claim_one("a")
    await desk.retry("r")
    again = await desk.claim_one("r")
    assert await desk.do(Settle(again, FAIL)) == Settled(Status.FAILED)
    assert (await desk.run("a")).control is Control.NONE
    await desk.retry("r")
    again = await desk.claim_one("r")
    await desk.apply(attached("b", again))
    assert await desk.do(Settle(again, FAIL)) == Settled(Status.FAILED, ("b",))
    assert (await desk.run("a")).control is Control.CANCEL


async def test_a_fork_is_attached_to_nothing(desk: Desk):
    """It continues what was recorded; nobody's end is its own."""
    grant = await parent(desk, "a")
    of_a = await desk.claim_one("a")
    await desk.apply(save(of_a, "s"))
    await desk.do(ForkRun(CreateRun("f", "d", b'"in"', fresh_token()), "a", 0))
    await desk.settle(grant)
    assert await desk.status("f") is Status.QUEUED


# --- batches -------------------------------------------------------------------------------------


async def test_the_order_of_a_batch_is_kept(desk: Desk):
    """What comes after the end sees the child cancelled; what comes before does not."""
    grant = await parent(desk, "a", "b")
    grants = {one.run.run_id: grant_of(one) for one in (await desk.claim()).runs}
    answers = await desk.apply(
        save(grants["a"], "s"),
        Settle(grants["b"], DONE),
        Settle(grant, DONE),
        save(grants["a"], "t"),
        Settle(grants["a"], DONE),
    )
    assert answers == [
        Saved(),
        Settled(Status.COMPLETED),
        Settled(Status.COMPLETED),
        Saved(Control.CANCEL),
        Settled(Status.CANCELLED),
    ]


async def test_a_child_that_is_created_in_the_batch_of_the_end(desk: Desk):
    """It never begins: the claim of the same batch does not find it."""
    grant = await parent(desk)
    create = attached("a", grant)
    claim = Claim("w", fresh_token(), ("d",), ("default",), 8)
    created, settled, claimed = await desk.apply(create, Settle(grant, DONE), claim)
    assert (created, settled) == (Created("a"), Settled(Status.COMPLETED, ("a",)))
    assert isinstance(claimed, Claimed)
    assert claimed.runs == ()


async def test_many_children(desk: Desk):
    """A thousand, in one transition."""
    names = [f"child {number}" for number in range(1_000)]
    grant = await parent(desk)
    await desk.apply(*(attached(name, grant) for name in names))
    assert await desk.do(Settle(grant, DONE)) == Settled(Status.COMPLETED, tuple(names))


async def test_a_completed_body_says_so_the_second_time_too(desk: Desk):
    """The answer again names nobody: they have been told of."""
    grant = await parent(desk, "a")
    settle = Settle(grant, Completed(b"1"))
    assert await desk.do(settle) == Settled(Status.COMPLETED, ("a",))
    assert await desk.do(settle) == Settled(Status.COMPLETED)
