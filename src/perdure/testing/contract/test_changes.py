"""The change feed: every status of a run and every outcome of a step once, in order; cursors."""

from itertools import count
from random import Random

import pytest

from perdure.errors import CursorExpired, InvalidValue
from perdure.model.changes import (
    KEPT,
    Change,
    ChangeKind,
    MoveSubscriber,
    RemoveSubscriber,
    StepNote,
    Subscribed,
    SubscriberRecord,
)
from perdure.model.events import GiveUpEvent, Publish, TakeEvent
from perdure.model.records import Grant, RunQuery, Status, StepKind, StepOutcome, Wait, WaitKind
from perdure.model.retention import Prune, Pruned
from perdure.model.transitions import (
    CancelledByWorker,
    CancelRun,
    Claim,
    Completed,
    Conflict,
    Continued,
    Created,
    CreateRun,
    Exists,
    Failed,
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
    ResumeRun,
    RetireWorker,
    Retrying,
    RetryRun,
    SaveCheckpoint,
    Settle,
    Suspended,
    Transition,
    Undone,
    Verdict,
)
from perdure.testing.contract.desk import (
    CRASH,
    DONE,
    FAIL,
    SECOND,
    START,
    Desk,
    ManualClock,
    child,
    fresh_token,
    grant_of,
    key,
    pending,
    register,
    save,
    timer,
)
from perdure.testing.contract.fixtures import MakeStore


async def changes(desk: Desk, run_id: str | None = None, after: str | None = None) -> list[Change]:
    """Return all changes, or those of one run."""
    found: list[Change] = []
    while True:
        page = await desk.store.changes(after, 100)
        found += page.changes
        after = page.position
        if len(page.changes) < 100:
            return [change for change in found if run_id in {None, change.run_id}]


async def told(desk: Desk, run_id: str = "r") -> list[str]:
    """Return the kinds of a run's changes."""
    return [change.kind.value for change in await changes(desk, run_id)]


def take(grant: Grant, path: str) -> TakeEvent:
    return TakeEvent(grant, key(path), 0, "Packed", None, None, b"", START, START)


async def pause(desk: Desk, run_id: str = "r") -> None:
    await desk.do(PauseRun(run_id, f"request-{fresh_token()}"))


async def resume(desk: Desk, run_id: str = "r") -> None:
    await desk.do(ResumeRun(run_id, f"request-{fresh_token()}"))


# --- what is told --------------------------------------------------------------------------------


async def test_a_run_from_its_creation_to_its_end(desk: Desk, clock: ManualClock):
    """Created, claimed, completed; each with the run as it was then."""
    await desk.worker()
    await desk.create("r", queue="q", definition="e")
    clock.advance(SECOND)
    grant = grant_of((await desk.claim(definitions=("e",), queues=("q",))).runs[0])
    clock.advance(SECOND)
    await desk.settle(grant)
    created, claimed, completed = await changes(desk)
    assert created == Change(
        created.position, ChangeKind.CREATED, START, "r", "e", "q", Status.QUEUED, 1, 0
    )
    assert claimed == Change(
        claimed.position, ChangeKind.CLAIMED, START + SECOND, "r", "e", "q", Status.RUNNING, 1, 1
    )
    assert completed == Change(
        completed.position,
        ChangeKind.COMPLETED,
        START + 2 * SECOND,
        "r",
        "e",
        "q",
        Status.COMPLETED,
        1,
        1,
    )
    assert len({created.position, claimed.position, completed.position}) == 3


async def test_a_delay_is_a_wait(desk: Desk, clock: ManualClock):
    """Created, suspended until its delay is over, woken."""
    await desk.worker()
    await desk.create("r", delay=SECOND)
    clock.advance(SECOND)
    await desk.claim_one("r")
    assert await told(desk) == ["created", "suspended", "woken", "claimed"]
    _, waits, woken, _ = await changes(desk)
    assert (waits.status, waits.waiting_for, waits.due_at) == (
        Status.WAITING,
        WaitKind.DELAY,
        START + SECOND,
    )
    assert (woken.status, woken.waiting_for, woken.due_at) == (Status.QUEUED, None, None)


@pytest.mark.parametrize(
    "verdict, kind, status, reason",
    [
        (Failed(b'"boom"', "timeout"), "failed", Status.FAILED, "timeout"),
        (Released(), "released", Status.QUEUED, None),
        (Mismatched(b'"misfit"', "1"), "paused", Status.PAUSED, "mismatch"),
        (CancelledByWorker(), "cancelled", Status.CANCELLED, None),
        (Completed(b"null", declined=True), "completed", Status.COMPLETED, "declined"),
        (Completed(b"null", orphans=(key(),)), "completed", Status.COMPLETED, None),
    ],
)
async def test_every_verdict(
    desk: Desk, verdict: Verdict, kind: str, status: Status, reason: str | None
):
    """Tells what became of the run, and why."""
    await desk.worker()
    await desk.settle(await desk.start(), verdict)
    last = (await changes(desk))[-1]
    assert (last.kind, last.status, last.reason) == (kind, status, reason)
    assert await told(desk) == ["created", "claimed", kind]


