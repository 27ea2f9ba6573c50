"""Why a run is not moving: each cause is produced, and named with its holder and its time."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure._runtime.why import Why, why
from perdure.clock import to_datetime
from perdure.codec.failures import encode_error
from perdure.errors import Mismatch
from perdure.model.keys import Replace
from perdure.model.queues import Limits, PauseQueue, PutQueue, Rate
from perdure.model.records import Ending, StepOutcome, Wait, WaitKind
from perdure.model.transitions import (
    CancelRun,
    Created,
    CreateRun,
    Failed,
    Mismatched,
    PauseRun,
    Released,
    RestartRun,
    Retrying,
    SaveCheckpoint,
    Settle,
    Suspended,
)
from perdure.model.versions import PinRun
from perdure.stores.memory import MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.contract.desk import (
    DONE,
    SECOND,
    START,
    Desk,
    ManualClock,
    child,
    fresh_token,
    register,
    save,
    timer,
)

MINUTE = 60 * SECOND
REFUSED = encode_error(ConnectionError("refused"))


@pytest.fixture(params=["memory", "sqlite"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk on a store with a clock that is moved by hand."""
    clock = ManualClock()
    if request.param == "memory":
        store = MemoryStore(clock=clock)
    else:
        store = SqliteStore(tmp_path / "perdure.db", clock=clock)
    await store.open()
    yield Desk(store, clock)
    await store.close()


async def completed(desk: Desk) -> None:
    await desk.worker()
    await desk.end("r", DONE)
    desk.clock.advance(MINUTE)


async def nobody_there(desk: Desk) -> None:
    await desk.create("r")
    desk.clock.advance(90 * SECOND)


async def only_a_scheduler(desk: Desk) -> None:
    await desk.create("r")
    await desk.do(replace(register("s"), definitions={}, slots=0))
    desk.clock.advance(SECOND)


async def nobody_able(desk: Desk) -> None:
    await desk.create("r")
    await desk.worker("v", {"other": "1", "third": "1"})


async def other_queue(desk: Desk) -> None:
    await desk.create("r", queue="slow")
    await desk.do(register("w", queues=("default", "mail")))


async def all_busy(desk: Desk) -> None:
    await desk.worker()
    await desk.create(*(f"busy{number}" for number in range(8)))
    await desk.claim()
    await desk.create("r")


async def paused_queue(desk: Desk) -> None:
    await desk.worker()
    await desk.create("r")
    await desk.do(PauseQueue("default"))
    desk.clock.advance(10 * SECOND)


async def full_queue(desk: Desk) -> None:
    await desk.worker()
    await desk.do(PutQueue("default", Limits(concurrency=1)))
    await desk.create("first")
    await desk.claim()
    await desk.create("r")
    desk.clock.advance(10 * SECOND)


async def full_key(desk: Desk) -> None:
    await desk.worker()
    await desk.do(PutQueue("default", Limits(concurrency=9, key_concurrency=2)))
    await desk.create("a", "b", "r", limit_key="k")
    await desk.create("c", limit_key="other")
    await desk.claim()
    desk.clock.advance(10 * SECOND)


async def over_rate(desk: Desk) -> None:
    await desk.worker()
    await desk.do(PutQueue("default", Limits(rate=Rate(1, MINUTE))))
    await desk.create("a", "r")
    await desk.claim()
    desk.clock.advance(10 * SECOND)


async def over_rate_of_key(desk: Desk) -> None:
    await desk.worker()
    await desk.do(PutQueue("default", Limits(key_rate=Rate(2, MINUTE, 2))))
    await desk.create("a", "b", "r", limit_key="k")
    await desk.claim()
    desk.clock.advance(10 * SECOND)


async def suspected(desk: Desk) -> None:
    await desk.create("r")
    await desk.crash("r", times=3)
    await desk.worker()


async def claimable(desk: Desk) -> None:
    await desk.worker()
    await desk.create("r")


async def delayed(desk: Desk) -> None:
    await desk.create("r", delay=MINUTE)
    desk.clock.advance(20 * SECOND)


async def due(desk: Desk) -> None:
    await desk.worker()
    await desk.create("r", delay=SECOND)
    desk.clock.advance(3 * SECOND)


async def due_without_worker(desk: Desk) -> None:
    await desk.create("r", delay=SECOND)
    desk.clock.advance(3 * SECOND)


