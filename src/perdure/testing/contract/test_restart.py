"""RestartRun and ForkRun: a new generation, and a new run, that keep what was recorded before."""

import pytest

from perdure.model import lineage
from perdure.model.events import SendEvent, TakeEvent, Taken
from perdure.model.lifecycle import SUSPECT_AFTER
from perdure.model.records import (
    Attempt,
    Checkpoint,
    Control,
    Rank,
    Status,
    StepKey,
    StepKind,
    StepOutcome,
)
from perdure.model.transitions import (
    Controlled,
    Created,
    CreateRun,
    Exists,
    Fenced,
    ForkRun,
    GiveBack,
    Mismatched,
    Missing,
    PauseRun,
    Refused,
    Released,
    RescueWorker,
    RestartRun,
    RetireWorker,
    Retrying,
    Settle,
    Settled,
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
    key,
    pending,
    save,
    timer,
)


def restart(run_id: str = "r", step: StepKey | None = None) -> RestartRun:
    return RestartRun(run_id, f"request-{fresh_token()}", step)


def fork(
    *,
    run_id: str = "f",
    source: str = "r",
    generation: int = 0,
    before: StepKey | None = None,
    results: tuple[tuple[StepKey, bytes], ...] = (),
) -> ForkRun:
    create = CreateRun(run_id, "d", b'"in"', fresh_token(), caused_by=f"fork:{source}")
    return ForkRun(create, source, generation, before, results)


def paths(records: tuple[Checkpoint, ...], generation: int = 0) -> list[str]:
    """Return the paths of the calls that are recorded in a generation, in order."""
    return [
        record.key.path
        for record in records
        if record.generation == generation and record.kind is not StepKind.ORIGIN
    ]


async def claimed_paths(desk: Desk) -> list[str]:
    """Claim the only claimable run; return what it is given of the calls recorded."""
    [given] = (await desk.claim(suspects=True)).runs
    assert {record.generation for record in given.checkpoints} <= {given.run.generation}
    return paths(given.checkpoints, given.run.generation)


# --- restart -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
async def test_a_run_that_has_ended_begins_again(desk: Desk, clock, how: str):
    """It is queued as one that never failed, in a new generation; its attempt is kept as a row."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"))
    if how == "cancelled":
        await desk.cancel("r")
    await desk.settle(grant, FAIL if how == "failed" else DONE)
    ended = await desk.run()
    clock.advance(5)
    assert await desk.do(restart()) == Controlled(Status.QUEUED)
    run = await desk.run()
    assert (run.status, run.generation, run.attempt, run.rank) == (
        *(Status.QUEUED, 1, 1),
        Rank.RESUMED,
    )
    assert (run.result, run.error, run.reason, run.culprits) == (None, None, None, None)
    assert (run.finished_at, run.started_at, run.created_at) == (None, None, START)
    history = await desk.history()
    assert history.attempts == (Attempt(1, 1, "w", START, START, how, ended.error, None),)
    assert [(entry.action, entry.at) for entry in history.audit][-1:] == [("restart", START + 5)]
    assert paths(history.checkpoints) == ["a"]
    assert await claimed_paths(desk) == []
    assert (await desk.run()).started_at == START + 5


async def test_a_restart_from_a_step_keeps_what_was_recorded_before_it(desk: Desk):
    """Not the step, nothing after it, nothing inside it, and nothing that is pending."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(
        save(grant, "a", value=b"7"),
        save(grant, "b", StepOutcome.ERROR, b'"caught"'),
        pending(grant, "open"),
        save(grant, "c/inside", step=key("c/inside", scope=b"x" * 16)),
        save(grant, "cd"),
        save(grant, "c"),
        save(grant, "d"),
    )
    await desk.settle(grant)
    assert await desk.do(restart(step=key("c"))) == Controlled(Status.QUEUED)
    [given] = (await desk.claim()).runs
    assert paths(given.checkpoints, 1) == ["a", "b", "cd"]
    kept = {record.key.path: record for record in given.checkpoints}
    assert (kept["a"].value, kept["a"].epoch, kept["b"].outcome) == (b"7", 1, StepOutcome.ERROR)
    history = await desk.history()
    assert paths(history.checkpoints) == ["a", "b", "open", "c/inside", "cd", "c", "d"]


async def test_what_was_given_up_after_the_step_is_not_kept(desk: Desk):
    """It lost against the step, which is done again; what was given up before stays given up."""
    await desk.worker()
    grant = await desk.start()

    await desk.apply(
        pending(grant, "early"),
        pending(grant, "late"),
        save(grant, "early", StepOutcome.CANCELLED, ended_at=START + 1),
        save(grant, "won", ended_at=START + 2),
        save(grant, "late", StepOutcome.CANCELLED, ended_at=START + 3),
    )
    await desk.settle(grant)
    await desk.do(restart(step=key("won")))
    [given] = (await desk.claim()).runs
    assert paths(given.checkpoints, 1) == ["early"]
    assert await desk.do(fork(before=key("won"))) == Created("f")
    assert paths((await desk.history("f")).checkpoints) == ["early"]


