"""apply: many transitions in one round trip, each with an answer of its own."""

from perdure.model.records import Control, Grant, Status
from perdure.model.transitions import (
    Beaten,
    CancelRun,
    Claim,
    Claimed,
    Completed,
    Conflict,
    Controlled,
    Created,
    CreateRun,
    Exists,
    Fenced,
    Heartbeat,
    Missing,
    Refused,
    Released,
    Rescued,
    RescueWorker,
    RetireWorker,
    RetryRun,
    Saved,
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
    fresh_token,
    grant_of,
    ids,
    pending,
    register,
    save,
)


def create(run_id: str) -> CreateRun:
    return CreateRun(run_id, "d", b'"in"', fresh_token())


async def test_answers_come_in_the_order_given(desk: Desk):
    """One answer a transition, of every kind, also where a claim stands in the middle."""
    await desk.worker()
    grant = await desk.start()
    answers = await desk.apply(
        create("a"),
        save(grant, "s"),
        Claim("w", fresh_token(), ("d",), ("default",), 1),
        Heartbeat("w"),
        CancelRun("nobody", "q"),
        Settle(grant, DONE),
        create("b"),
        RetryRun("r", "q"),
    )
    kinds = [Created, Saved, Claimed, Beaten, Missing, Settled, Created, Refused]
    assert [type(answer) for answer in answers] == kinds
    assert isinstance(answers[2], Claimed)
    assert ids(answers[2]) == ["a"]


async def test_transitions_on_one_run_take_effect_in_order(desk: Desk):
    """Save, settle, retry, cancel: each sees what the one before it did."""
    await desk.worker()
    grant = await desk.start()
    assert await desk.apply(
        pending(grant, "s"),
        save(grant, "s", tries=2),
        Settle(grant, FAIL),
        save(grant, "late"),
        RetryRun("r", "q1"),
        CancelRun("r", "q2"),
        RetryRun("r", "q3"),
    ) == [
        Saved(due_at=START + SECOND),
        Saved(),
        Settled(Status.FAILED),
        Fenced("r"),
        Controlled(Status.QUEUED),
        Controlled(Status.CANCELLED),
        Controlled(Status.QUEUED),
    ]
    run = await desk.run()
    assert (run.status, run.attempt) == (Status.QUEUED, 3)


async def test_the_control_word_is_heard_within_the_batch(desk: Desk):
    """A save after a cancel carries it, one before does not."""
    await desk.worker()
    grant = await desk.start()
    answers = await desk.apply(save(grant, "a"), CancelRun("r", "q"), save(grant, "b"))
    assert answers == [Saved(), Controlled(Status.RUNNING), Saved(Control.CANCEL)]


async def test_a_refusal_leaves_its_neighbours_alone(desk: Desk):
    """Each transition succeeds or is refused on its own; nothing is rolled back."""
    await desk.worker()
    await desk.end("ended")
    await desk.create("a", "b")
    a, b = (grant_of(given) for given in (await desk.claim()).runs)
    await desk.do(save(a, "s"))
    answers = await desk.apply(
        save(Grant("a", 9, a.token), "x"),
        save(b, "x"),
        CancelRun("ended", "q"),
        create("ended"),
        Settle(Grant("nobody", 1, 1), DONE),
        create("c"),
        CancelRun("nobody", "q"),
        Settle(b, Completed(b"1")),
    )
    assert answers == [
        Fenced("a"),
        Saved(),
        Refused("ended", Status.COMPLETED),
        Exists("ended", same=True),
        Fenced("nobody"),
        Created("c"),
        Missing("nobody"),
        Settled(Status.COMPLETED),
    ]
    statuses = [await desk.status(name) for name in ("a", "b", "c", "ended")]
    assert statuses == [Status.RUNNING, Status.COMPLETED, Status.QUEUED, Status.COMPLETED]
    assert [item.key.path for item in (await desk.history("a")).checkpoints] == ["s"]


