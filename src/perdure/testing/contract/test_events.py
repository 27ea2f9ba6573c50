"""Events: who is started, who is woken, and which wait takes which event."""

from msgspec.structs import replace

from perdure.ids import derived_id
from perdure.model.events import (
    Awaiting,
    EventQuery,
    GiveUpEvent,
    Listen,
    Listener,
    Listening,
    Publish,
    Published,
    SendEvent,
    TakeEvent,
    Taken,
    TimedOut,
    Unlisten,
)
from perdure.model.records import (
    Control,
    Grant,
    Status,
    StepKind,
    StepOutcome,
    Wait,
    WaitKind,
)
from perdure.model.transitions import (
    CancelRun,
    Completed,
    Conflict,
    Exists,
    Failed,
    Fenced,
    Missing,
    PauseRun,
    Refused,
    ResumeRun,
    Retrying,
    Saved,
    Settle,
)
from perdure.testing.contract.desk import SECOND, START, Desk, ManualClock, child, key

DAY = 86_400 * SECOND
LATE = b'"late"'


def listener(definition: str = "d", type: str = "placed", **fields: object) -> Listener:
    return Listener(type, definition, "order", **fields)  # type: ignore[arg-type]


def published(event_id: str, *definitions: str) -> Published:
    return Published(event_id, tuple(derived_id("event", event_id, name) for name in definitions))


def publish(
    event_id: str, type: str = "placed", payload: bytes = b"1", **fields: object
) -> Publish:
    return Publish(event_id, type, payload, 7 * DAY, **fields)  # type: ignore[arg-type]


def take(
    grant: Grant,
    path: str = "w",
    *,
    type: str = "packed",
    event_key: str | None = None,
    timeout: int | None = None,
) -> TakeEvent:
    return TakeEvent(grant, key(path), 0, type, event_key, timeout, LATE, START, START + 1)


def event(type: str = "packed", **fields: object) -> Wait:
    return Wait(WaitKind.EVENT, type, **fields)  # type: ignore[arg-type]


# --- listening -----------------------------------------------------------------------------------


async def test_listeners_are_registered_once_and_announced_again(desk: Desk, clock: ManualClock):
    """The second time moves the announcement and takes over what changed; since stands."""
    await desk.do(Listen((listener("b"), listener("a", tags=("x", "y"), priority=3))))
    clock.advance(SECOND)
    answer = await desk.do(Listen((listener("b", queue="slow", version="2"),)))
    found = await desk.store.listeners()
    assert answer == Listening(tuple(found))
    assert [(one.listener.definition, one.since, one.announced_at) for one in found] == [
        ("a", START, START),
        ("b", START, START + SECOND),
    ]
    assert found[0].listener == listener("a", tags=("x", "y"), priority=3)
    assert found[1].listener == listener("b", queue="slow", version="2")


async def test_unlistening_forgets_one_type_or_all(desk: Desk):
    """Of one definition; of none that is registered it changes nothing."""
    await desk.do(Listen((listener("a"), listener("a", "paid"), listener("b"))))
    await desk.do(Unlisten("a", "paid"))
    await desk.do(Unlisten("nobody"))
    assert [one.listener.type for one in await desk.store.listeners()] == ["placed", "placed"]
    answer = await desk.do(Unlisten("a"))
    assert isinstance(answer, Listening)
    assert [one.listener.definition for one in answer.listeners] == ["b"]


# --- publishing ----------------------------------------------------------------------------------


async def test_an_event_starts_a_run_of_each_listener(desk: Desk):
    """With its payload as the named argument, and everything else that the listener says."""
    await desk.do(
        Listen((listener("a", queue="slow", priority=2, version="7", tags=("t",)), listener("b")))
    )
    await desk.do(Listen((listener("other", "paid"),)))
    assert await desk.do(publish("e", payload=b'{"x":1}')) == published("e", "a", "b")
    first, second = [await desk.run(name) for name in published("e", "a", "b").run_ids]
    assert (first.definition, first.input) == ("a", b'{"order":{"x":1}}')
    assert (first.queue, first.priority, first.version, first.tags) == ("slow", 2, "7", ("t",))
    assert (first.caused_by, first.status, first.parent_id) == ("event:e", Status.QUEUED, None)
    assert (second.definition, second.queue) == ("b", "default")