async def test_what_a_restart_keeps_goes_on_drawing_from_the_same_seed(desk: Desk, clock):
    """The origin says from which, after each restart from a step; one from the start has none."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"))
    clock.advance(5)
    await desk.settle(grant)
    for step, seed in (
        (key("b"), "r\0000"),
        (key("b"), "r\0000"),
        (None, None),
        (key("b"), "r\0003"),
    ):
        await desk.do(restart(step=step))
        clock.advance(5)
        [given] = (await desk.claim()).runs
        origins = [record for record in given.checkpoints if record.kind is StepKind.ORIGIN]
        assert [(record.key, record.value) for record in origins] == (
            [] if seed is None else [(lineage.ORIGIN, seed.encode())]
        )
        began = [record.started_at for record in origins]
        assert began == ([] if seed is None else [START if seed == "r\0000" else START + 20])
        here = grant_of(given)
        await desk.apply(*(save(here, path) for path in ("a", "b")[0 if step is None else 1 :]))
        await desk.settle(here)


async def test_a_step_of_an_earlier_generation_is_not_there(desk: Desk):
    """A restart names what is recorded now, or is refused and changes nothing."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"))
    await desk.settle(grant)
    await desk.do(restart(step=key("b")))
    before = await desk.snapshot()
    outcome = await desk.do(restart(step=key("b")))
    assert isinstance(outcome, Refused)
    assert "not recorded" in outcome.detail
    assert await desk.snapshot() == before


@pytest.mark.parametrize("status", ["delayed", "suspended", "mismatch", "paused", "retrying"])
async def test_a_run_that_nobody_holds_begins_again_at_once(desk: Desk, clock, status: str):
    """Its timers and waits are gone."""
    await desk.worker()
    match status:
        case "delayed":
            await desk.create("r", delay=SECOND)
        case "suspended":
            await desk.suspend(await desk.start(), timer(START + SECOND), child("x"))
        case "mismatch":
            await desk.end("r", Mismatched(b"{}", "1"))
        case "paused":
            await desk.suspend(await desk.start(), timer(START + SECOND))
            await desk.do(PauseRun("r", "q"))
        case "retrying":
            await desk.end("r", Retrying(b'"boom"', SECOND))
    claimed_before = status != "delayed"
    clock.advance(1)
    assert await desk.do(restart()) == Controlled(Status.QUEUED)
    history = await desk.history()
    run = history.run
    assert (run.generation, run.attempt) == (int(claimed_before), 1)
    assert (run.due_at, run.waiting_for, run.reason, run.error) == (None, None, None, None)
    assert (run.misfits, run.paused_at, history.waits) == ((), None, ())
    if claimed_before:
        assert history.attempts[-1].outcome == "restarted"
    else:
        assert history.attempts == ()
    assert ids(await desk.claim()) == ["r"]


@pytest.mark.parametrize(
    "how", ["done", "failed", "suspended", "released", "retired", "given back"]
)
async def test_a_running_run_begins_again_when_its_claim_ends(desk: Desk, how: str):
    """However that ends, the new generation has what was recorded before the step when asked."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"))
    assert await desk.do(restart(step=key("b"))) == Controlled(Status.RUNNING)
    run = await desk.run()
    assert (run.control, run.generation) == (Control.RESTART, 0)
    [saved] = await desk.apply(save(grant, "c"))
    assert saved.control is Control.RESTART  # type: ignore[union-attr]
    match how:
        case "done":
            assert await desk.settle(grant) is Status.QUEUED
        case "failed":
            assert await desk.settle(grant, FAIL) is Status.QUEUED
        case "suspended":
            assert await desk.suspend(grant, timer(START + SECOND)) is Status.QUEUED
        case "released":
            assert await desk.settle(grant, Released()) is Status.QUEUED
        case "retired":
            await desk.do(RetireWorker("w"))
            await desk.worker()
        case "given back":
            await desk.do(GiveBack("w", ()))
    history = await desk.history()
    run = history.run
    assert (run.status, run.control, run.generation) == (Status.QUEUED, Control.NONE, 1)
    assert (history.waits, run.due_at, run.error, run.result) == ((), None, None, None)
    assert paths(history.checkpoints) == ["a", "b", "c"]
    assert await desk.do(Settle(grant, DONE)) in (
        Settled(Status.QUEUED),
        Fenced("r"),  # its grant was taken back
    )
    assert await claimed_paths(desk) == ["a"]


async def test_a_save_in_the_batch_of_the_end_belongs_to_the_old_generation(desk: Desk):
    """What was recorded under the claim is of its generation, however it is written."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(restart())
    await desk.apply(save(grant, "a"), Settle(grant, DONE))
    assert paths((await desk.history()).checkpoints, 0) == ["a"]
    assert await claimed_paths(desk) == []