async def test_another_attempt(desk: Desk, clock: ManualClock):
    """Is scheduled with its number and time, and woken when that has come."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant), Settle(grant, Retrying(b'"again"', SECOND)))
    *_, step, last = await changes(desk)
    assert (step.kind, step.attempt) == ("step", 1)
    assert (last.kind, last.status, last.waiting_for, last.due_at, last.attempt) == (
        "retry_scheduled",
        Status.WAITING,
        WaitKind.RETRY,
        START + SECOND,
        2,
    )
    clock.advance(SECOND)
    await desk.claim_one("r")
    assert (await told(desk))[-2:] == ["woken", "claimed"]


async def test_the_reason_of_a_failure_that_is_undone_is_told_at_its_end(
    desk: Desk, clock: ManualClock
):
    """Until then the run is neither paused nor failed."""
    await desk.worker()
    await desk.settle(await desk.start(), Failed(b'"boom"', "timeout", compensates=True))
    await desk.suspend(await desk.claim_one("r"), timer(START + SECOND))
    clock.advance(SECOND)
    await desk.settle(await desk.claim_one("r"), Undone())
    assert [(one.kind.value, one.reason) for one in (await changes(desk))[2:]] == [
        ("undoing", None),
        ("claimed", None),
        ("suspended", None),
        ("woken", None),
        ("claimed", None),
        ("failed", "timeout"),
    ]


async def test_a_parent_is_woken_after_its_child_has_ended(desk: Desk):
    """The order of the two is that in which the one brought about the other."""
    await desk.worker()
    parent = await desk.start("parent")
    await desk.create("child")
    await desk.suspend(parent, child("child"))
    await desk.settle(await desk.claim_one("child"))
    assert [(change.run_id, change.kind) for change in (await changes(desk))[-2:]] == [
        ("child", "completed"),
        ("parent", "woken"),
    ]
    assert await told(desk, "parent") == ["created", "claimed", "suspended", "woken"]
    suspended = (await changes(desk, "parent"))[2]
    assert (suspended.status, suspended.waiting_for) == (Status.WAITING, WaitKind.CHILD)


async def test_a_wait_that_is_over_as_it_begins(desk: Desk):
    """Is told as both: suspended, and woken."""
    await desk.worker()
    await desk.end("child")
    await desk.suspend(await desk.start(), child("child"))
    assert await told(desk) == ["created", "claimed", "suspended", "woken"]


async def test_a_wake_up_that_comes_later_is_told_when_it_comes(desk: Desk, clock: ManualClock):
    """That a time is set for it is no change of the run."""
    await desk.worker()
    parent = await desk.start("parent")
    await desk.create("child")
    await desk.suspend(parent, child("child"), coalesce=SECOND)
    await desk.settle(await desk.claim_one("child"))
    assert await told(desk, "parent") == ["created", "claimed", "suspended"]
    clock.advance(SECOND)
    await desk.claim_one("parent")
    assert (await told(desk, "parent"))[3:] == ["woken", "claimed"]


async def test_an_event_wakes(desk: Desk):
    """Whoever waits for it."""
    await desk.worker()
    await desk.suspend(await desk.start(), Wait(WaitKind.EVENT, "Packed"))
    await desk.do(Publish("e1", "Packed", b"1", SECOND))
    assert await told(desk) == ["created", "claimed", "suspended", "woken"]


async def test_what_operators_do(desk: Desk):
    """Pause, resume, cancel and retry of a run that nobody holds."""
    await desk.worker()
    await desk.create("r")
    await pause(desk)
    await pause(desk)
    await resume(desk)
    await desk.cancel("r")
    await desk.retry("r")
    assert await told(desk) == ["created", "paused", "resumed", "cancelled", "retried"]
    assert [change.status for change in await changes(desk)][1:] == [
        Status.PAUSED,
        Status.QUEUED,
        Status.CANCELLED,
        Status.QUEUED,
    ]
    assert [change.reason for change in await changes(desk)][1:3] == ["operator", None]
    assert [change.attempt for change in await changes(desk)][-2:] == [1, 2]


async def test_a_run_that_waits_is_paused_and_waits_again(desk: Desk, clock: ManualClock):
    """With its due time moved by the pause."""
    await desk.worker()
    due_at = START + 9 * SECOND
    await desk.suspend(await desk.start(), timer(due_at, kind=WaitKind.SLEEP))
    await pause(desk)
    clock.advance(SECOND)
    await resume(desk)
    suspended, paused, resumed = (await changes(desk))[2:]
    assert (suspended.status, suspended.due_at) == (Status.WAITING, due_at)
    assert (paused.status, paused.waiting_for) == (Status.PAUSED, WaitKind.SLEEP)
    assert (resumed.status, resumed.waiting_for, resumed.due_at) == (
        Status.WAITING,
        WaitKind.SLEEP,
        due_at + SECOND,
    )


async def test_what_is_asked_of_a_running_run_is_told_when_it_is_done(desk: Desk):
    """A control word is no change; what the worker settles then is."""
    await desk.worker()
    grant = await desk.start()
    await pause(desk)
    await resume(desk)
    await desk.cancel("r")
    assert await told(desk) == ["created", "claimed"]
    await desk.settle(grant)
    assert await told(desk) == ["created", "claimed", "cancelled"]


async def test_a_mismatch_that_is_paused_by_hand(desk: Desk):
    """Is paused for another reason from then on."""
    await desk.worker()
    await desk.settle(await desk.start(), Mismatched(b'"misfit"', "1"))
    await pause(desk)
    assert [change.reason for change in (await changes(desk))[2:]] == ["mismatch", "operator"]


async def test_a_mismatch_that_fits_another_worker(desk: Desk):
    """Is resumed and claimed."""
    await desk.worker()
    await desk.settle(await desk.start(), Mismatched(b'"misfit"', "1"))
    await desk.worker("x", {"d": "2"})
    await desk.claim_one("r", worker_id="x")
    assert await told(desk) == ["created", "claimed", "paused", "resumed", "claimed"]


async def test_what_becomes_of_a_dead_workers_runs(desk: Desk):
    """Rescued, cancelled where that was asked for, failed at the cap."""
    await desk.worker()
    await desk.create("a", "b", "c")
    await desk.claim()
    await desk.cancel("b")
    await pause(desk, "c")
    await desk.rescue()
    assert await told(desk, "a") == ["created", "claimed", "rescued"]
    assert await told(desk, "b") == ["created", "claimed", "cancelled"]
    assert await told(desk, "c") == ["created", "claimed", "paused"]
    await desk.worker("v")
    await desk.claim(worker_id="v")
    await desk.do(RescueWorker("v", None, 2, CRASH))
    assert await told(desk, "a") == ["created", "claimed", "rescued", "claimed", "failed"]
    assert (await changes(desk, "a"))[-1].reason == "crash"


async def test_a_restart_is_told_when_it_is_done(desk: Desk):
    """At once, or with the end of the claim, however that comes; what is kept is not told again."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "a"))
    await desk.do(save(grant, "b"))
    restarts = (RestartRun("r", f"q{number}", from_step=key("b")) for number in count())
    await desk.do(next(restarts))
    assert await told(desk) == ["created", "claimed", "step", "step"]
    await desk.settle(grant)
    assert (await told(desk))[4:] == ["restarted"]
    again = await desk.claim_one("r")
    await desk.settle(again)
    await desk.do(RestartRun("r", "of an ended one"))
    assert (await told(desk))[5:] == ["claimed", "completed", "restarted"]
    await desk.do(RestartRun("r", "of a queued one"))
    await desk.claim_one("r")
    await desk.do(RestartRun("r", "of one that is rescued"))
    await desk.rescue()
    assert (await told(desk))[8:] == ["restarted", "claimed", "restarted"]
    await desk.worker()
    await desk.claim_one("r")
    await desk.do(RestartRun("r", "of one that is given back"))
    await desk.do(GiveBack("w", ()))
    assert (await told(desk))[11:] == ["claimed", "restarted"]