async def run_retrying(desk: Desk) -> None:
    await desk.worker()
    await desk.settle(await desk.start(), Retrying(REFUSED, MINUTE))


async def step_retrying(desk: Desk) -> None:
    await desk.worker()
    grant = await desk.start()
    failed = save(grant, "charge", StepOutcome.PENDING, REFUSED, tries=2, delay=MINUTE)
    assert isinstance(failed, SaveCheckpoint)
    await desk.do(failed)
    await desk.suspend(grant, timer(START + MINUTE, path="charge"))


async def sleeping(desk: Desk) -> None:
    await desk.worker()
    grant = await desk.start()
    await desk.suspend(grant, Wait(WaitKind.SLEEP, "nightly", START + MINUTE))


async def one_child(desk: Desk) -> None:
    await desk.worker()
    await desk.suspend(await desk.start(), child("kid"))
    await desk.create("kid", definition="e", delay=SECOND)


async def many_children(desk: Desk) -> None:
    await desk.worker()
    kids = [f"kid{number}" for number in range(6)]
    await desk.suspend(await desk.start(), *(child(kid) for kid in kids))
    await desk.create(*kids)
    await desk.claim(limit=1)
    await desk.claim(limit=1)


async def joined(desk: Desk) -> None:
    await desk.worker()
    await desk.suspend(await desk.start(), child("kid"), coalesce=SECOND)
    await desk.end("kid")


async def due_long_ago(desk: Desk) -> None:
    await desk.worker()
    await desk.create("r", delay=SECOND)
    desk.clock.advance(MINUTE)


async def one_event(desk: Desk) -> None:
    await desk.worker()
    await desk.suspend(await desk.start(), Wait(WaitKind.EVENT, "packed"))
    desk.clock.advance(MINUTE)


async def events_in_time(desk: Desk) -> None:
    await desk.worker()
    await desk.suspend(
        await desk.start(),
        Wait(WaitKind.EVENT, "paid"),
        Wait(WaitKind.EVENT, "packed", START + MINUTE, 2, "o1"),
    )


async def mismatched(desk: Desk) -> None:
    await desk.worker()
    await desk.worker("v", {"d": "3"})
    error = Mismatch("step 'ship' does not fit", step="ship", recorded="ship(1)", asked="ship(2)")
    await desk.end("r", Mismatched(encode_error(error), "2"))


async def paused(desk: Desk) -> None:
    await desk.create("r")
    await desk.do(PauseRun("r", "q"))
    desk.clock.advance(MINUTE)


async def executing(desk: Desk) -> None:
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "charge", ended_at=START))
    desk.clock.advance(5 * SECOND)


async def asked_to_end(desk: Desk) -> None:
    await desk.worker()
    await desk.start()
    await desk.do(CancelRun("r", "q"))


async def asked_to_undo(desk: Desk) -> None:
    await desk.worker()
    await desk.start()
    await desk.do(CancelRun("r", "q", compensate=True))


async def asked_to_begin_again(desk: Desk) -> None:
    await desk.worker()
    await desk.start()
    await desk.do(RestartRun("r", "q"))


async def undoing_a_failure(desk: Desk) -> None:
    await desk.worker()
    await desk.settle(await desk.start(), Failed(b'"boom"', compensates=True))


async def undoing_a_cancel(desk: Desk) -> None:
    await desk.worker()
    await desk.settle(await desk.start(), Suspended((timer(START + SECOND),)))
    await desk.do(CancelRun("r", "q", compensate=True))


async def silent(desk: Desk) -> None:
    await desk.worker()
    await desk.start()
    await desk.worker("u")
    desk.clock.advance(20 * SECOND)
    await desk.worker("v")


async def only_silent(desk: Desk) -> None:
    await desk.worker()
    await desk.worker("v")
    desk.clock.advance(20 * SECOND)
    await desk.create("r")


async def silent_one_able(desk: Desk) -> None:
    await desk.worker()
    desk.clock.advance(20 * SECOND)
    await desk.worker("v", {"other": "1"})
    await desk.create("r")


async def silent_one_free(desk: Desk) -> None:
    await desk.worker("idle")
    desk.clock.advance(20 * SECOND)
    await all_busy(desk)


async def mismatched_since(desk: Desk) -> None:
    await mismatched(desk)
    desk.clock.advance(20 * SECOND)


async def claimable_by_the_living(desk: Desk) -> None:
    await desk.worker("dead")
    desk.clock.advance(20 * SECOND)
    await claimable(desk)