async def test_a_dead_workers_run_begins_again(desk: Desk):
    """The crash is kept as a row and counts no more, also at the cap."""
    await desk.worker()
    await desk.create("r")
    await desk.crash("r", times=SUSPECT_AFTER)
    await desk.worker("v")
    await desk.claim(worker_id="v", suspects=True)
    await desk.do(restart())
    await desk.do(RescueWorker("v", None, 3, CRASH))
    run = await desk.run()
    assert (run.status, run.generation, run.crashes, run.rank) == (
        *(Status.QUEUED, 1, 0),
        Rank.RESUMED,
    )


async def test_a_cancel_is_kept_and_a_restart_before_it_is_not(desk: Desk):
    """What was laid ready is cleared away; a restart after a cancel is refused."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"))
    await desk.do(restart(step=key("b")))
    await desk.cancel("r")
    assert {record.generation for record in (await desk.history()).checkpoints} == {0}
    assert isinstance(await desk.do(restart()), Refused)
    assert await desk.settle(grant) is Status.CANCELLED
    assert (await desk.run()).generation == 0


async def test_a_pause_of_a_run_that_is_about_to_be_restarted_is_refused(desk: Desk):
    """It would be forgotten."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(restart())
    assert isinstance(await desk.do(PauseRun("r", "q")), Refused)
    assert await desk.settle(grant) is Status.QUEUED


async def test_the_last_restart_that_is_asked_for_decides(desk: Desk):
    """What the one before it laid ready is replaced."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"), save(grant, "c"))
    await desk.do(restart(step=key("c")))
    await desk.do(restart(step=key("b")))
    await desk.settle(grant)
    assert await claimed_paths(desk) == ["a"]


async def test_the_same_restart_again_changes_nothing(desk: Desk):
    """It is answered with the status that the run has now."""
    await desk.worker()
    await desk.end("r")
    request = restart()
    assert await desk.apply(request, request) == [Controlled(Status.QUEUED)] * 2
    await desk.settle(await desk.claim_one("r"))
    before = await desk.snapshot()
    assert await desk.do(request) == Controlled(Status.COMPLETED)
    assert await desk.snapshot() == before
    assert (await desk.run()).generation == 1


async def test_a_restart_takes_the_unique_key_again(desk: Desk):
    """Where a live run has it, the restart is refused."""
    await desk.worker()
    await desk.settle(await desk.start("r", unique_key="k"))
    await desk.create("s", unique_key="k")
    outcome = await desk.do(restart())
    assert isinstance(outcome, Refused)
    assert "'s'" in outcome.detail
    await desk.cancel("s")
    await desk.do(restart())
    create = CreateRun("t", "d", b'"in"', fresh_token(), unique_key="k")
    assert await desk.do(create) == Exists("r", True)


async def test_whoever_waits_for_a_restarted_run_waits_on(desk: Desk, clock):
    """As for one that is retried."""
    await desk.worker()
    await desk.end("c1", FAIL)
    await desk.create("c2")
    await desk.claim()
    await desk.create("r")
    grant = await desk.claim_one("r")
    await desk.suspend(grant, child("c1"), child("c2"))
    await desk.do(restart("c1"))
    await desk.cancel("c2")
    c2 = await desk.run("c2")
    assert await desk.settle(grant_of(c2)) is Status.CANCELLED
    assert await desk.status() is Status.WAITING
    await desk.settle(await desk.claim_one("c1"))
    assert await desk.status() is Status.QUEUED


async def test_events_taken_by_kept_waits_stay_taken(desk: Desk):
    """A wait after them takes the next one; a restart from the start may take them all again."""
    await desk.worker()
    grant = await desk.start()
    for number in range(3):
        await desk.do(SendEvent("r", f"e{number}", "t", str(number).encode()))
    for name in ("one", "two"):
        await desk.do(take(grant, name))
    await desk.settle(grant)
    await desk.do(restart(step=key("two")))
    grant = await desk.claim_one("r")
    taken = await desk.do(take(grant, "two"))
    assert isinstance(taken, Taken)
    assert taken.payload == b"1"
    await desk.settle(grant)
    await desk.do(restart())
    grant = await desk.claim_one("r")
    taken = await desk.do(take(grant, "one"))
    assert isinstance(taken, Taken)
    assert taken.payload == b"0"


def take(grant, name: str) -> TakeEvent:
    return TakeEvent(grant, key(name), 0, "t", None, None, b"{}", 0, 0, "", "")


async def test_there_is_nothing_to_restart(desk: Desk):
    """A run that does not exist is missing."""
    assert await desk.do(restart("nobody")) == Missing("nobody")


# --- fork ----------------------------------------------------------------------------------------


async def test_a_fork_continues_what_another_run_has_recorded(desk: Desk, clock):
    """It is a new run of its own, claimed as a fresh one, with the records before the step."""
    await desk.worker()
    grant = await desk.start()
    clock.advance(SECOND)
    await desk.apply(
        save(grant, "a", value=b"7", started_at=START + 3, ended_at=START + 9),
        pending(grant, "open"),
        save(grant, "b"),
    )
    await desk.settle(grant, FAIL)
    before = await desk.history()
    asked = fork(before=key("b"))
    assert await desk.apply(asked, asked) == [Created("f"), Created("f")]
    run = await desk.run("f")
    assert (run.status, run.rank, run.epoch, run.generation) == (Status.QUEUED, Rank.FRESH, 0, 0)
    assert (run.created_at, run.caused_by) == (START + SECOND, "fork:r")
    assert await desk.history() == before
    [given] = (await desk.claim()).runs
    assert paths(given.checkpoints) == ["a"]
    kept = {record.key.path: record for record in given.checkpoints}
    assert (kept["a"].value, kept["a"].started_at, kept["a"].ended_at) == (
        *(b"7", START + 3),
        START + 9,
    )
    assert kept["a"].epoch <= 0
    assert (kept[""].value, kept[""].started_at) == (b"r\0000", START)
    assert await desk.do(asked) == Created("f")


async def test_a_fork_at_the_end_keeps_everything_that_is_final(desk: Desk):
    """And in the place of a step's outcome, what it is given for it."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b", StepOutcome.ERROR, b'"boom"'))
    await desk.settle(grant, FAIL)
    await desk.do(fork(results=((key("b"), b"42"),)))
    [given] = (await desk.claim()).runs
    kept = {record.key.path: record for record in given.checkpoints}
    assert paths(given.checkpoints) == ["a", "b"]
    assert (kept["b"].outcome, kept["b"].value) == (StepOutcome.OK, b"42")
    source = {record.key.path: record for record in (await desk.history()).checkpoints}
    assert source["b"].outcome is StepOutcome.ERROR