async def test_a_fork_is_created(desk: Desk):
    """And what it keeps of the other run's record is not told again."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "a"))
    create = CreateRun("f", "d", b"1", fresh_token(), caused_by="fork:r")
    assert await desk.do(ForkRun(create, "r", 0)) == Created("f")
    assert await told(desk, "f") == ["created"]


async def test_what_a_worker_gives_back(desk: Desk):
    """Is released, whether it stops or did not know of it."""
    await desk.worker()
    await desk.create("a")
    await desk.claim()
    await desk.do(GiveBack("w", ()))
    assert await told(desk, "a") == ["created", "claimed", "released"]
    await desk.claim()
    await desk.do(RetireWorker("w"))
    assert await told(desk, "a") == ["created", "claimed", "released", "claimed", "released"]


# --- steps ---------------------------------------------------------------------------------------


async def test_a_step_is_told_as_it_is_recorded(desk: Desk):
    """Its path, kind, outcome and tries, each time that something else is recorded of it."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(pending(grant, "pay", delay=SECOND))
    await desk.do(save(grant, "pay", tries=2))
    await desk.do(
        SaveCheckpoint(grant, key("mail", k=3), 0, StepKind.ENQUEUE, StepOutcome.ERROR, b'"no"')
    )
    _, _, first, second, third = await changes(desk)
    assert [change.kind for change in (first, second, third)] == [ChangeKind.STEP] * 3
    assert [change.status for change in (first, second, third)] == [Status.RUNNING] * 3
    assert first.step == StepNote("pay", 0, StepKind.STEP, StepOutcome.PENDING, 1, START + SECOND)
    assert second.step == StepNote("pay", 0, StepKind.STEP, StepOutcome.OK, 2)
    assert third.step == StepNote("mail", 3, StepKind.ENQUEUE, StepOutcome.ERROR, 1)