async def pinned(desk: Desk, **fields: Any) -> None:
    await desk.create("r", pin="1", **fields)


async def other_version(desk: Desk) -> None:
    await pinned(desk)
    await desk.do(replace(register("v", {"d": "2"}), earlier=(("d", "3"), ("e", "1"))))
    await desk.worker("u", {"d": "2"})
    desk.clock.advance(10 * SECOND)


async def version_of_the_dead(desk: Desk) -> None:
    await desk.worker()
    desk.clock.advance(20 * SECOND)
    await desk.worker("v", {"d": "2"})
    await pinned(desk)


async def version_elsewhere(desk: Desk) -> None:
    await desk.worker()
    await desk.do(register("v", {"d": "2"}, ("slow",)))
    await pinned(desk, queue="slow")


async def due_with_other_version(desk: Desk) -> None:
    await desk.worker("v", {"d": "2"})
    await pinned(desk, delay=SECOND)
    desk.clock.advance(3 * SECOND)


async def earlier_version(desk: Desk) -> None:
    await desk.worker("u", {"d": "3"})
    await desk.do(replace(register("v", {"d": "2"}), earlier=(("d", "1"),)))
    await pinned(desk)


async def pinned_mismatch(desk: Desk) -> None:
    await desk.worker()
    await pinned(desk)
    await desk.settle(await desk.claim_one("r"), Mismatched(REFUSED, "1"))


async def pinned_elsewhere(desk: Desk) -> None:
    await desk.worker("w", {"d": "2"})
    await desk.end("r", Mismatched(REFUSED, "2"))
    await desk.do(PinRun("r", "q", "1"))


async def replacing(desk: Desk) -> None:
    create = CreateRun("r2", "d", b"2", fresh_token(), unique_key="k", key_rule=Replace())
    assert await desk.do(create) == Created("r2", replaced="r")


async def replaced(desk: Desk) -> None:
    await desk.create("r", unique_key="k")
    await replacing(desk)
    desk.clock.advance(10 * SECOND)


async def asked_to_make_way(desk: Desk) -> None:
    await desk.worker()
    await desk.start(unique_key="k")
    await replacing(desk)


async def undoing_for_another(desk: Desk) -> None:
    await desk.worker()
    grant = await desk.start(unique_key="k")
    await desk.do(Settle(grant, Released(), cleans=True))
    await replacing(desk)


async def kept_for_its_parent(desk: Desk) -> None:
    await desk.worker()
    await desk.start("p")
    await desk.create("r", parent_id="p")
    await desk.settle(await desk.claim_one("r"))


