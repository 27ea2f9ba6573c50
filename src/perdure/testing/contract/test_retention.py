# pyright: basic
"""Retention: what is over is removed with everything that is kept of it, and nothing else is."""

import pytest_asyncio
from msgspec.structs import replace

from perdure.model.events import EventQuery, Publish, Published, SendEvent, TakeEvent, Taken
from perdure.model.records import Grant, RunQuery, Status, StepOutcome, Wait, WaitKind
from perdure.model.retention import (
    AGAIN,
    DEFAULT,
    EVENTS,
    FOREVER,
    Prune,
    Pruned,
    PutRetentions,
    Retention,
    RetentionsKept,
)
from perdure.model.transitions import (
    CancelRun,
    Completed,
    Controlled,
    Created,
    CreateRun,
    Missing,
    PauseRun,
    RestartRun,
    ResumeRun,
    Retrying,
    Settle,
)
from perdure.testing.contract.desk import (
    DONE,
    FAIL,
    SECOND,
    Desk,
    ManualClock,
    child,
    fresh_token,
    grant_of,
    key,
    save,
    timer,
)

HOUR = 3600 * SECOND
DAY = 24 * HOUR

BRIEF = Retention(DAY, 2 * DAY, 3 * DAY, HOUR)
"""Different for each way to end."""


@pytest_asyncio.fixture
async def ready(desk: Desk) -> Desk:
    """A desk with a registered worker."""
    await desk.worker()
    return desk


async def prune(desk: Desk, limit: int = 100, **fields: object) -> Pruned:
    outcome = await desk.do(Prune(limit, **fields))
    assert isinstance(outcome, Pruned)
    return outcome


async def left(desk: Desk) -> list[str]:
    """Return the ids of the runs that are there, oldest first."""
    runs = await desk.store.list_runs(RunQuery(limit=1_000))
    return [run.run_id for run in reversed(runs)]


async def put(desk: Desk, retention: Retention, definition: str = "d") -> None:
    await desk.do(PutRetentions(((definition, retention),)))


def take(grant: Grant, *, k: int) -> TakeEvent:
    return TakeEvent(grant, key("wait", k=k), k, "T", None, None, b"null", 0, 0)


async def test_an_ended_run_is_kept_for_thirty_days(ready: Desk, clock: ManualClock):
    """By default; at the very instant at which they are over it is removed."""
    await ready.end("r")
    clock.advance(30 * DAY - 1)
    assert await prune(ready) == Pruned()
    assert await left(ready) == ["r"]
    clock.advance(1)
    assert await prune(ready) == Pruned(runs=1)
    assert await left(ready) == []
    assert await prune(ready) == Pruned()


async def test_nothing_is_left_of_it(ready: Desk, clock: ManualClock):
    """Its checkpoints, attempts, audit entries and the events sent to it go with it."""
    grant = await ready.start("r", meta=b"m" * 5_000, options=b"o")
    await ready.do(save(grant, value=b"v" * 5_000))
    await ready.do(save(grant, "failed", StepOutcome.ERROR, b'"e"'))
    await ready.do(SendEvent("r", "sent", "T", b"1"))
    await ready.settle(grant, Retrying(b'"again"', 0, (key("failed"),)))
    await ready.do(PauseRun("r", "one"))
    await ready.do(ResumeRun("r", "two"))
    grant = await ready.claim_one("r")
    await ready.settle(grant, Completed(b"r" * 5_000))
    clock.advance(30 * DAY)
    assert (await prune(ready)).runs == 1
    assert await ready.store.get("r") is None
    assert await ready.store.history("r") is None
    assert await ready.store.endings(["r"]) == {}
    assert await ready.store.events(EventQuery()) == []
    assert await ready.store.counts() == []
    assert await ready.cancel("r") == Missing("r")