async def test_the_steps_of_one_batch_stand_in_its_order(desk: Desk):
    """Also before what ends the claim in the same batch, and where one is recorded twice in it."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(
        save(grant, "a"),
        pending(grant, "b", delay=0),
        save(grant, "b", tries=2),
        save(grant, "b", StepOutcome.ERROR, tries=3),
        save(grant, "c"),
        Settle(grant, DONE),
        save(grant, "d"),
    )
    steps = [change.step for change in await changes(desk)]
    assert [(step.path, step.outcome) for step in steps if step is not None] == [
        ("a", StepOutcome.OK),
        ("b", StepOutcome.PENDING),
        ("b", StepOutcome.OK),
        ("c", StepOutcome.OK),
    ]
    assert (await told(desk))[-2:] == ["step", "completed"]


async def test_steps_and_waits_of_one_batch_stand_in_its_order(desk: Desk):
    """A wait that is recorded between two steps is told between them."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), take(grant, "w"), save(grant, "b"))
    await desk.do(take(grant, "v"))
    await desk.do(save(grant, "c"))
    await desk.settle(grant)
    steps = [change.step for change in await changes(desk)]
    assert [step and step.path for step in steps[2:]] == ["a", "w", "b", "v", "c", None]


async def test_a_step_of_another_attempt_says_so(desk: Desk):
    """As every change does."""
    await desk.worker()
    await desk.settle(await desk.start(), Retrying(b'"again"', 0))
    grant = await desk.claim_one("r")
    await desk.do(save(grant, "a"))
    last = (await changes(desk))[-1]
    assert (last.kind, last.attempt, last.epoch) == ("step", 2, 2)