CASES: dict[Callable[[Desk], Awaitable[None]], tuple[str, tuple[str, ...], int | None, str]] = {
    completed: ("ended", (), None, "is completed, 1m ago"),
    nobody_there: ("no_worker", (), None, "is queued 1m 30s ago and no worker is registered"),
    only_a_scheduler: ("no_worker", (), None, "is queued 1s ago and no worker is registered"),
    nobody_able: (
        "no_capable_worker",
        (),
        None,
        "none of the 1 live worker has that definition; they have other, third",
    ),
    other_queue: ("queue_not_served", (), None, "in queue 'slow', and the workers that have its"),
    all_busy: ("workers_full", ("w",), None, "all 8 slots of worker w are taken"),
    paused_queue: (
        "queue_paused",
        ("default",),
        None,
        "in queue 'default', which was paused 10s ago; perdure queue resume default lets it go on",
    ),
    full_queue: (
        "queue_full",
        ("first",),
        None,
        "1 slot of queue 'default' is taken by first on worker w, the first for 10s",
    ),
    full_key: (
        "key_full",
        ("a", "b"),
        None,
        "2 slots of key 'k' of queue 'default' are taken by a on worker w, b on worker w, the",
    ),
    over_rate: (
        "rate",
        ("default",),
        START + MINUTE,
        "1 starts in 1m, allows the next one at 2027-01-15T08:01:00.000+00:00, in 50s",
    ),
    over_rate_of_key: (
        "key_rate",
        ("default",),
        START + MINUTE // 2,
        "and the rate of key 'k' of queue 'default', 2 starts in 1m, allows the next one at",
    ),
    suspected: ("suspect", (), None, "because 3 workers in a row died with it"),
    claimable: ("claimable", (), None, "may be claimed now, queued 0s ago; worker w can take it"),
    delayed: (
        "delay",
        (),
        START + MINUTE,
        "may not start before 2027-01-15T08:01:00+00:00, in 40s",
    ),
    due: ("due", (), START + SECOND, "is due for 2s; the next look of a worker takes it"),
    due_without_worker: ("no_worker", (), None, "is due for 2s and no worker is registered"),
    due_long_ago: (
        "only_silent_workers",
        ("w",),
        None,
        "is due for 59s and no worker lives: the last sign of life of worker w was 1m ago",
    ),
    run_retrying: (
        "retry",
        (),
        START + MINUTE,
        "failed (ConnectionError: refused) and begins attempt 2 at",
    ),
    step_retrying: (
        "retry",
        ("charge",),
        START + MINUTE,
        "step 'charge' failed (ConnectionError: refused) and has attempt 3 at",
    ),
    sleeping: ("sleep", ("nightly",), START + MINUTE, "sleeps until"),
    one_child: ("child", ("kid",), None, "waits for kid of 'e', waiting for delay"),
    many_children: (
        "child",
        tuple(f"kid{number}" for number in range(6)),
        None,
        (
            "waits for 6 of 6 runs to end: kid0 of 'd', running, kid1 of 'd', running, "
            "kid2 of 'd', queued and 3 more"
        ),
    ),
    joined: (
        "child",
        (),
        START + SECOND,
        "waited for kid, which ended, and goes on in 1s",
    ),
    one_event: ("event", ("packed",), None, "waits since 1m for an event 'packed'"),
    events_in_time: (
        "event",
        ("paid", "packed"),
        START + MINUTE,
        "for an event 'packed' with key 'o1' until 20",
    ),
    mismatched: (
        "mismatch",
        ("2",),
        None,
        (
            "step 'ship' does not fit); it goes on when a worker with another version appears; "
            "live workers have '1' (w), '3' (v)"
        ),
    ),
    paused: ("paused", (), None, "was paused by hand 1m ago; perdure resume r lets it go on"),
    executing: ("executing", ("w",), None, "on host, pid 1 since 5s; it recorded step 'charge' 5s"),
    asked_to_end: ("executing", ("w",), None, "no step recorded in it yet; it is asked to end"),
    asked_to_undo: ("executing", ("w",), None, "; it is asked to end, and to undo what it did"),
    asked_to_begin_again: ("executing", ("w",), None, "; it is asked to begin again"),
    undoing_a_failure: ("claimable", (), None, "; it undoes what it did, because it failed"),
    undoing_a_cancel: ("claimable", (), None, "; it was cancelled, and does what is to be done"),
    silent: (
        "silent_worker",
        ("w",),
        None,
        "gave no sign of life for 20s; any other worker takes over, and there is 1 live worker",
    ),
    only_silent: (
        "only_silent_workers",
        ("w", "v"),
        None,
        "no worker lives: the last sign of life of workers w, v was 20s ago; start one",
    ),
    silent_one_able: (
        "no_capable_worker",
        (),
        None,
        "none of the 1 live worker has that definition; they have other",
    ),
    silent_one_free: ("workers_full", ("w",), None, "all 8 slots of worker w are taken"),
    mismatched_since: ("mismatch", ("2",), None, "appears; no live worker has the definition"),
    other_version: (
        "version",
        ("1",),
        None,
        (
            "is queued 10s ago and waits for a worker with version '1' of its definition, which it "
            "is pinned to; live workers have '2' (v, u), '3' (v)"
        ),
    ),
    version_of_the_dead: (
        "version",
        ("1",),
        None,
        "with version '1' of its definition, which it is pinned to; live workers have '2' (v)",
    ),
    version_elsewhere: (
        "queue_not_served",
        (),
        None,
        "in queue 'slow', and the workers that have its version serve default",
    ),
    due_with_other_version: ("version", ("1",), None, "is due for 2s and waits for a worker with"),
    earlier_version: ("claimable", (), None, "queued 0s ago; worker v can take it"),
    pinned_mismatch: (
        "mismatch",
        ("1",),
        None,
        "it is pinned to version '1': perdure pin r --to VERSION lets it go on with another",
    ),
    pinned_elsewhere: (
        "mismatch",
        ("2",),
        None,
        "it goes on with version '1', which it is pinned to; live workers have '2' (w)",
    ),
    replaced: (
        "replaced",
        ("r2",),
        None,
        "is cancelled, 10s ago, because run r2 replaced it under its unique_key 'k'",
    ),
    asked_to_make_way: (
        "executing",
        ("w",),
        None,
        "; it is asked to end, because run r2 replaced it under its unique_key 'k'",
    ),
    undoing_for_another: (
        "claimable",
        (),
        None,
        "; it was cancelled, because run r2 replaced it under its unique_key 'k', and does what",
    ),
    kept_for_its_parent: (
        "ended",
        ("p",),
        None,
        "it is kept for its parent p, which is running and may ask for it until it is completed",
    ),
    claimable_by_the_living: ("claimable", (), None, "queued 0s ago; worker w can take it"),
}