async def test_a_fork_keeps_the_order_of_its_source(desk: Desk):
    """Records of several claims stand in the order of their claims, before any of its own."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a", started_at=START, ended_at=START + 900))
    await desk.settle(grant, Released())
    grant = await desk.claim_one("r")
    await desk.apply(save(grant, "b", started_at=START, ended_at=START + 100))
    await desk.do(fork())
    [given] = (await desk.claim()).runs
    moments = [record.epoch for record in given.checkpoints if record.key.path]
    assert moments == [-1, 0]
    assert given.run.epoch == 1
    await desk.settle(grant)


async def test_a_fork_of_a_fork_draws_from_the_first(desk: Desk):
    """Its origin is the origin of what it continues."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"))
    await desk.settle(grant)
    await desk.do(fork())
    grant = await desk.claim_one("f")
    await desk.apply(save(grant, "b"))
    await desk.settle(grant)
    await desk.do(fork(run_id="g", source="f"))
    [given] = (await desk.claim()).runs
    assert paths(given.checkpoints) == ["a", "b"]
    [origin] = [record for record in given.checkpoints if record.kind is StepKind.ORIGIN]
    assert origin.value == b"r\0000"


@pytest.mark.parametrize("of", ["before", "results"])
async def test_a_fork_at_what_is_not_recorded_is_refused(desk: Desk, of: str):
    """And nothing is made."""
    await desk.worker()
    await desk.end("r")
    unknown = key("nothing")
    asked = fork(before=unknown) if of == "before" else fork(results=((unknown, b"1"),))
    outcome = await desk.do(asked)
    assert isinstance(outcome, Refused)
    assert (outcome.run_id, outcome.status) == ("r", Status.COMPLETED)
    assert await desk.store.get("f") is None


async def test_a_fork_of_nothing_is_missing_and_its_id_may_be_taken(desk: Desk):
    """The source is named; a run that has the id is named as for any create."""
    await desk.worker()
    assert await desk.do(fork()) == Missing("r")
    await desk.end("r")
    await desk.create("f")
    assert await desk.do(fork()) == Exists("f", True)


async def test_a_rescue_does_not_take_what_a_fork_began_with_for_progress(desk: Desk):
    """Only what was recorded under its own claim is."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"))
    await desk.settle(grant)
    await desk.do(fork())
    await desk.crash("f")
    assert (await desk.run("f")).crashes == 1