async def test_steps_after_a_restart_was_asked_for(desk: Desk):
    """Are told before it is done."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"))
    await desk.do(RestartRun("r", "q1", from_step=key("b")))
    await desk.do(save(grant, "c"))
    await desk.settle(grant, Released())
    assert (await told(desk))[2:] == ["step", "step", "step", "restarted"]


async def test_a_wait_for_an_event_is_a_step(desk: Desk):
    """It is told when it begins, not each time it is looked at, and when it is over."""
    await desk.worker()
    grant = await desk.start()
    wait = take(grant, "wait")
    await desk.apply(wait, wait)
    await desk.do(wait)
    await desk.do(Publish("e1", "Packed", b"1", SECOND))
    await desk.do(wait)
    await desk.do(wait)
    await desk.do(take(grant, "other"))
    await desk.do(GiveUpEvent(grant, key("other"), START))
    await desk.do(GiveUpEvent(grant, key("other"), START))
    steps = [change.step for change in await changes(desk)]
    assert [(step.path, step.outcome) for step in steps if step is not None] == [
        ("wait", StepOutcome.PENDING),
        ("wait", StepOutcome.OK),
        ("other", StepOutcome.PENDING),
        ("other", StepOutcome.CANCELLED),
    ]


# --- what is not told ----------------------------------------------------------------------------


async def test_what_is_applied_again_is_told_once(desk: Desk):
    """In the same batch, and later."""
    await desk.worker()
    create = CreateRun("r", "d", b"1", fresh_token())
    claim = Claim("w", fresh_token(), ("d",), ("default",), 9)
    await desk.apply(create, create)
    await desk.do(create)
    grant = grant_of((await desk.claim(token=claim.token)).runs[0])
    await desk.claim(token=claim.token)
    steps: list[Transition] = [save(grant, "a"), save(grant, "b"), pending(grant, "c")]
    await desk.apply(*steps, *steps)
    await desk.apply(*steps, save(grant, "new"))
    settle = Settle(grant, DONE)
    await desk.apply(settle, settle)
    await desk.apply(*steps, settle, create)
    cancel, retry = CancelRun("s", "q1"), RetryRun("s", "q2")
    await desk.create("s")
    for again in (cancel, cancel, retry, retry):
        await desk.do(again)
    assert await told(desk) == ["created", "claimed", "step", "step", "step", "step", "completed"]
    assert await told(desk, "s") == ["created", "cancelled", "retried"]


async def test_what_is_refused_is_not_told(desk: Desk):
    """Neither are races that were lost."""
    await desk.worker()
    grant = await desk.start()
    await desk.settle(grant, Released())
    newer = await desk.claim_one("r")
    await desk.do(save(newer, "a"))
    await desk.settle(newer, Released())
    newest = await desk.claim_one("r")
    end = await desk.store.position()
    outcomes = await desk.apply(
        save(grant),
        Settle(grant, DONE),
        save(newest, "a"),
        CreateRun("r", "d", b"other", fresh_token()),
        CreateRun("x", "d", b"1", fresh_token(), by=grant),
        ResumeRun("r", "q"),
        CancelRun("nobody", "q"),
    )
    assert [type(outcome) for outcome in outcomes] == [
        Fenced,
        Fenced,
        Conflict,
        Exists,
        Fenced,
        Refused,
        Missing,
    ]
    page = await desk.store.changes(end)
    assert page.changes == ()
    assert page.position == end


async def test_namespaces_have_feeds_of_their_own(make_store: MakeStore, desk: Desk, clock):
    """A page shows nothing of another, and numbers that rise elsewhere move no cursor."""
    other = Desk(await make_store("other"), clock)
    await other.worker()
    await desk.worker()
    for number in range(3):
        await desk.create(f"mine-{number}")
        await other.create(f"other-{number}")
        await other.claim()
    end = await desk.store.position()
    await other.create("late")
    await other.claim()
    await desk.create("last")
    assert {change.run_id for change in await changes(desk)} == {
        "mine-0",
        "mine-1",
        "mine-2",
        "last",
    }
    assert [change.run_id for change in await changes(desk, after=end)] == ["last"]
    assert len(await changes(other)) == 8


# --- reading on ----------------------------------------------------------------------------------


async def a_story(desk: Desk) -> None:
    """Make changes of all shapes, in batches of many sizes."""
    await desk.worker()
    await desk.create("a", "b", "c")
    await desk.create("lone")
    grants = [grant_of(given) for given in (await desk.claim()).runs]
    await desk.apply(*[save(grant, f"s{k}") for grant in grants for k in range(2)])
    await desk.create("d", delay=SECOND)
    await desk.apply(Settle(grants[0], DONE), CreateRun("e", "d", b"1", fresh_token()))
    await desk.settle(grants[1], FAIL)
    await desk.create("f")
    await desk.create("g")


@pytest.mark.parametrize("limit", range(1, 25))
async def test_pages_of_any_size_give_the_same(desk: Desk, limit: int):
    """Each change once, in one order, wherever a page ends."""
    await a_story(desk)
    whole = (await desk.store.changes(None, 1_000)).changes
    found: list[Change] = []
    position: str | None = None
    while True:
        page = await desk.store.changes(position, limit)
        found += page.changes
        position = page.position
        if len(page.changes) < limit:
            break
    assert tuple(found) == whole
    assert len(whole) == 23
    assert len({change.position for change in whole}) == 23


async def test_one_reads_on_from_any_change(desk: Desk):
    """A change's position is the cursor after it, now and when more has happened."""
    await a_story(desk)
    whole = await changes(desk)
    for _ in range(2):
        for index, change in enumerate(whole):
            assert await changes(desk, after=change.position) == whole[index + 1 :]
        await desk.create(f"more-{len(whole)}")
        await desk.claim()
        assert (await changes(desk))[: len(whole)] == whole
        whole = await changes(desk)


async def test_an_empty_page_says_where_to_go_on(desk: Desk):
    """From the beginning of nothing, and from the end."""
    page = await desk.store.changes()
    assert page.changes == ()
    await desk.create("a")
    assert [change.run_id for change in await changes(desk, after=page.position)] == ["a"]
    end = (await desk.store.changes(await desk.store.position())).position
    await desk.cancel("a")
    assert [change.kind for change in await changes(desk, after=end)] == ["cancelled"]


async def test_a_position_from_the_end(desk: Desk):
    """On it follow as many of the newest as were asked for, or some more, or all there are."""
    assert await changes(desk, after=await desk.store.position(5)) == []
    await a_story(desk)
    whole = await changes(desk)
    assert await changes(desk, after=await desk.store.position()) == []
    for back in range(1, 30):
        found = await changes(desk, after=await desk.store.position(back))
        assert len(found) >= min(back, len(whole))
        assert found == whole[-len(found) :]


async def test_what_is_committed_while_one_reads_is_not_skipped(desk: Desk, make_store: MakeStore):
    """A reader that goes on from page to page sees what another store object writes between."""
    writer = Desk(await make_store(), desk.clock)
    await writer.worker()
    found: list[Change] = []
    position: str | None = None
    for number in range(12):
        await writer.create(f"r{number}", delay=SECOND if number % 3 == 0 else 0)
        if number % 2:
            await writer.claim(limit=1)
        page = await desk.store.changes(position, 2)
        found += page.changes
        position = page.position
    found += await changes(desk, after=position)
    assert found == await changes(desk)
    assert len(found) == len({change.position for change in found}) == 12 + 4 + 6