@pytest.mark.parametrize("produce", CASES, ids=lambda produce: produce.__name__)
async def test_each_cause_is_named(desk: Desk, produce: Callable[[Desk], Awaitable[None]]):
    """The sentence names the run, the cause, its holder and its time; the facts stand beside it."""
    cause, holder, until, sentence = CASES[produce]
    await produce(desk)
    found = await why(desk.store, "r")
    assert found is not None
    assert (found.cause, found.holder) == (cause, holder)
    assert found.until == (None if until is None else to_datetime(until))
    assert found.sentence.startswith("run r of 'd' ")
    assert sentence in found.sentence
    assert str(found) == found.sentence


async def test_a_worker_is_silent_by_its_own_lease(desk: Desk):
    """One that told a longer lease is not called dead before it ends."""
    await desk.do(replace(register("w"), lease=MINUTE, heartbeat=20 * SECOND))
    await desk.start()
    causes: list[str] = []
    for _ in range(2):
        desk.clock.advance(40 * SECOND)
        found = await why(desk.store, "r")
        assert found is not None
        causes.append(found.cause)
    assert causes == ["executing", "silent_worker"]


def test_every_cause_is_tested():
    """What the record says there is, is produced above."""
    documented = {part for part in (Why.__doc__ or "").split("``") if part.isidentifier()}
    assert {case[0] for case in CASES.values()} | {"damaged"} == documented - {"cause"}


class EndedBetween(MemoryStore):
    """A store in which the children of a run end after its history was read."""

    async def endings(self, run_ids: Iterable[str]) -> dict[str, Ending]:
        """End what is asked for, then answer."""
        asked = list(run_ids)
        await self.apply([CancelRun(run_id, "q") for run_id in asked])
        return await super().endings(asked)


async def test_children_that_end_between_two_reads():
    """The sentence has an end, too."""
    desk = Desk(EndedBetween(clock=(clock := ManualClock())), clock)
    await desk.store.open()
    await one_child(desk)
    found = await why(desk.store, "r")
    assert found is not None
    assert (found.cause, found.holder) == ("child", ())
    assert found.sentence.endswith("waited for kid, which ended, and goes on at once")
    await desk.store.close()


DAMAGES = {
    "held by nobody": (executing, "worker = NULL", "which worker holds it"),
    "delayed for ever": (delayed, "due_at = NULL", "until when"),
    "asleep for ever": (sleeping, "due_at = NULL", "until when"),
    "waiting for nothing": (sleeping, "waiting_for = NULL, due_at = NULL", "for what"),
    "waiting for no child": (sleeping, "waiting_for = 2, due_at = NULL", "for which"),
    "waiting for no event": (sleeping, "waiting_for = 4, due_at = NULL", "for which"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_record_is_told_as_such(tmp_path: Path, name: str):
    """A record that cannot be is named, with the command that looks for more of the kind."""
    produce, change, says = DAMAGES[name]
    clock = ManualClock()
    store = SqliteStore(tmp_path / "perdure.db", clock=clock)
    await store.open()
    await produce(Desk(store, clock))
    connection = sqlite3.connect(tmp_path / "perdure.db")
    with connection:
        connection.execute(f"UPDATE run SET {change} WHERE id = 'r'")
    connection.close()
    found = await why(store, "r")
    assert found is not None
    assert found.cause == "damaged"
    assert found.sentence.endswith(f"and its record does not say {says}; perdure doctor tells more")
    await store.close()


async def test_an_unknown_run_has_no_reason(desk: Desk):
    """There is nothing to explain."""
    assert await why(desk.store, "nobody") is None


async def test_a_released_run_is_claimable_again(desk: Desk):
    """What was handed back is judged like any other."""
    await desk.worker()
    await desk.settle(await desk.start(), Released())
    found = await why(desk.store, "r")
    assert found is not None
    assert found.cause == "claimable"
