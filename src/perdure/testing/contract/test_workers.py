"""Workers: announce, beat, retire, be rescued; what becomes of what they held."""

import pytest
from msgspec.structs import replace

from perdure.model.records import Attempt, Control, Grant, Rank, Status, WorkerRecord
from perdure.model.transitions import (
    Beaten,
    CreateRun,
    Fenced,
    GiveBack,
    Heartbeat,
    Mismatched,
    Rescued,
    RescueWorker,
    RetireWorker,
    Settle,
)
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
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

# --- register ----------------------------------------------------------------------------------


async def test_a_worker_is_registered_with_what_it_told(desk: Desk):
    """The record holds everything, with beat 0 at the store's time."""
    announced = replace(
        register("w'é", {"é'": "v'1", "d": ""}, ("default", "q'")),
        host="h",
        pid=2**31 + 1,
        lease=60 * SECOND,
        heartbeat=1,
    )
    assert await desk.do(announced) == Beaten(known=True, beat=0, held=0)
    assert await desk.store.workers() == [
        WorkerRecord(
            worker_id="w'é",
            host="h",
            pid=2**31 + 1,
            definitions={"é'": "v'1", "d": ""},
            queues=("default", "q'"),
            slots=8,
            started_at=START,
            beat_at=START,
            beat=0,
            lease=60 * SECOND,
            heartbeat=1,
        )
    ]


async def test_workers_are_listed_in_the_order_of_registration(desk: Desk):
    """Beats do not reorder them, and one that registers anew comes last."""
    await desk.apply(register("c"), register("a"), register("b"))
    await desk.apply(Heartbeat("b"), RetireWorker("c"), register("c"))
    assert [worker.worker_id for worker in await desk.store.workers()] == ["a", "b", "c"]


async def test_the_same_registration_again_changes_nothing(desk: Desk, clock):
    """Its beat stands, and the answer says how it stands now."""
    await desk.worker()
    await desk.start()
    await desk.do(Heartbeat("w"))
    before = await desk.snapshot()
    clock.advance(5)
    assert await desk.do(register()) == Beaten(known=True, beat=1, held=1)
    assert await desk.snapshot() == before


# --- heartbeat ---------------------------------------------------------------------------------


async def test_a_heartbeat_raises_the_beat(desk: Desk, clock):
    """Each one by one, of its worker alone, at the store's time."""
    await desk.apply(register("w"), register("v"))
    clock.advance(5)
    assert await desk.do(Heartbeat("w")) == Beaten(known=True, beat=1, held=0)
    assert await desk.apply(Heartbeat("w"), Heartbeat("w")) == [
        Beaten(known=True, beat=2, held=0),
        Beaten(known=True, beat=3, held=0),
    ]
    w, v = await desk.store.workers()
    assert (w.beat, w.beat_at, w.started_at) == (3, START + 5, START)
    assert (v.beat, v.beat_at) == (0, START)


async def test_a_heartbeat_of_nobody_registers_nobody(desk: Desk):
    """A worker that is not known is told so, and stays unknown."""
    outcome = await desk.do(Heartbeat("w"))
    assert isinstance(outcome, Beaten)
    assert (outcome.known, outcome.held, outcome.controls) == (False, 0, ())
    assert await desk.store.workers() == []


async def test_a_heartbeat_after_the_rescue_does_not_revive(desk: Desk):
    """A worker that wakes too late learns that it is known no more."""
    await desk.worker()
    await desk.do(Heartbeat("w"))
    await desk.rescue("w")
    assert not (await desk.do(Heartbeat("w"))).known
    assert await desk.store.workers() == []


