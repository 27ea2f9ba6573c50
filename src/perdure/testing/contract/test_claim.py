"""Claim: what is given to whom, in which order, and when waiting runs become due."""

import pytest

from perdure.model.records import Rank, Status
from perdure.model.transitions import (
    Claim,
    Claimed,
    CreateRun,
    Mismatched,
    Released,
    Retrying,
    Settle,
)
from perdure.testing.contract.desk import (
    DONE,
    SECOND,
    START,
    Desk,
    child,
    fresh_token,
    grant_of,
    ids,
    save,
    timer,
)


async def test_a_claimed_run_is_running_under_the_claim(desk: Desk, clock):
    """The record that is given names worker, token, epoch and instant, and is what is stored."""
    await desk.worker()
    await desk.create("r")
    clock.advance(SECOND)
    claimed = await desk.claim(token=2**63 - 1)
    run = claimed.runs[0].run
    assert (run.status, run.worker_id, run.grant, run.epoch) == (
        Status.RUNNING,
        "w",
        2**63 - 1,
        1,
    )
    assert (run.claimed_at, run.started_at, claimed.now) == (START + SECOND,) * 3
    assert await desk.run() == run


async def test_each_claim_raises_the_epoch(desk: Desk, clock):
    """The epoch rises with every claim, `started_at` stays that of the first."""
    await desk.worker()
    grant = await desk.start()
    clock.advance(SECOND)
    await desk.settle(grant, Released())
    again = await desk.claim_one("r")
    run = await desk.run()
    assert (again.epoch, run.epoch) == (2, 2)
    assert (run.started_at, run.claimed_at) == (START, START + SECOND)


async def test_smaller_priorities_go_first_then_age(desk: Desk):
    """Among fresh runs priority decides, negative ones too, and age among equals."""
    await desk.worker()
    await desk.create("old", "older", priority=5)
    await desk.create("urgent", priority=-1)
    await desk.create("middle-1", "middle-2", priority=0)
    assert ids(await desk.claim()) == ["urgent", "middle-1", "middle-2", "old", "older"]


async def test_resumed_runs_go_before_fresh_ones(desk: Desk):
    """Rank decides before priority and age."""
    await desk.worker()
    grant = await desk.start("resumed", priority=9)
    await desk.create("fresh", priority=-9)
    await desk.settle(grant, Released())
    claimed = await desk.claim()
    assert ids(claimed) == ["resumed", "fresh"]
    assert [given.run.rank for given in claimed.runs] == [Rank.RESUMED, Rank.FRESH]


async def test_the_order_holds_across_definitions_and_queues(desk: Desk):
    """Rank, priority and age are compared over everything named, not one lane after another."""
    await desk.worker()
    for name, definition, queue, priority in [
        ("1", "a", "x", 2),
        ("2", "b", "y", 1),
        ("3", "a", "y", 1),
        ("4", "b", "x", 0),
        ("5", "a", "x", 1),
        ("6", "b", "y", 2),
    ]:
        await desk.create(name, definition=definition, queue=queue, priority=priority)
    named = {"definitions": ("b", "a"), "queues": ("y", "x")}
    assert ids(await desk.claim(2, **named)) == ["4", "2"]
    assert ids(await desk.claim(2, **named)) == ["3", "5"]
    assert ids(await desk.claim(9, **named)) == ["1", "6"]


async def test_only_named_definitions_and_queues_are_taken(desk: Desk):
    """A run is given only where both its definition and its queue are named, exactly."""
    await desk.worker()
    await desk.create("dq", queue="q")
    await desk.create("dp", queue="p")
    await desk.create("eq", definition="e", queue="q")
    await desk.create("Dq", definition="D", queue="q")
    assert ids(await desk.claim(definitions=("d",), queues=("q",))) == ["dq"]
    assert ids(await desk.claim(definitions=("d", "nobody"), queues=("Q", "default"))) == []
    assert ids(await desk.claim(definitions=(), queues=("q",))) == []
    assert ids(await desk.claim(definitions=("e",), queues=())) == []
    assert ids(await desk.claim(definitions=("e", "e"), queues=("q", "q"))) == ["eq"]