async def test_the_same_publish_again_is_answered_as_the_first(desk: Desk):
    """In the same batch and later, also where the listeners are others by then."""
    await desk.do(Listen((listener("a"),)))
    assert await desk.apply(publish("e"), publish("e")) == [published("e", "a")] * 2
    await desk.do(Listen((listener("b"),)))
    before = await desk.snapshot()
    assert await desk.do(publish("e")) == published("e", "a")
    assert await desk.snapshot() == before
    assert len(await desk.store.events(EventQuery())) == 1


async def test_another_event_of_the_id_is_refused(desk: Desk):
    """By type, key, payload or whom it is for."""
    await desk.create("r")
    await desk.do(publish("e", event_key := "placed", key="k"))
    for rival in (
        publish("e", "paid", key="k"),
        publish("e", event_key, b"2", key="k"),
        publish("e", event_key, key="other"),
        publish("e", event_key),
        SendEvent("r", "e", event_key, b"1", "k"),
    ):
        assert await desk.do(rival) == Exists("", same=False)
    assert [one.key for one in await desk.store.events(EventQuery())] == ["k"]


async def test_a_listener_that_is_not_announced_any_more_is_not_started(
    desk: Desk, clock: ManualClock
):
    """It counts to the last microsecond of its time, and again once it is announced."""
    await desk.do(Listen((listener("a"),)))
    clock.advance(7 * DAY)
    assert await desk.do(publish("e1")) == published("e1", "a")
    clock.advance(1)
    assert await desk.do(publish("e2")) == published("e2")
    await desk.do(Listen((listener("a"),)))
    assert await desk.do(publish("e3")) == published("e3", "a")


async def test_a_body_publishes_only_while_it_holds_its_run(desk: Desk):
    """What a lost worker publishes starts nothing; what it published before stands."""
    await desk.do(Listen((listener("a"),)))
    await desk.worker()
    grant = await desk.start("r")
    assert await desk.do(publish("e", by=grant)) == published("e", "a")
    stale = replace(grant, token=grant.token + 1)
    assert await desk.do(publish("other", by=stale)) == Fenced("r")
    assert await desk.do(SendEvent("r", "other", "t", b"1", by=stale)) == Fenced("r")
    assert await desk.do(publish("e", by=stale)) == published("e", "a")
    assert len(await desk.store.events(EventQuery())) == 1


async def test_events_are_listed_newest_first(desk: Desk, clock: ManualClock):
    """By type, key, the run they were sent to and id, a page at a time."""
    await desk.create("r", "s")
    await desk.apply(publish("a", key="k"), publish("b", "paid"), publish("c", key="K"))
    clock.advance(SECOND)
    await desk.do(SendEvent("r", "d", "placed", b'"x"', "k"))

    async def listed(**fields: object) -> str:
        found = await desk.store.events(EventQuery(**fields))  # type: ignore[arg-type]
        return "".join(one.event_id for one in found)

    assert await listed() == "dcba"
    assert await listed(type="placed") == "dca"
    assert await listed(type="nothing") == ""
    assert await listed(key="k") == "da"
    assert await listed(run_id="r") == "d"
    assert await listed(run_id="s") == await listed(run_id="nobody") == ""
    assert await listed(event_id="c", type="placed") == "c"
    assert await listed(limit=2) == "dc"
    [newest, *_] = await desk.store.events(EventQuery())
    assert await listed(before=newest.seq) == "cba"
    assert (newest.run_id, newest.payload, newest.at) == ("r", b'"x"', START + SECOND)