async def test_a_heartbeat_tells_what_is_held_and_whose_word_is_set(desk: Desk):
    """The count and the control words are of this worker's running runs only."""
    await desk.apply(register("w"), register("v"))
    await desk.create("a", "b", "c")
    claimed = await desk.claim()
    await desk.create("others")
    await desk.claim_one("others", worker_id="v")
    await desk.cancel("c")
    await desk.cancel("others")
    await desk.settle(grant_of(claimed.runs[0]))
    assert await desk.do(Heartbeat("w")) == Beaten(
        known=True, beat=1, held=2, controls=(("c", Control.CANCEL),)
    )


# --- retire ------------------------------------------------------------------------------------


async def test_a_retired_worker_gives_everything_back(desk: Desk):
    """What it held is claimable at once, resumed, in the order of age; the worker is gone."""
    await desk.apply(register("w"), register("v"))
    await desk.create("c", "a", "b")
    await desk.claim()
    await desk.create("fresh")
    assert await desk.do(RetireWorker("w")) == Rescued(("c", "a", "b"))
    assert [worker.worker_id for worker in await desk.store.workers()] == ["v"]
    history = await desk.history("a")
    run = history.run
    assert (run.status, run.rank, run.crashes, run.attempt) == (
        Status.QUEUED,
        Rank.RESUMED,
        0,
        1,
    )
    assert (history.attempts, run.worker_id) == ((), "w")
    assert ids(await desk.claim(worker_id="v")) == ["c", "a", "b", "fresh"]


async def test_retiring_again_changes_nothing(desk: Desk):
    """Also a worker that was never registered retires without effect."""
    await desk.worker()
    await desk.start()
    await desk.do(RetireWorker("w"))
    before = await desk.snapshot()
    assert await desk.apply(RetireWorker("w"), RetireWorker("nobody")) == [Rescued(), Rescued()]
    assert await desk.snapshot() == before


async def test_a_suspect_stays_one_when_its_worker_retires(desk: Desk):
    """An orderly stop says nothing about whether the run is a culprit."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=2)
    await desk.claim_one("r", suspects=True)
    await desk.do(RetireWorker("w"))
    run = await desk.run()
    assert (run.rank, run.crashes) == (Rank.SUSPECT, 2)


async def test_a_retired_workers_runs_keep_their_waits(desk: Desk):
    """Whoever continues is given the same endings."""
    await desk.worker()
    await desk.end("child")
    await desk.suspend(await desk.start("parent"), child("child"))
    await desk.claim_one("parent")
    await desk.do(RetireWorker("w"))
    await desk.worker("v")
    [given] = (await desk.claim(worker_id="v")).runs
    assert [ending.run_id for ending in given.endings] == ["child"]


# --- rescue ------------------------------------------------------------------------------------


async def test_a_dead_workers_runs_are_given_back(desk: Desk, clock):
    """Queued again, counted as a crash, with an attempt row as evidence; the worker is gone."""
    await desk.apply(register("w"), register("v"))
    await desk.create("b", "a")
    await desk.claim()
    clock.advance(5)
    assert await desk.do(RescueWorker("w", 0, 10, CRASH)) == Rescued(("b", "a"))
    assert [worker.worker_id for worker in await desk.store.workers()] == ["v"]
    history = await desk.history("a")
    run = history.run
    assert (run.status, run.rank, run.crashes, run.attempt) == (
        Status.QUEUED,
        Rank.RESUMED,
        1,
        1,
    )
    assert (run.error, run.reason, run.finished_at) == (None, None, None)
    assert history.attempts == (Attempt(1, 1, "w", START, START + 5, "crashed", CRASH, None),)


async def test_a_worker_whose_beat_rose_is_not_rescued(desk: Desk):
    """The beat that the rescuer saw is compared; a lower and a higher one are refused alike."""
    await desk.worker()
    await desk.start()
    await desk.do(Heartbeat("w"))
    before = await desk.snapshot()
    assert await desk.rescue(beat=0) == Rescued()
    assert await desk.rescue(beat=2) == Rescued()
    assert await desk.snapshot() == before
    assert await desk.rescue(beat=1) == Rescued(("r",))


async def test_a_worker_known_to_be_dead_is_rescued_whatever_its_beat(desk: Desk):
    """Without a beat nothing is compared."""
    await desk.worker()
    await desk.start()
    await desk.do(Heartbeat("w"))
    assert await desk.rescue(beat=None) == Rescued(("r",))


async def test_rescuing_again_changes_nothing(desk: Desk):
    """Two rescuers that saw the same beat count one crash."""
    await desk.worker()
    await desk.start()
    rescue = RescueWorker("w", 0, 10, CRASH)
    assert await desk.apply(rescue, rescue) == [Rescued(("r",)), Rescued()]
    before = await desk.snapshot()
    assert await desk.do(rescue) == Rescued()
    assert await desk.do(RescueWorker("nobody", None, 10, CRASH)) == Rescued()
    assert await desk.snapshot() == before
    assert (await desk.run()).crashes == 1


async def test_only_the_dead_workers_runs_are_given_back(desk: Desk):
    """Ids that are prefixes of the dead worker's, and runs it held before, are left alone."""
    await desk.apply(register("w"), register("w1"), register("W"))
    await desk.create("settled")
    await desk.settle(await desk.claim_one("settled"))
    await desk.create("a")
    await desk.claim_one("a", worker_id="w1")
    await desk.create("b")
    await desk.claim_one("b", worker_id="W")
    assert await desk.rescue("w") == Rescued()
    assert [await desk.status(name) for name in ("a", "b")] == [Status.RUNNING] * 2