async def test_the_limit_is_kept(desk: Desk):
    """At most `limit` runs are given; zero gives none and leaves them queued."""
    await desk.worker()
    await desk.create("a", "b", "c")
    assert ids(await desk.claim(0)) == []
    assert ids(await desk.claim(2)) == ["a", "b"]
    assert ids(await desk.claim(2)) == ["c"]
    assert ids(await desk.claim(2)) == []


@pytest.mark.parametrize("status", [*Status])
async def test_only_queued_runs_are_given(desk: Desk, status: Status):
    """A run in any other status is not claimable."""
    await desk.worker()
    match status:
        case Status.QUEUED:
            await desk.create("r")
        case Status.RUNNING:
            await desk.start()
        case Status.WAITING:
            await desk.create("r", delay=1)
        case Status.PAUSED:
            await desk.end("r", Mismatched(b"{}", "1"))
        case Status.COMPLETED:
            await desk.end("r")
        case Status.FAILED:
            await desk.create("r")
            await desk.crash("r", times=10)
        case Status.CANCELLED:
            await desk.create("r")
            await desk.cancel("r")
    assert await desk.status() is status
    assert ids(await desk.claim(suspects=True)) == (["r"] if status is Status.QUEUED else [])


async def test_an_unregistered_worker_is_given_nothing(desk: Desk):
    """It is told that it is not known, and nothing changes."""
    await desk.create("r")
    before = await desk.snapshot()
    claimed = await desk.claim(worker_id="stranger")
    assert (claimed.known, claimed.runs) == (False, ())
    assert await desk.snapshot() == before
    await desk.worker()
    assert (await desk.claim()).known


async def test_a_rescued_worker_is_given_nothing(desk: Desk):
    """A worker that was found dead must register again before it works."""
    await desk.worker()
    await desk.rescue("w")
    await desk.create("r")
    assert not (await desk.claim()).known
    assert await desk.status() is Status.QUEUED


# --- the same claim again ------------------------------------------------------------------------


async def test_the_same_claim_again_gives_the_same_runs(desk: Desk):
    """A repeated token answers what it gave, in the same order, and takes nothing more."""
    await desk.worker()
    await desk.create("a", "b", "c", "e")
    first = await desk.claim(2, token=77)
    before = await desk.snapshot()
    again = await desk.claim(2, token=77)
    assert ids(again) == ids(first) == ["a", "b"]
    assert [grant_of(run) for run in again.runs] == [grant_of(run) for run in first.runs]
    assert await desk.snapshot() == before


async def test_a_repeated_claim_keeps_the_order_of_fresh_ones_first(desk: Desk):
    """A run that goes on stays behind those that were never claimed before."""
    await desk.worker()
    await desk.suspend(await desk.start("old"), timer(START + SECOND))
    await desk.create("new")
    desk.clock.advance(SECOND)
    first = await desk.claim(2, token=77, fresh_first=True)
    again = await desk.claim(2, token=77, fresh_first=True)
    assert ids(again) == ids(first) == ["new", "old"]


async def test_a_repeated_claim_answers_only_what_still_runs_under_it(desk: Desk):
    """What it gave and what was settled since is not given again."""
    await desk.worker()
    await desk.create("a", "b", "c")
    first = await desk.claim(2, token=77)
    await desk.settle(grant_of(first.runs[0]))
    assert ids(await desk.claim(2, token=77)) == ["b"]
    assert await desk.status("c") is Status.QUEUED


async def test_a_repeated_claim_brings_the_checkpoints_written_since(desk: Desk):
    """The answer to an unknown claim has all that is needed to execute."""
    await desk.worker()
    await desk.create("r")
    grant = grant_of((await desk.claim(token=77)).runs[0])
    await desk.do(save(grant))
    [again] = (await desk.claim(token=77)).runs
    assert [checkpoint.key.path for checkpoint in again.checkpoints] == ["s"]


async def test_a_token_means_nothing_to_another_worker(desk: Desk):
    """A token that two workers drew gives each its own runs."""
    await desk.worker("w")
    await desk.worker("v")
    await desk.create("a", "b")
    assert ids(await desk.claim(1, worker_id="w", token=77)) == ["a"]
    assert ids(await desk.claim(1, worker_id="v", token=77)) == ["b"]
    assert ids(await desk.claim(1, worker_id="w", token=77)) == ["a"]