async def test_its_id_is_free_again(ready: Desk, clock: ManualClock):
    """A new run of that id begins with nothing; a create of the old one makes it anew."""
    create = CreateRun("r", "d", b"1", fresh_token(), unique_key="u", limit_key="k")
    assert await ready.do(create) == Created("r")
    grant = await ready.claim_one("r")
    await ready.do(save(grant))
    await ready.do(SendEvent("r", "sent", "T", b"1"))
    await ready.settle(grant)
    clock.advance(30 * DAY)
    await prune(ready)
    assert await ready.do(create) == Created("r")
    history = await ready.history("r")
    assert (history.checkpoints, history.attempts, history.audit) == ((), (), ())
    assert history.run.created_at == clock.now()
    grant = await ready.claim_one("r")
    assert grant.epoch == 1
    await ready.settle(grant)


async def test_each_way_to_end_has_an_age_of_its_own(ready: Desk, clock: ManualClock):
    """Completed, failed, cancelled and declined runs go by what the definition says of each."""
    await put(ready, BRIEF)
    await ready.end("completed")
    await ready.end("failed", FAIL)
    await ready.create("cancelled")
    await ready.cancel("cancelled")
    await ready.end("declined", Completed(b"null", declined=True))
    assert await left(ready) == ["completed", "failed", "cancelled", "declined"]
    clock.advance(HOUR)
    await prune(ready)
    assert await left(ready) == ["completed", "failed", "cancelled"]
    clock.advance(DAY)
    await prune(ready)
    assert await left(ready) == ["failed", "cancelled"]
    clock.advance(DAY)
    await prune(ready)
    assert await left(ready) == ["cancelled"]
    clock.advance(DAY)
    await prune(ready)
    assert await left(ready) == []


async def test_declined_runs_are_kept_for_a_day(ready: Desk, clock: ManualClock):
    """By default."""
    await ready.end("declined", Completed(b"null", declined=True))
    await ready.end("completed")
    clock.advance(DAY)
    assert await prune(ready) == Pruned(runs=1)
    assert await left(ready) == ["completed"]


async def test_what_is_kept_for_ever_is_not_removed(ready: Desk, clock: ManualClock):
    """By its definition's word, or by its own."""
    await put(ready, replace(DEFAULT, failed=None))
    await ready.end("failed", FAIL)
    await ready.create("kept", retention=FOREVER)
    await ready.settle(await ready.claim_one("kept"))
    clock.advance(10_000 * DAY)
    assert await prune(ready) == Pruned()
    assert await left(ready) == ["failed", "kept"]


async def test_a_run_may_say_for_itself(ready: Desk, clock: ManualClock):
    """Its own retention stands above its definition's, whichever is longer, however it ends."""
    await put(ready, replace(DEFAULT, completed=2 * DAY, failed=2 * DAY))
    await ready.create("short", retention=HOUR)
    await ready.settle(await ready.claim_one("short"), FAIL)
    await ready.create("long", retention=9 * DAY)
    await ready.settle(await ready.claim_one("long"))
    assert (await ready.run("short")).retention == HOUR
    clock.advance(HOUR - 1)
    assert await prune(ready) == Pruned()
    clock.advance(1)
    await prune(ready)
    assert await left(ready) == ["long"]
    clock.advance(8 * DAY)
    assert await prune(ready) == Pruned()
    clock.advance(DAY)
    assert await prune(ready) == Pruned(runs=1)


async def test_a_change_holds_for_what_is_there(ready: Desk, clock: ManualClock):
    """From the next time on; and so does taking it back."""
    await ready.end("r")
    await ready.end("s")
    clock.advance(DAY)
    await put(ready, BRIEF)
    await put(ready, DEFAULT)
    assert await prune(ready) == Pruned()
    await put(ready, BRIEF)
    assert await prune(ready) == Pruned(runs=2)


async def test_what_is_kept_of_definitions_is_answered(ready: Desk):
    """By name; of the default nothing is kept."""
    both = PutRetentions((("e", BRIEF), ("d", replace(DEFAULT, keep=5)), ("f", DEFAULT)))
    kept = (("d", replace(DEFAULT, keep=5)), ("e", BRIEF))
    assert await ready.do(both) == RetentionsKept(kept)
    assert await ready.do(both) == RetentionsKept(kept)
    assert await ready.do(PutRetentions((("d", DEFAULT),))) == RetentionsKept((("e", BRIEF),))