async def test_a_conflict_leaves_its_neighbours_alone(desk: Desk):
    """One step that is there already does not keep the others from being recorded."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "old"))
    await desk.settle(grant, Released())
    grant = await desk.claim_one("r")
    answers = await desk.apply(save(grant, "a"), save(grant, "old"), save(grant, "b"))
    assert answers == [Saved(), Conflict("r", "old"), Saved()]
    paths = [item.key.path for item in (await desk.history()).checkpoints]
    assert paths == ["old", "a", "b"]


async def test_many_runs_are_written_in_one_batch(desk: Desk):
    """Five hundred runs live through a batch each of creating, saving and settling."""
    await desk.worker()
    names = [f"r{n}" for n in range(500)]
    assert await desk.apply(*map(create, names)) == [Created(name) for name in names]
    grants = [grant_of(given) for given in (await desk.claim(1_000)).runs]
    assert [grant.run_id for grant in grants] == names
    assert await desk.apply(*(save(grant) for grant in grants)) == [Saved()] * 500
    settles = [Settle(grant, DONE) for grant in grants]
    assert await desk.apply(*settles) == [Settled(Status.COMPLETED)] * 500


async def test_the_same_batch_again_is_answered_alike(desk: Desk):
    """After an unknown outcome the whole batch is applied again: nothing happens twice."""
    await desk.worker()
    await desk.create("a", "b")
    a, b = (grant_of(given) for given in (await desk.claim()).runs)
    batch = [
        create("c"),
        save(a, "s"),
        pending(b, "s"),
        Settle(a, Suspended((child("never"),))),
        CancelRun("b", "q"),
        Settle(b, DONE),
        Claim("w", fresh_token(), ("d",), ("default",), 10),
    ]
    first = await desk.apply(*batch)
    before = await desk.snapshot()
    desk.clock.advance(SECOND // 2)
    again = await desk.apply(*batch)
    assert await desk.snapshot() == before
    assert isinstance(first[-1], Claimed)
    assert isinstance(again[-1], Claimed)
    assert ids(again[-1]) == ids(first[-1]) == ["c"]
    # What the run has become since is told by the later answers of the first time.
    assert again[:4] == first[:4]
    assert again[4:6] == [Controlled(Status.CANCELLED), Settled(Status.CANCELLED)]


async def test_the_same_transition_twice_in_a_batch_happens_once(desk: Desk):
    """Repetitions beside the original find it."""
    await desk.worker()
    grant = await desk.start()
    once = [
        create("a"),
        save(grant, "s"),
        pending(grant, "p"),
        Settle(grant, DONE),
    ]
    twice = [transition for transition in once for _ in range(2)]
    answers = await desk.apply(*twice)
    assert answers[::2] == answers[1::2]
    assert len((await desk.history()).checkpoints) == 2


async def test_a_parent_woken_in_a_batch_is_seen_by_what_follows(desk: Desk):
    """The end of a child and the cancel of its woken parent fit in one batch."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("child"))
    grant = await desk.start("child")
    assert await desk.apply(Settle(grant, DONE), CancelRun("parent", "q")) == [
        Settled(Status.COMPLETED),
        Controlled(Status.CANCELLED),
    ]


async def test_the_last_two_children_may_end_in_one_batch(desk: Desk):
    """A join whose children end together is fulfilled once."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("a"), child("b"))
    await desk.create("a", "b")
    a, b = (grant_of(given) for given in (await desk.claim()).runs)
    await desk.apply(Settle(a, DONE), Settle(b, DONE))
    assert ids(await desk.claim()) == ["parent"]


async def test_parent_and_child_may_settle_in_one_batch(desk: Desk):
    """Whichever comes first, the parent is woken."""
    await desk.worker()
    for order in (1, -1):
        parent = await desk.start(f"parent{order}")
        last = await desk.start(f"child{order}")
        suspends = Settle(parent, Suspended((child(last.run_id),)))
        await desk.apply(*[suspends, Settle(last, DONE)][::order])
        assert await desk.status(parent.run_id) is Status.QUEUED
        await desk.settle(await desk.claim_one(parent.run_id))


async def test_a_worker_may_come_and_go_in_a_batch(desk: Desk):
    """Registration counts for the claim of its batch, and a rescue takes the worker away."""
    await desk.create("r")
    registered, claimed = await desk.apply(
        register("v"), Claim("v", fresh_token(), ("d",), ("default",), 1)
    )
    assert registered == Beaten(known=True, beat=0, held=0)
    assert isinstance(claimed, Claimed)
    assert ids(claimed) == ["r"]
    answers = await desk.apply(
        Claim("v", fresh_token(), ("d",), ("default",), 1),
        RescueWorker("v", None, 10, CRASH),
        RetireWorker("v"),
    )
    assert isinstance(answers[0], Claimed)
    assert not answers[0].known
    assert answers[1:] == [Rescued(("r",)), Rescued()]