# --- sending -------------------------------------------------------------------------------------


async def test_an_event_is_sent_to_a_run_that_lives(desk: Desk):
    """No listener hears it; an ended run refuses it, and a run that is not there is missing."""
    await desk.do(Listen((listener("a", "packed"),)))
    await desk.worker()
    grant = await desk.start("r")
    sent = SendEvent("r", "e", "packed", b"1")
    assert await desk.apply(sent, sent) == [Published("e"), Published("e")]
    await desk.settle(grant)
    assert await desk.do(sent) == Published("e")
    assert await desk.do(SendEvent("r", "late", "packed", b"1")) == Refused("r", Status.COMPLETED)
    assert await desk.do(SendEvent("nobody", "lost", "packed", b"1")) == Missing("nobody")
    assert len(await desk.store.events(EventQuery())) == 1


# --- taking --------------------------------------------------------------------------------------


async def test_a_wait_takes_the_oldest_event_that_fits(desk: Desk, clock: ManualClock):
    """Of its type and key, published or sent to it, in the order of acceptance; each once."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.create("s")
    for number, transition in enumerate(
        (
            publish("other-type", "placed", b'"no"', key="k"),
            publish("other-key", "packed", b'"no"', key="K"),
            SendEvent("s", "to-another", "packed", b'"no"', "k"),
            publish("first", "packed", b'"first"', key="k"),
            SendEvent("r", "second", "packed", b'"second"', "k"),
            publish("third", "packed", b'"third"', key="k"),
        )
    ):
        await desk.do(transition)
        clock.advance(number + 1)
    for path, payload in (("a", b'"first"'), ("b", b'"second"'), ("c", b'"third"')):
        assert await desk.do(take(grant, path, event_key="k")) == Taken(payload, START + 1)
    assert await desk.do(take(grant, "d", event_key="k")) == Awaiting(None)
    steps = (await desk.history("r")).checkpoints
    assert [(step.kind, step.outcome, step.value) for step in steps] == [
        (StepKind.WAIT_FOR_EVENT, StepOutcome.OK, b'"first"'),
        (StepKind.WAIT_FOR_EVENT, StepOutcome.OK, b'"second"'),
        (StepKind.WAIT_FOR_EVENT, StepOutcome.OK, b'"third"'),
        (StepKind.WAIT_FOR_EVENT, StepOutcome.PENDING, None),
    ]


async def test_a_wait_without_a_key_takes_whatever_key(desk: Desk):
    """And one with a key takes no event without."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(publish("none", "packed", b"0"))
    assert await desk.do(take(grant, "keyed", event_key="k")) == Awaiting(None)
    await desk.do(publish("some", "packed", b"1", key="k"))
    assert await desk.do(take(grant, "any")) == Taken(b"0", START + 1)
    assert await desk.do(take(grant, "second")) == Taken(b"1", START + 1)
    assert await desk.do(take(grant, "keyed", event_key="k")) == Awaiting(None)


async def test_one_event_is_taken_by_many_runs_once_each(desk: Desk):
    """What one run took is there for others."""
    await desk.worker()
    first, second = await desk.start("r"), await desk.start("s")
    await desk.do(publish("e", "packed"))
    assert await desk.apply(take(first), take(second)) == [Taken(b"1", START + 1)] * 2
    assert await desk.do(take(first, "again")) == Awaiting(None)