async def test_what_is_no_position_is_refused(desk: Desk):
    """With an error that says so."""
    for wrong in (
        "",
        "1",
        "-",
        "abc",
        "abc-",
        "abc-x",
        "abc-1-",
        "abc-1 ",
        "abc-\u0661",
        "abc-1-2-3-4-5",
    ):
        with pytest.raises(InvalidValue, match="no position"):
            await desk.store.changes(wrong)


async def test_a_position_of_another_database_is_expired(desk: Desk):
    """And so is one that has not been reached."""
    await desk.create("a")
    position = await desk.store.position()
    epoch, *numbers = position.split("-")
    other = f"{int(epoch[0], 16) ^ 1:x}{epoch[1:]}"
    for wrong in (
        "-".join([other, *numbers]),
        "-".join([epoch, *(str(int(number) + 1) for number in numbers)]),
        f"{epoch}-0",
    ):
        with pytest.raises(CursorExpired, match="is gone"):
            await desk.store.changes(wrong)


async def test_what_is_told_of_a_removed_run_stays(desk: Desk):
    """All of it, at the same positions; and nothing that comes after is skipped."""
    await a_story(desk)
    grant = await desk.claim_one("e", limit=1)
    await desk.do(save(grant, "x"))
    await desk.do(save(grant, "y"))
    await desk.settle(grant)
    await desk.create("h")
    whole = await changes(desk)
    pruned = await desk.do(Prune(100, older_than=0))
    assert isinstance(pruned, Pruned)
    assert pruned.runs == 3
    assert await changes(desk) == whole
    for index, change in enumerate(whole):
        assert await changes(desk, after=change.position) == whole[index + 1 :]
    await desk.create("i")
    grant = await desk.claim_one("f", limit=1)
    await desk.do(save(grant, "x"))
    await desk.do(save(grant, "y"))
    more = await changes(desk, after=whole[-1].position)
    assert [(change.run_id, change.kind) for change in more] == [
        ("i", "created"),
        ("f", "claimed"),
        ("f", "step"),
        ("f", "step"),
    ]
    assert await changes(desk) == [*whole, *more]


async def test_steps_after_a_generation_was_cleared_away(desk: Desk):
    """A restart that is called off takes nothing of what comes after it with it."""
    await desk.worker()
    grant = await desk.start()
    await desk.apply(save(grant, "a"), save(grant, "b"))
    await desk.create("other")
    other = await desk.claim_one("other")
    await desk.do(RestartRun("r", "q1", from_step=key("b")))
    await desk.settle(other)
    position = await desk.store.position()
    await desk.cancel("r")
    await desk.do(save(grant, "c"))
    await desk.do(save(grant, "d"))
    steps = [change.step for change in await changes(desk, after=position)]
    assert [step.path for step in steps if step is not None] == ["c", "d"]


async def test_what_was_recorded_before_a_run_continued_as_new_is_told(desk: Desk):
    """Also where nobody had read it before it was forgotten."""
    await desk.worker()
    grant = await desk.start()
    for number in range(3):
        await desk.do(save(grant, f"a{number}"))
        await desk.apply(save(grant, f"b{number}"), save(grant, f"c{number}"))
        await desk.settle(grant, Continued(b"1"))
        grant = await desk.claim_one("r")
    steps = [change.step for change in await changes(desk) if change.step is not None]
    expected = [f"{letter}{number}" for number in range(3) for letter in "abc"]
    assert [step.path for step in steps] == expected
    await desk.settle(grant)
    whole = await changes(desk)
    await desk.do(Prune(100, older_than=0))
    assert await changes(desk) == whole


async def something_else(desk: Desk, grants: list[Grant], number: int) -> None:
    """Do one of six things: create, record in batches of all shapes, nothing."""
    a, b = grants
    match number % 6:
        case 0:
            await desk.create(f"r{number}")
        case 1:
            await desk.apply(save(a, f"t{number}"), save(a, f"u{number}"))
        case 2:
            await desk.apply(
                CreateRun(f"r{number}", "d", b"1", fresh_token()),
                save(b, f"t{number}"),
                Settle(a, Released()),
                save(b, f"u{number}"),
            )
            grants[0] = await desk.claim_one("a", limit=1)
        case 3:
            await desk.apply(pending(b, f"t{number}", delay=0), save(b, f"u{number}"))
        case 4:
            await desk.apply(save(b, f"t{number - 1}"), save(b, f"u{number}"))
        case _:
            pass