async def test_no_more_than_a_number_is_kept(ready: Desk, clock: ManualClock):
    """Those that ended first go first, however young; live ones do not count."""
    await put(ready, replace(DEFAULT, keep=2))
    for number, verdict in enumerate((DONE, FAIL, DONE, DONE)):
        await ready.end(f"r{number}", verdict)
        clock.advance(SECOND)
    await ready.create("e", definition="e")
    await ready.create("live")
    assert await prune(ready) == Pruned(runs=2)
    assert await left(ready) == ["r2", "r3", "e", "live"]
    assert await prune(ready) == Pruned()


async def test_a_run_with_its_own_retention_stands_apart_from_the_number(ready: Desk):
    """It is neither counted nor removed for it."""
    await put(ready, replace(DEFAULT, keep=1))
    await ready.create("own", retention=DAY)
    await ready.settle(await ready.claim_one("own"))
    await ready.end("one")
    assert await prune(ready) == Pruned()
    await ready.end("two")
    assert await prune(ready) == Pruned(runs=1)
    assert await left(ready) == ["own", "two"]


async def test_no_live_run_is_ever_removed(ready: Desk, clock: ManualClock):
    """Whatever its status, its age and what is asked for."""
    await put(ready, Retention(0, 0, 0, 0, keep=1))
    paused = await ready.start("paused", retention=0)
    await ready.suspend(paused, timer(clock.now() + DAY))
    await ready.do(PauseRun("paused", "request"))
    waiting = await ready.start("waiting", retention=0)
    await ready.suspend(waiting, Wait(WaitKind.EVENT, "T"))
    await ready.start("running", retention=0)
    await ready.create("queued", retention=0)
    clock.advance(1_000 * DAY)
    assert await prune(ready) == Pruned()
    assert await prune(ready, older_than=0) == Pruned()
    assert await left(ready) == ["paused", "waiting", "running", "queued"]


async def test_a_retried_run_lives_again(ready: Desk, clock: ManualClock):
    """It is over by its next end."""
    await ready.end("r", FAIL)
    clock.advance(20 * DAY)
    await ready.retry("r")
    clock.advance(20 * DAY)
    assert await prune(ready) == Pruned()
    await ready.settle(await ready.claim_one("r"), FAIL)
    clock.advance(30 * DAY - 1)
    assert await prune(ready) == Pruned()
    clock.advance(1)
    assert await prune(ready) == Pruned(runs=1)


async def test_a_restarted_run_lives_again(ready: Desk, clock: ManualClock):
    """So does one that had ended well; it is over by its next end."""
    await ready.end("r")
    clock.advance(20 * DAY)
    assert await ready.do(RestartRun("r", "again")) == Controlled(Status.QUEUED)
    clock.advance(20 * DAY)
    assert await prune(ready) == Pruned()
    assert await prune(ready, older_than=0) == Pruned()
    await ready.settle(await ready.claim_one("r"))
    clock.advance(30 * DAY - 1)
    assert await prune(ready) == Pruned()
    clock.advance(1)
    assert await prune(ready) == Pruned(runs=1)


async def test_a_run_that_is_waited_for_stays(ready: Desk, clock: ManualClock):
    """A parent that was paused for months finds how its child ended."""
    parent = await ready.start("parent")
    await ready.create("child")
    await ready.suspend(parent, child("child"))
    await ready.do(PauseRun("parent", "one"))
    await ready.settle(await ready.claim_one("child"))
    clock.advance(100 * DAY)
    assert (await prune(ready)).runs == 0
    assert (await prune(ready, older_than=0)).runs == 0
    clock.advance(AGAIN)
    assert (await prune(ready)).runs == 0
    assert await ready.do(ResumeRun("parent", "two")) == Controlled(Status.QUEUED)
    [claimed] = (await ready.claim()).runs
    assert [ending.run_id for ending in claimed.endings] == ["child"]
    grant = await ready.rescue()
    assert grant.queued == ("parent",)
    await ready.worker()
    await ready.settle(await ready.claim_one("parent"))
    clock.advance(AGAIN)
    assert (await prune(ready)).runs == 1
    assert await left(ready) == ["parent"]