async def test_the_same_take_again_is_answered_as_the_first(desk: Desk):
    """In the same batch, later, by the next claim and after the claim was settled."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(publish("e", "packed"))
    await desk.do(publish("f", "packed", b"2"))
    assert await desk.apply(take(grant), take(grant)) == [Taken(b"1", START + 1)] * 2
    await desk.suspend(grant, Wait(WaitKind.SLEEP, "s", START))
    assert await desk.do(take(grant)) == Taken(b"1", START + 1)
    assert await desk.do(take(grant, "new")) == Fenced("r")
    second = await desk.claim_one("r")
    assert await desk.do(take(second)) == Taken(b"1", START + 1)
    assert await desk.do(take(grant)) == Fenced("r")
    assert await desk.do(take(replace(second, run_id="nobody"))) == Fenced("nobody")


async def test_a_wait_that_is_asked_again_is_no_progress(desk: Desk, clock: ManualClock):
    """A body that waits in one branch and kills its worker in another reaches the crash cap."""
    crashes = []
    for number in range(3):
        await desk.worker()
        grant = await (desk.claim_one("r") if number else desk.start("r"))
        clock.advance(1)
        asked = await desk.do(take(grant, "wait", timeout=SECOND))
        assert asked == Awaiting(START + 1 + SECOND), number
        await desk.rescue()
        crashes.append((await desk.run("r")).crashes)
    assert crashes == [0, 1, 2]
    [step] = (await desk.history("r")).checkpoints
    assert (step.epoch, step.outcome, step.tries) == (1, StepOutcome.PENDING, 1)


async def test_events_from_before_the_run_are_none_of_its_own(desk: Desk, clock: ManualClock):
    """One accepted while it was queued is; so is one of the very instant of its creation."""
    await desk.worker()
    await desk.do(publish("before", "packed", b'"before"'))
    clock.advance(1)
    await desk.create("r")
    await desk.do(publish("queued", "packed", b'"queued"'))
    grant = await desk.claim_one("r")
    assert await desk.do(take(grant)) == Taken(b'"queued"', START + 1)
    assert await desk.do(take(grant, "next")) == Awaiting(None)


async def test_the_event_that_started_a_run_satisfies_none_of_its_waits(desk: Desk):
    """The next one of its type does."""
    await desk.worker()
    await desk.do(Listen((listener("d"),)))
    [run_id] = published("e", "d").run_ids
    await desk.do(publish("e"))
    grant = await desk.claim_one(run_id)
    assert await desk.do(take(grant, type="placed")) == Awaiting(None)
    await desk.do(Unlisten("d"))
    await desk.do(publish("f", payload=b"2"))
    assert await desk.do(take(grant, type="placed")) == Taken(b"2", START + 1)


async def test_a_wait_ends_by_its_deadline(desk: Desk, clock: ManualClock):
    """It is kept from the first time, whatever is asked later; what came after it is late."""
    await desk.worker()
    grant = await desk.start("r")
    due_at = START + 5 * SECOND
    assert await desk.do(take(grant, timeout=5 * SECOND)) == Awaiting(due_at)
    clock.advance(5 * SECOND - 1)
    assert await desk.do(take(grant, timeout=9 * SECOND)) == Awaiting(due_at)
    clock.advance(2)
    await desk.do(publish("late", "packed"))
    assert await desk.do(take(grant, timeout=9 * SECOND)) == TimedOut(LATE, START + 1)
    [step] = (await desk.history("r")).checkpoints
    assert (step.outcome, step.value, step.due_at) == (StepOutcome.TIMEOUT, LATE, None)
    assert await desk.do(take(grant)) == TimedOut(LATE, START + 1)
    assert await desk.do(take(grant, "next")) == Taken(b"1", START + 1)


async def test_an_event_at_the_deadline_is_in_time_however_late_the_worker_looks(
    desk: Desk, clock: ManualClock
):
    """Accepted at the very instant, or before it, it is taken a day later."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(take(grant, timeout=5 * SECOND))
    clock.advance(5 * SECOND)
    await desk.do(publish("just", "packed"))
    clock.advance(DAY)
    assert await desk.do(take(grant, timeout=5 * SECOND)) == Taken(b"1", START + 1)