async def test_positions_are_the_same_whenever_they_are_read(desk: Desk):
    """Also of steps and creates that come in turn, in one transaction or in many."""
    await desk.worker()
    await desk.create("a", "b")
    grants = [grant_of(given) for given in (await desk.claim()).runs]
    found: list[Change] = []
    position: str | None = None
    expected: list[str] = []
    for number in range(24):
        for grant in grants:
            await desk.do(save(grant, f"s{number}"))
        await something_else(desk, grants, number)
        expected.append(f"s{number}")
        if number % 6 in {2, 3, 4}:
            expected += [f"t{number - (number % 6 == 4)}", f"u{number}"]
        page = await desk.store.changes(position, (1, 7, 100)[number % 3])
        found += page.changes
        position = page.position
    found += await changes(desk, after=position)
    assert found == await changes(desk)
    assert len({change.position for change in found}) == len(found)
    assert [
        change.step.path for change in found if change.run_id == "b" and change.step
    ] == expected


async def test_steps_of_one_namespace_are_not_told_in_another(desk: Desk, make_store: MakeStore):
    """However they come in turn."""
    other = Desk(await make_store("other"), desk.clock)
    desks = (desk, other)
    grants: list[Grant] = []
    for each in desks:
        await each.worker()
        grants.append(await each.start())
    ends = [await each.store.position() for each in desks]
    found: list[list[Change]] = [[], []]
    for number in range(12):
        for of, each in enumerate(desks):
            if (number + of) % 4:
                await each.do(save(grants[of], f"{of}.{number}"))
            if number % 5 == of:
                await each.create(f"r{number}")
            if number % 3 == of:
                page = await each.store.changes(ends[of])
                found[of] += page.changes
                ends[of] = page.position
    for of, each in enumerate(desks):
        found[of] += await changes(each, after=ends[of])
        assert found[of] == (await changes(each))[2:]
        steps = [change.step.path for change in found[of] if change.step is not None]
        assert steps == [f"{of}.{number}" for number in range(12) if (number + of) % 4]


async def test_old_changes_are_removed_some_time(desk: Desk, clock: ManualClock):
    """Whoever has not read them is told so; the others read on."""
    await desk.worker()
    beginning = (await desk.store.changes()).position
    await desk.end("old")
    [*_, last] = await changes(desk)
    clock.advance(KEPT)
    await desk.end("young")
    clock.advance(1)
    for number in range(200):
        if number % 20 == 0 and "old" not in {change.run_id for change in await changes(desk)}:
            break
        await desk.create(*(f"{number}-{k}" for k in range(10)))
        for given in (await desk.claim()).runs:
            await desk.settle(grant_of(given))
    else:
        pytest.fail("nothing was removed by 6,000 changes")
    with pytest.raises(CursorExpired):
        await desk.store.changes(beginning)
    kept = await changes(desk, after=last.position)
    assert [change.kind for change in kept if change.run_id == "young"] == [
        "created",
        "claimed",
        "completed",
    ]
    assert kept == await changes(desk)


# --- subscribers ---------------------------------------------------------------------------------


async def test_a_subscriber_is_kept_and_moved(desk: Desk, clock: ManualClock):
    """By whoever knows where it stands."""
    outcome = await desk.do(MoveSubscriber("billing", None, "a-1"))
    record = SubscriberRecord("billing", "a-1", START, START)
    assert outcome == Subscribed(record)
    clock.advance(SECOND)
    moved = SubscriberRecord("billing", "a-2", START, START + SECOND)
    assert await desk.do(MoveSubscriber("billing", "a-1", "a-2")) == Subscribed(moved)
    assert await desk.do(MoveSubscriber("audit", None, "a-1")) == Subscribed(
        SubscriberRecord("audit", "a-1", START + SECOND, START + SECOND)
    )
    names = [found.name for found in await desk.store.subscribers()]
    assert names == ["audit", "billing"]


async def test_a_move_that_was_made_is_answered_again(desk: Desk, clock: ManualClock):
    """And alters nothing."""
    move = MoveSubscriber("billing", None, "a-1")
    first = await desk.do(move)
    clock.advance(SECOND)
    assert await desk.do(move) == first
    assert await desk.apply(move, move) == [first, first]


async def test_of_two_readers_one_moves_a_subscriber(desk: Desk):
    """The other is told where it stands now."""
    await desk.do(MoveSubscriber("billing", None, "a-1"))
    first, second = await desk.apply(
        MoveSubscriber("billing", "a-1", "a-2"), MoveSubscriber("billing", "a-1", "a-3")
    )
    assert isinstance(first, Subscribed)
    assert first.moved
    assert second == Subscribed(first.record, moved=False)
    assert await desk.do(MoveSubscriber("billing", None, "a-4")) == second
    assert await desk.store.subscribers() == [first.record]


async def test_a_subscriber_is_removed(desk: Desk):
    """Once; who moves it then is told that it is gone."""
    kept = await desk.do(MoveSubscriber("billing", None, "a-1"))
    assert await desk.do(RemoveSubscriber("billing")) == kept
    assert await desk.do(RemoveSubscriber("billing")) == Subscribed(None)
    assert await desk.do(MoveSubscriber("billing", "a-1", "a-2")) == Subscribed(None, moved=False)
    assert await desk.store.subscribers() == []