# --- due times ---------------------------------------------------------------------------------


async def test_a_delay_is_never_early(desk: Desk, clock):
    """One microsecond before its time the run is not given; at its time it is, as a fresh one."""
    await desk.worker()
    await desk.create("r", delay=SECOND)
    clock.advance(SECOND - 1)
    assert ids(await desk.claim()) == []
    assert await desk.status() is Status.WAITING
    clock.advance(1)
    [given] = (await desk.claim()).runs
    assert (given.run.rank, given.run.due_at, given.run.waiting_for) == (Rank.FRESH, None, None)


async def test_a_retry_is_never_early(desk: Desk, clock):
    """The next attempt is given when its delay has passed, before fresh runs."""
    await desk.worker()
    grant = await desk.start()
    await desk.settle(grant, Retrying(b"{}", SECOND))
    await desk.create("fresh")
    clock.advance(SECOND - 1)
    assert ids(await desk.claim(0)) == []
    assert await desk.status() is Status.WAITING
    clock.advance(1)
    claimed = await desk.claim()
    assert ids(claimed) == ["r", "fresh"]
    assert (claimed.runs[0].run.rank, claimed.runs[0].run.attempt) == (Rank.RESUMED, 2)


async def test_a_claim_makes_every_due_run_claimable(desk: Desk, clock):
    """Also runs of other definitions, or over the limit, become queued when their time has come."""
    await desk.worker()
    await desk.create("a", "b", delay=SECOND)
    await desk.create("other", definition="other", delay=SECOND)
    await desk.create("later", delay=2 * SECOND)
    clock.advance(SECOND)
    assert ids(await desk.claim(1)) == ["a"]
    statuses = [await desk.status(run_id) for run_id in ("b", "other", "later")]
    assert statuses == [Status.QUEUED, Status.QUEUED, Status.WAITING]