@pytest.mark.parametrize("write", ["final", "pending"])
async def test_a_checkpoint_is_progress(desk: Desk, write: str):
    """A crash after a checkpoint was written starts the count anew."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=3)
    grant = await desk.claim_one("r", suspects=True)
    await desk.do(save(grant) if write == "final" else pending(grant))
    await desk.rescue()
    run = await desk.run()
    assert (run.crashes, run.rank, run.status) == (0, Rank.RESUMED, Status.QUEUED)


async def test_a_checkpoint_of_an_earlier_claim_is_no_progress(desk: Desk):
    """Only what was written under the claim that crashed counts."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant))
    await desk.rescue()
    assert (await desk.run()).crashes == 0
    await desk.crash("r", times=2)
    run = await desk.run()
    assert (run.crashes, run.rank) == (2, Rank.SUSPECT)


async def test_the_crash_cap_is_exact(desk: Desk, clock):
    """After nine crashes in a row the run is still claimed; the tenth ends it, with evidence."""
    await desk.worker()
    await desk.suspend(await desk.start("parent"), child("r"))
    await desk.create("r")
    ranks = []
    for _ in range(9):
        await desk.crash("r")
        ranks.append((await desk.run()).rank)
    assert ranks == [Rank.RESUMED] + [Rank.SUSPECT] * 8
    await desk.worker("victim")
    await desk.claim_one("r", worker_id="victim", suspects=True)
    clock.advance(5)
    assert await desk.rescue("victim") == Rescued((), ("r",))
    history = await desk.history()
    run = history.run
    assert (run.status, run.reason, run.error) == (Status.FAILED, "crash", CRASH)
    assert (run.crashes, run.finished_at, run.attempt) == (10, START + 5, 1)
    assert [attempt.outcome for attempt in history.attempts] == ["crashed"] * 10
    assert [attempt.epoch for attempt in history.attempts] == list(range(1, 11))
    assert await desk.status("parent") is Status.QUEUED