async def test_a_child_stays_while_its_parent_may_go_on(ready: Desk, clock: ManualClock):
    """A parent that lives may yet ask for it; so may a failed one, which can be tried again."""
    parent = await ready.start("parent")
    await ready.create("child", parent_id="parent", by=parent)
    await ready.settle(await ready.claim_one("child"))
    clock.advance(100 * DAY)
    assert (await prune(ready)).runs == 0
    await ready.settle(parent, FAIL)
    clock.advance(29 * DAY)
    assert (await prune(ready)).runs == 0
    await ready.retry("parent")
    await ready.settle(await ready.claim_one("parent"))
    clock.advance(AGAIN)
    assert (await prune(ready)).runs == 1
    assert await left(ready) == ["parent"]


async def test_a_family_goes_once_its_root_has_gone(ready: Desk, clock: ManualClock):
    """Nothing is left over of a parent that failed and its child."""
    parent = await ready.start("parent")
    await ready.create("child", parent_id="parent", by=parent)
    await ready.settle(await ready.claim_one("child"))
    await ready.settle(parent, FAIL)
    clock.advance(30 * DAY)
    await prune(ready)
    clock.advance(AGAIN)
    await prune(ready)
    assert await left(ready) == []


async def test_it_removes_so_many_at_once(ready: Desk, clock: ManualClock):
    """Those that ended first; and says that there is more."""
    for number in range(5):
        await ready.end(f"r{number}")
        clock.advance(1)
    clock.advance(30 * DAY)
    assert await prune(ready, 2) == Pruned(runs=2, more=True)
    assert await left(ready) == ["r2", "r3", "r4"]
    assert (await prune(ready, 2)).runs == 2
    assert await prune(ready, 2) == Pruned(runs=1)


async def test_many_that_are_needed_do_not_hide_what_is_over(ready: Desk, clock: ManualClock):
    """They are looked at once, and not again with each batch."""
    parent = await ready.start("parent")
    children = [f"c{number}" for number in range(6)]
    await ready.create(*children, parent_id="parent", by=parent)
    for given in (await ready.claim()).runs:
        await ready.settle(grant_of(given))
    clock.advance(1)
    await ready.end("r")
    clock.advance(30 * DAY)
    removed = 0
    for _ in range(5):
        found = await prune(ready, 2)
        removed += found.runs
        if not found.more:
            break
    assert removed == 1
    assert await left(ready) == ["parent", *children]


async def test_an_operator_says_how_old(ready: Desk, clock: ManualClock):
    """Then no retention counts; statuses and definitions narrow."""
    await ready.end("completed")
    await ready.end("failed", FAIL)
    await ready.create("kept", retention=FOREVER)
    await ready.settle(await ready.claim_one("kept"))
    await ready.create("other", definition="e")
    await ready.settle(await ready.claim_one("other", definitions=("e",)))
    clock.advance(HOUR)
    assert await prune(ready, older_than=HOUR + 1) == Pruned()
    assert await prune(ready, older_than=HOUR, definitions=("none",)) == Pruned()
    assert await prune(ready, older_than=HOUR, definitions=("e", "none")) == Pruned(runs=1)
    assert await left(ready) == ["completed", "failed", "kept"]
    assert await prune(ready, older_than=HOUR, statuses=(Status.FAILED,)) == Pruned(runs=1)
    assert await left(ready) == ["completed", "kept"]
    assert await prune(ready, older_than=HOUR) == Pruned(runs=2)


async def test_published_events_are_removed_by_their_age(ready: Desk, clock: ManualClock):
    """Those that were sent to a run stay with it; the id may be published again."""
    first = Publish("first", "T", b"1", 0)
    await ready.do(first)
    await ready.create("r")
    await ready.do(SendEvent("r", "sent", "T", b"1"))
    clock.advance(DAY)
    await ready.do(Publish("second", "U", b"2", 0, key="k"))
    assert await prune(ready) == Pruned()
    assert await prune(ready, events_for=DAY + 1) == Pruned()
    assert await prune(ready, events_for=DAY) == Pruned(events=1)
    found = [event.event_id for event in await ready.store.events(EventQuery())]
    assert found == ["second", "sent"]
    assert await ready.do(first) == Published("first")
    assert await prune(ready, 1, events_for=0) == Pruned(events=1, more=True)
    assert (await prune(ready, events_for=0)).events == 1