async def test_a_wait_of_no_time_takes_what_is_there(desk: Desk):
    """And times out at once where nothing is."""
    await desk.worker()
    grant = await desk.start("r")
    assert await desk.do(take(grant, "empty", timeout=0)) == TimedOut(LATE, START + 1)
    await desk.do(publish("e", "packed"))
    assert await desk.do(take(grant, timeout=0)) == Taken(b"1", START + 1)


async def test_the_operators_word_is_heard_with_the_answer(desk: Desk):
    """Whatever the answer is."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(PauseRun("r", "p"))
    assert await desk.do(take(grant)) == Awaiting(None, Control.PAUSE)
    assert await desk.do(take(grant, "b", timeout=0)) == TimedOut(LATE, START + 1, Control.PAUSE)
    await desk.do(CancelRun("r", "c"))
    await desk.do(publish("e", "packed"))
    assert await desk.do(take(grant)) == Taken(b"1", START + 1, Control.CANCEL)


# --- waking --------------------------------------------------------------------------------------


async def test_an_event_wakes_the_runs_that_wait_for_it(desk: Desk):
    """By type and key; whoever waits for something else sleeps on."""
    await desk.worker()
    waits = {
        "any": event(),
        "keyed": event(match="k"),
        "other-key": event(match="K"),
        "other-type": event("placed"),
        "child": child("nobody"),
    }
    for run_id, wait in waits.items():
        assert await desk.suspend(await desk.start(run_id), wait) is Status.WAITING
    await desk.do(publish("e", "packed", key="k"))
    stands = {run_id: await desk.status(run_id) for run_id in waits}
    assert [run_id for run_id in waits if stands[run_id] is Status.QUEUED] == ["any", "keyed"]
    await desk.do(publish("f", "packed", key="k"))
    assert (await desk.run("keyed")).waiting_for is None
    history = await desk.history("other-key")
    assert history.waits == (event(match="K"),)


async def test_an_event_sent_to_one_run_wakes_that_alone(desk: Desk):
    """Though others wait for its type."""
    await desk.worker()
    for run_id in ("r", "s"):
        await desk.suspend(await desk.start(run_id), event())
    await desk.do(SendEvent("s", "e", "packed", b"1"))
    assert (await desk.status("r"), await desk.status("s")) == (Status.WAITING, Status.QUEUED)


async def test_a_suspension_after_its_event_wakes_at_once(desk: Desk, clock: ManualClock):
    """It arrived between the take and the settle; one that is too late wakes nobody."""
    await desk.worker()
    grant = await desk.start("r")
    assert await desk.do(take(grant)) == Awaiting(None)
    await desk.do(publish("e", "packed"))
    assert await desk.suspend(grant, event()) is Status.QUEUED
    second = await desk.claim_one("r")
    assert await desk.do(take(second)) == Taken(b"1", START + 1)
    await desk.do(take(second, "next", timeout=SECOND))
    clock.advance(2 * SECOND)
    await desk.do(publish("late", "packed"))
    assert await desk.suspend(second, event(due_at=START + SECOND)) is Status.WAITING
    assert (await desk.run("r")).due_at == START + SECOND


async def test_an_event_wakes_soon_where_wake_ups_coalesce(desk: Desk):
    """As a finished child does."""
    await desk.worker()
    await desk.suspend(await desk.start("r"), event(), coalesce=SECOND)
    await desk.do(publish("e", "packed"))
    run = await desk.run("r")
    assert (run.status, run.due_at) == (Status.WAITING, START + SECOND)


async def test_a_paused_run_hears_of_it_when_it_is_resumed(desk: Desk, clock: ManualClock):
    """The deadline of its wait is later by the pause, and so is what is in time."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(take(grant, timeout=5 * SECOND))
    await desk.suspend(grant, event(due_at=START + 5 * SECOND))
    await desk.do(PauseRun("r", "p"))
    clock.advance(DAY)
    await desk.do(publish("e", "packed"))
    assert await desk.status() is Status.PAUSED
    await desk.do(ResumeRun("r", "q"))
    assert await desk.status() is Status.QUEUED
    second = await desk.claim_one("r")
    assert await desk.do(take(second)) == Taken(b"1", START + 1)