async def test_progress_in_between_puts_the_cap_off(desk: Desk):
    """Ten crashes that are not in a row end nothing."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=9)
    await desk.do(save(await desk.claim_one("r", suspects=True)))
    await desk.rescue()
    await desk.worker()
    await desk.crash("r", times=9)
    assert await desk.status() is Status.QUEUED
    await desk.crash("r")
    assert (await desk.run()).reason == "crash"


async def test_one_rescue_ends_some_and_queues_others(desk: Desk):
    """Each run is judged by its own record; the answer names both kinds in the order of age."""
    await desk.worker()
    await desk.create("capped")
    await desk.crash("capped", times=9)
    await desk.claim_one("capped", suspects=True)
    await desk.create("first", "cancelled", "second")
    await desk.claim()
    await desk.cancel("cancelled")
    assert await desk.rescue() == Rescued(("first", "second"), ("capped", "cancelled"))


@pytest.mark.parametrize(
    "taken_back",
    [RescueWorker("w", None, 10, CRASH), RetireWorker("w"), GiveBack("w", ())],
    ids=lambda transition: type(transition).__name__,
)
async def test_whoever_was_taken_its_run_is_fenced_everywhere(desk: Desk, taken_back):
    """It can neither save, settle nor create, before and after the run is claimed again."""
    await desk.apply(register("w"), register("v"))
    grant = await desk.start()
    await desk.do(taken_back)
    late = [save(grant), Settle(grant, DONE), CreateRun("x", "d", b"", fresh_token(), by=grant)]
    assert await desk.apply(*late) == [Fenced("r")] * 3
    current = await desk.claim_one("r", worker_id="v")
    assert await desk.apply(*late) == [Fenced("r")] * 3
    assert await desk.settle(current) is Status.COMPLETED
    assert await desk.apply(*late) == [Fenced("r")] * 3


# --- give back ---------------------------------------------------------------------------------


async def test_what_a_worker_does_not_know_of_is_given_back(desk: Desk):
    """Runs of a claim whose answer was lost are claimable again, the others run on."""
    await desk.worker()
    await desk.create("a", "b", "c")
    grants = [grant_of(given) for given in (await desk.claim()).runs]
    held = tuple((grant.run_id, grant.epoch) for grant in grants)
    assert await desk.do(GiveBack("w", held)) == Rescued()
    assert await desk.do(GiveBack("w", held[1:2])) == Rescued(("a", "c"))
    statuses = [await desk.status(name) for name in "abc"]
    assert statuses == [Status.QUEUED, Status.RUNNING, Status.QUEUED]
    run = await desk.run("a")
    assert (run.rank, run.crashes, run.attempt) == (Rank.RESUMED, 0, 1)
    assert await desk.do(save(grants[0])) == Fenced("a")
    assert ids(await desk.claim()) == ["a", "c"]


async def test_giving_back_again_changes_nothing(desk: Desk):
    """There is nothing left that the worker does not know of."""
    await desk.worker()
    await desk.create("a", "b")
    grants = [grant_of(given) for given in (await desk.claim()).runs]
    give_back = GiveBack("w", ((grants[0].run_id, grants[0].epoch),))
    assert await desk.apply(give_back, give_back) == [Rescued(("b",)), Rescued()]


async def test_an_older_epoch_is_not_held(desk: Desk):
    """A worker that knows the run of an earlier claim does not know of this one."""
    await desk.worker()
    grant = await desk.start()
    for epoch in (grant.epoch + 1, grant.epoch - 1):
        assert await desk.do(GiveBack("w", (("r", epoch),))) == Rescued(("r",))
        grant = await desk.claim_one("r")


async def test_only_the_workers_own_runs_are_given_back(desk: Desk):
    """Another worker's runs are none of its business, and a stranger's are none."""
    await desk.apply(register("w"), register("v"))
    await desk.start()
    before = await desk.snapshot()
    assert await desk.apply(GiveBack("v", ()), GiveBack("nobody", ())) == [Rescued(), Rescued()]
    assert await desk.snapshot() == before


# --- another chance for mismatches ---------------------------------------------------------------


async def _mismatch(desk: Desk, run_id: str, definition: str, version: str) -> Grant:
    await desk.create(run_id, definition=definition)
    grant = await desk.claim_one(run_id, definitions=(definition,))
    await desk.settle(grant, Mismatched(b"{}", version))
    return grant


async def test_a_claim_by_another_version_gives_a_mismatch_another_chance(desk: Desk):
    """The run is given as resumed, without the reason and error of its pause."""
    await desk.worker()
    await _mismatch(desk, "r", "d", "1")
    await desk.do(register("v", {"d": "2"}))
    assert await desk.status("r") is Status.PAUSED
    [claimed] = (await desk.claim(worker_id="v")).runs
    run = claimed.run
    assert (run.status, run.rank, run.attempt) == (Status.RUNNING, Rank.RESUMED, 1)
    assert (run.reason, run.error, run.misfits) == (None, None, ("1",))


async def test_a_worker_that_was_there_before_gives_a_mismatch_another_chance(desk: Desk):
    """A live worker with the older code takes what the newer code paused."""
    await desk.worker("v", {"d": "2"})
    await desk.worker()
    await _mismatch(desk, "r", "d", "1")
    assert ids(await desk.claim()) == []
    assert ids(await desk.claim(worker_id="v")) == ["r"]


async def test_the_versions_that_did_not_fit_give_no_other_chance(desk: Desk):
    """All of them are kept: two versions that do not fit do not pass the run to and fro."""
    await desk.worker()
    await _mismatch(desk, "r", "d", "1")
    await desk.worker("v", {"d": "2"})
    grant = grant_of((await desk.claim(worker_id="v")).runs[0].run)
    await desk.settle(grant, Mismatched(b"{}", "2"))
    assert (await desk.run()).misfits == ("1", "2")
    await desk.worker("w2", {"d": "1"})
    await desk.worker("none", {"e": "3", "D": "3"})
    before = await desk.history()
    for worker_id in ("w", "w2", "v", "none"):
        answer = await desk.claim(worker_id=worker_id, definitions=("d", "e", "D"))
        assert ids(answer) == []
    assert await desk.history() == before
    await desk.worker("mended", {"d": "3"})
    assert ids(await desk.claim(worker_id="mended")) == ["r"]


async def test_a_version_did_not_fit_only_once(desk: Desk):
    """The same version failing again is kept once; the run stays paused for it."""
    await desk.worker()
    await _mismatch(desk, "r", "d", "1")
    await desk.worker("v", {"d": "2"})
    grant = grant_of((await desk.claim(worker_id="v")).runs[0].run)
    await desk.settle(grant, Mismatched(b"{}", "1"))
    assert (await desk.run()).misfits == ("1",)


async def test_a_retry_forgets_what_did_not_fit(desk: Desk):
    """A cancelled run that is tried again is anybody's."""
    await desk.worker()
    await _mismatch(desk, "r", "d", "1")
    await desk.cancel("r", "q1")
    await desk.retry("r", "q2")
    assert (await desk.run()).misfits == ()
    assert ids(await desk.claim()) == ["r"]


async def test_only_what_the_worker_may_fit_is_given(desk: Desk):
    """Each paused run is judged by its own definition and versions, and by what is asked for."""
    await desk.worker()
    for run_id, definition, version in [
        ("a", "d", "1"),
        ("b", "d", "2"),
        ("c", "e", "1"),
        ("f", "f", "1"),
    ]:
        await _mismatch(desk, run_id, definition, version)
    await desk.do(register("v", {"d": "2", "e": "2", "f": "2"}))
    assert ids(await desk.claim(worker_id="v", definitions=("d", "e"))) == ["a", "c"]


async def test_a_claim_gives_no_more_mismatches_another_chance_than_it_takes(desk: Desk):
    """What is beyond the limit stays paused, and the oldest come first."""
    await desk.worker()
    for run_id in "abc":
        await _mismatch(desk, run_id, "d", "1")
    await desk.do(register("v", {"d": "2"}))
    assert ids(await desk.claim(worker_id="v", limit=2)) == ["a", "b"]
    assert await desk.status("c") is Status.PAUSED
    assert ids(await desk.claim(worker_id="v", limit=2)) == ["c"]