async def test_subscribers_of_a_namespace_are_its_own(desk: Desk, make_store: MakeStore):
    """The same name elsewhere is another subscriber."""
    other = Desk(await make_store("other"), desk.clock)
    await other.do(MoveSubscriber("billing", None, "a-1"))
    assert await desk.store.subscribers() == []
    assert await desk.do(RemoveSubscriber("billing")) == Subscribed(None)
    assert len(await other.store.subscribers()) == 1


# --- whatever happens ----------------------------------------------------------------------------


class Play:
    """Random transitions on a few runs, most of them such as may happen."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.random = Random(seed)  # noqa: S311  # nothing secret
        self.grants = [Grant("r0", 1, 1)]

    async def go_on(self) -> None:
        """Apply a batch, perhaps twice."""
        batch = [self.a_transition() for _ in range(self.random.randint(1, 5))]
        claim = Claim("w", fresh_token(), ("d",), ("default",), 2, suspects=True)
        again = self.random.random() < 0.2
        for _ in range(2 if again else 1):
            *_, claimed = await self.desk.apply(register("w", {"d": "1"}), *batch, claim)
            self.grants += [grant_of(given) for given in claimed.runs]  # type: ignore[union-attr]
        self.desk.clock.advance(self.random.choice((0, 1, 3)))

    def a_run(self) -> str:
        return f"r{self.random.randint(0, 9)}"

    def a_transition(self) -> Transition:
        choose = self.random.choice
        grant = choose(self.grants[-6:])
        request = f"q{self.random.randint(0, 999)}"
        due_at = self.desk.clock.now() + self.random.randint(-1, 4)
        verdict: Verdict = choose(
            (
                DONE,
                FAIL,
                Completed(b"1", orphans=(key("s"),)),
                Retrying(b"1", self.random.randint(0, 3), (key("s"),)),
                Released(),
                Mismatched(b"1", choose("12")),
                Suspended((child(self.a_run()), timer(due_at)), choose((0, 0, 2))),
                Suspended((child(self.a_run()),)),
            )
        )
        step = save(grant, choose("st"), choose((StepOutcome.OK, StepOutcome.ERROR)))
        return choose(
            (
                CreateRun(self.a_run(), "d", b"1", fresh_token(), delay=choose((0, 0, 2))),
                CreateRun(self.a_run(), "d", b"1", fresh_token(), by=grant),
                Settle(grant, verdict),
                Settle(grant, verdict),
                Settle(grant, verdict),
                step,
                pending(grant, choose("st"), tries=self.random.randint(1, 2), delay=1),
                CancelRun(self.a_run(), request),
                PauseRun(self.a_run(), request),
                ResumeRun(self.a_run(), request),
                RetryRun(self.a_run(), request),
                RestartRun(self.a_run(), request),
                RescueWorker("w", None, 3, CRASH),
                RetireWorker("w"),
                GiveBack("w", ((grant.run_id, grant.epoch),)),
                register("w", {"d": choose("12")}),
            )
        )


@pytest.mark.parametrize("seed", range(12))
async def test_the_changes_lead_to_what_there_is(desk: Desk, seed: int):
    """Whoever folds them knows the status of each run and the outcome of each step recorded."""
    await desk.worker()
    play = Play(desk, seed)
    for _ in range(60):
        await play.go_on()
    runs: dict[str, Change] = {}
    steps: dict[tuple[str, str], StepOutcome] = {}
    for change in await changes(desk):
        if change.step is not None:
            assert runs[change.run_id].status is Status.RUNNING
            steps[change.run_id, change.step.path] = change.step.outcome
            continue
        before = runs.get(change.run_id)
        if before is None:
            assert change.kind is ChangeKind.CREATED
        elif change.kind is not ChangeKind.RESTARTED:
            assert (before.status, before.reason, before.kind) != (
                change.status,
                change.reason,
                change.kind,
            )
        runs[change.run_id] = change
    assert runs.keys() == {run.run_id for run in await desk.store.list_runs(RunQuery())}
    assert len(runs) > 3
    for run_id, last in runs.items():
        history = await desk.history(run_id)
        run = history.run
        assert (run.status, run.reason, run.attempt, run.epoch, run.waiting_for) == (
            last.status,
            last.reason,
            last.attempt,
            last.epoch,
            last.waiting_for,
        )
        for record in history.checkpoints:
            if record.generation < run.generation:
                continue
            outcome = steps[run_id, record.key.path]
            is_reopened = record.outcome is StepOutcome.PENDING and record.tries == 0
            assert outcome is record.outcome or is_reopened


async def test_a_create_is_told_where_the_answer_was_created(desk: Desk):
    """Exactly one for each run, lone or in a batch."""
    assert await desk.do(CreateRun("a", "d", b"1", 7)) == Created("a")
    await desk.create("b", "c")
    assert [change.run_id for change in await changes(desk)] == ["a", "b", "c"]