async def test_events_go_by_what_is_kept_of_them(ready: Desk, clock: ManualClock):
    """Whoever asks: for thirty days where nothing is said, never where that is said."""
    await ready.do(Publish("e", "T", b"1", 0))
    await put(ready, replace(DEFAULT, completed=HOUR))
    clock.advance(30 * DAY - 1)
    assert await prune(ready, events=True) == Pruned()
    await put(ready, replace(DEFAULT, completed=None), EVENTS)
    clock.advance(DAY)
    asked = Prune(100, events=True)
    assert await ready.store.prunable(asked) == await ready.do(asked) == Pruned()
    await put(ready, replace(DEFAULT, completed=31 * DAY), EVENTS)
    assert await ready.do(asked) == Pruned()
    await put(ready, DEFAULT, EVENTS)
    assert await ready.store.prunable(asked) == await ready.do(asked) == Pruned(events=1)


async def test_a_new_event_is_no_removed_one(ready: Desk, clock: ManualClock):
    """What a run took before it was removed keeps nothing from being taken."""
    grant = await ready.start("r")
    for number in range(3):
        await ready.do(Publish("same", "T", str(number).encode(), 0))
        answer = await ready.do(take(grant, k=number))
        assert isinstance(answer, Taken)
        assert answer.payload == str(number).encode()
        assert await prune(ready, events_for=0) == Pruned(events=1)


async def test_it_can_be_counted_before(ready: Desk, clock: ManualClock):
    """As much as removing takes away, and nothing is removed by it."""
    await put(ready, replace(BRIEF, keep=3))
    for number in range(3):
        await ready.end(f"r{number}")
        await ready.end(f"f{number}", FAIL)
        clock.advance(1)
    await ready.create("own", retention=HOUR)
    await ready.settle(await ready.claim_one("own"))
    parent = await ready.start("parent")
    await ready.create("needed", parent_id="parent", by=parent)
    await ready.settle(await ready.claim_one("needed"))
    await ready.do(Publish("event", "T", b"1", 0))
    for days in (0, DAY, DAY):
        clock.advance(days)
        for asked in (
            Prune(100),
            Prune(100, events_for=DAY),
            Prune(1, older_than=DAY),
            Prune(1, older_than=0, statuses=(Status.FAILED,), definitions=("d",)),
        ):
            before = await left(ready)
            found = await ready.store.prunable(asked)
            assert await left(ready) == before
            assert not found.more
            if asked.limit == 100:
                assert await ready.do(asked) == found


async def test_other_namespaces_are_left_alone(make_store, ready: Desk, clock: ManualClock):
    """Neither their runs, nor their events, nor what holds for their definitions."""
    other = Desk(await make_store("other"), clock)
    await other.worker()
    await put(other, BRIEF)
    for desk in (ready, other):
        await desk.end("r")
        await desk.do(Publish("event", "T", b"1", 0))
    clock.advance(DAY)
    assert await prune(ready, events_for=2 * DAY) == Pruned()
    assert await prune(other, events_for=DAY) == Pruned(runs=1, events=1)
    assert await left(ready) == ["r"]
    assert len(await ready.store.events(EventQuery())) == 1


async def test_what_was_decided_before_it_in_its_batch_is_true(ready: Desk, clock: ManualClock):
    """A run that ends or begins in the batch is seen as it is; one that goes is missing after."""
    grant = await ready.start("r", retention=0)
    outcomes = await ready.apply(
        Settle(grant, DONE),
        Prune(10),
        CancelRun("r", "request"),
        CreateRun("r", "d", b"2", fresh_token()),
    )
    assert outcomes[1:] == [Pruned(runs=1), Missing("r"), Created("r")]
    assert await ready.status("r") is Status.QUEUED