async def test_the_next_due_time_is_that_of_any_waiting_run(desk: Desk, clock):
    """It is the earliest, whatever the definition; runs no longer waiting do not count."""
    await desk.worker()
    assert (await desk.claim()).next_due_at is None
    await desk.create("late", delay=3 * SECOND)
    await desk.create("soon", definition="other", delay=SECOND)
    await desk.create("gone", delay=SECOND // 2)
    await desk.cancel("gone")
    assert (await desk.claim()).next_due_at == START + SECOND
    clock.advance(SECOND)
    assert (await desk.claim()).next_due_at == START + 3 * SECOND
    clock.advance(2 * SECOND)
    assert (await desk.claim()).next_due_at is None


async def test_a_clock_that_steps_back_loses_nothing(desk: Desk, clock):
    """A run that was due before the step becomes due again."""
    await desk.worker()
    await desk.create("r", delay=SECOND)
    clock.advance(-3600 * SECOND)
    assert ids(await desk.claim()) == []
    clock.advance(3601 * SECOND)
    assert ids(await desk.claim()) == ["r"]


# --- suspects ------------------------------------------------------------------------------------


async def test_suspects_are_taken_only_when_asked_for(desk: Desk):
    """A run that crashed twice is left to a claim that asks, and its presence is announced."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=2)
    assert (await desk.run()).rank is Rank.SUSPECT
    claimed = await desk.claim()
    assert (ids(claimed), claimed.suspects) == ([], True)
    claimed = await desk.claim(suspects=True)
    assert (ids(claimed), claimed.suspects) == (["r"], False)


async def test_a_suspect_is_taken_alone_and_first(desk: Desk):
    """A claim that asks for suspects takes the oldest of them and nothing else."""
    await desk.worker()
    for run_id, definition in (("s1", "d"), ("s2", "e")):
        await desk.create(run_id, definition=definition)
        await desk.crash(run_id, times=2, definitions=(definition,))
    await desk.create("fresh", priority=-100)
    claims = [await desk.claim(definitions=("e", "d"), suspects=True) for _ in range(4)]
    assert [ids(claimed) for claimed in claims] == [["s1"], ["s2"], ["fresh"], []]
    assert [claimed.suspects for claimed in claims] == [True, False, False, False]


async def test_asking_for_suspects_gives_others_where_there_is_none(desk: Desk):
    """Without a suspect the claim is as any other."""
    await desk.worker()
    await desk.create("a", "b")
    assert ids(await desk.claim(suspects=True)) == ["a", "b"]


async def test_only_suspects_that_the_worker_could_take_are_announced(desk: Desk):
    """A suspect of another definition or queue is neither given nor announced."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=2)
    for named in ({"definitions": ("other",)}, {"queues": ("other",)}):
        claimed = await desk.claim(suspects=True, **named)
        assert (ids(claimed), claimed.suspects) == ([], False)
    assert (await desk.claim()).suspects


async def test_a_delayed_suspect_is_still_a_suspect(desk: Desk, clock):
    """A crashed run given back stays a suspect until an orderly end."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=2)
    grant = await desk.claim_one("r", suspects=True)
    assert await desk.settle(grant, Retrying(b"{}", SECOND)) is Status.WAITING
    clock.advance(SECOND)
    [given] = (await desk.claim()).runs
    assert (given.run.rank, given.run.crashes) == (Rank.RESUMED, 0)


# --- what a claimed run brings -------------------------------------------------------------------


async def test_a_fresh_run_brings_neither_checkpoints_nor_endings(desk: Desk):
    """A run that was never claimed before has nothing to replay."""
    await desk.worker()
    await desk.create("r")
    [given] = (await desk.claim()).runs
    assert (given.checkpoints, given.endings) == ((), ())


async def test_a_claimed_run_brings_its_own_checkpoints(desk: Desk):
    """Exactly the run's, in the order first recorded, whatever ids are prefixes of its own."""
    await desk.worker()
    names = ["r", "r1", "r10", "R", "r%", "r_"]
    await desk.create(*names)
    grants = {given.run.run_id: grant_of(given) for given in (await desk.claim()).runs}
    for path in ("b", "a", "c"):
        await desk.apply(*(save(grants[name], f"{name}/{path}") for name in names))
    await desk.apply(*(Settle(grants[name], Released()) for name in names))
    for given in (await desk.claim()).runs:
        name = given.run.run_id
        paths = [checkpoint.key.path for checkpoint in given.checkpoints]
        assert paths == [f"{name}/b", f"{name}/a", f"{name}/c"]


async def test_a_claimed_run_brings_how_its_children_ended(desk: Desk):
    """The endings are those of the terminal runs among those that its wait rows name."""
    await desk.worker()
    parent = await desk.start("parent")
    await desk.end("done")
    await desk.end("not-named")
    await desk.create("open", definition="other")
    await desk.suspend(parent, child("open", join=1), child("done", join=2), child("never", join=3))
    [given] = (await desk.claim()).runs
    assert given.run.run_id == "parent"
    [ending] = given.endings
    assert (ending.run_id, ending.status, ending.result) == (
        "done",
        Status.COMPLETED,
        DONE.result,
    )


# --- in a batch --------------------------------------------------------------------------------


async def test_a_claim_takes_effect_after_the_rest_of_its_batch(desk: Desk):
    """Wherever it stands, it sees what the batch created and settled, and answers in its place."""
    await desk.worker()
    grant = await desk.start("first")
    claim = Claim("w", fresh_token(), ("d",), ("default",), 10)
    answers = await desk.apply(
        claim,
        Settle(grant, Released()),
        CreateRun("second", "d", b"1", fresh_token()),
    )
    assert isinstance(answers[0], Claimed)
    assert ids(answers[0]) == ["first", "second"]


async def test_a_claim_sees_the_parent_that_its_batch_woke(desk: Desk):
    """The last child and its parent change places in one round trip."""
    await desk.worker()
    parent = await desk.start("parent")
    await desk.suspend(parent, child("child"))
    grant = await desk.start("child")
    _, claimed = await desk.apply(
        Settle(grant, DONE), Claim("w", fresh_token(), ("d",), ("default",), 1)
    )
    assert isinstance(claimed, Claimed)
    assert ids(claimed) == ["parent"]
    assert [ending.run_id for ending in claimed.runs[0].endings] == ["child"]