async def test_an_ended_run_is_woken_by_nothing(desk: Desk):
    """Its waits went with it."""
    await desk.worker()
    await desk.suspend(await desk.start("r"), event())
    await desk.cancel("r")
    await desk.do(publish("e", "packed"))
    assert await desk.status() is Status.CANCELLED


# --- giving up -----------------------------------------------------------------------------------


async def test_a_wait_that_is_given_up_has_taken_nothing(desk: Desk):
    """Also where its event had come meanwhile: the next wait takes that."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(publish("e", "packed"))
    await desk.do(take(grant, "loser"))
    give_up = GiveUpEvent(grant, key("loser"), START + 9)
    assert await desk.apply(give_up, give_up) == [Saved(), Saved()]
    [step] = (await desk.history("r")).checkpoints
    assert (step.outcome, step.value, step.ended_at) == (StepOutcome.CANCELLED, None, START + 9)
    assert await desk.do(take(grant, "loser")) == Conflict("r", "loser")
    assert await desk.do(take(grant, "next")) == Taken(b"1", START + 1)


async def test_what_an_earlier_claim_took_is_not_given_back(desk: Desk):
    """A replay that cancels what is recorded as taken changes nothing."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(publish("e", "packed"))
    await desk.do(take(grant))
    await desk.suspend(grant, Wait(WaitKind.SLEEP, "s", START))
    second = await desk.claim_one("r")
    assert await desk.do(GiveUpEvent(second, key("w"), START)) == Saved()
    assert await desk.do(GiveUpEvent(second, key("nothing"), START)) == Saved()
    assert await desk.do(GiveUpEvent(grant, key("w"), START)) == Fenced("r")
    assert await desk.do(take(second, "next")) == Awaiting(None)


async def test_the_next_attempt_of_the_run_waits_anew(desk: Desk, clock: ManualClock):
    """What timed out or was given up in an attempt that failed has its whole time again."""
    await desk.worker()
    grant = await desk.start("r")
    await desk.do(take(grant, "late", timeout=0))
    await desk.do(take(grant, "given-up", timeout=SECOND))
    await desk.do(GiveUpEvent(grant, key("given-up"), START))
    await desk.settle(grant, Retrying(b'"no"', 0, (key("late"), key("given-up"))))
    clock.advance(DAY)
    second = await desk.claim_one("r")
    for path in ("late", "given-up"):
        due_at = START + DAY + SECOND
        assert await desk.do(take(second, path, timeout=SECOND)) == Awaiting(due_at)


# --- declining -----------------------------------------------------------------------------------


async def test_a_run_may_decline_its_event(desk: Desk):
    """It is completed without its body, and says so; a plain end says nothing."""
    await desk.worker()
    await desk.do(Settle(await desk.start("r"), Completed(b"null", declined=True)))
    run = await desk.run("r")
    assert (run.status, run.reason, run.result) == (Status.COMPLETED, "declined", b"null")
    await desk.end("s")
    await desk.end("t", Failed(b'"no"'))
    assert [(await desk.run(name)).reason for name in "st"] == [None, "error"]


async def test_namespaces_hear_nothing_of_each_other(desk: Desk, build):
    """Events, listeners and waits of one are none of another's."""
    other = build("elsewhere")
    await other.open()
    try:
        there = Desk(other, desk.clock)
        await there.worker()
        await there.do(Listen((listener("a", "packed"),)))
        waiting = await there.start("r")
        await there.suspend(waiting, event())
        await desk.do(publish("e", "packed"))
        assert await there.status() is Status.WAITING
        assert await there.store.events(EventQuery()) == []
        assert await desk.store.listeners() == []
        assert await there.do(publish("e", "packed", b"2")) == published("e", "a")
    finally:
        await other.close()
