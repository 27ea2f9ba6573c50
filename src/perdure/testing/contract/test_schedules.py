"""Schedules: each instant is fired once, whoever tries, and what became of it is kept."""

from typing import Any

from msgspec.structs import replace

from perdure.model.records import Status
from perdure.model.schedules import (
    MOST_FIRES,
    Fire,
    Fired,
    FireOutcome,
    FireSchedule,
    Overdue,
    Passed,
    PauseSchedule,
    PutSchedule,
    RemoveSchedule,
    ResumeSchedule,
    Schedule,
    Scheduled,
    ScheduleRecord,
    Unscheduled,
    fired_run,
)
from perdure.model.transitions import CreateRun
from perdure.testing.contract.desk import SECOND, START, Desk, ManualClock
from perdure.timing import Missed, Timing

HOUR = 3_600 * SECOND
DAILY = Timing(cron="0 8 * * *", timezone="Europe/Vienna")


def schedule(key: str = "k", **fields: Any) -> Schedule:
    return Schedule(key, fields.pop("timing", DAILY), "d", b'{"n":1}', **fields)


def put(key: str = "k", next_at: int | None = START + HOUR, **fields: Any) -> PutSchedule:
    return PutSchedule(schedule(key, **fields), next_at)


def fired(expected: int, outcome: FireOutcome = FireOutcome.ON_TIME, **fields: Any) -> Fire:
    return Fire(expected, outcome, fields.pop("until", expected), **fields)


def fire(
    expected: int = START + HOUR,
    next_at: int | None = START + 2 * HOUR,
    *fires: Fire,
    **fields: Any,
) -> FireSchedule:
    revision = fields.pop("revision", 0)
    return FireSchedule("k", revision, expected, next_at, fires or (fired(expected),))


async def record(desk: Desk, key: str = "k") -> ScheduleRecord:
    [found] = [one for one in await desk.store.schedules() if one.schedule.key == key]
    return found


async def test_another_timing_loses_no_instant(desk: Desk, clock: ManualClock):
    """What had come is told with the change, and kept; otherwise nothing is changed."""
    await desk.do(put())
    clock.advance(3 * HOUR)
    before = await record(desk)
    change = put(next_at=START + 9 * HOUR, timing=Timing(every=HOUR))
    passed = fired(START + HOUR, FireOutcome.SKIPPED, until=START + 2 * HOUR, count=2)
    late = replace(passed, expected=START + 2 * HOUR)
    for asked in (change, replace(change, skipped=late)):
        assert await desk.do(asked) == Overdue(before)
    assert (await record(desk), await desk.store.fires("k")) == (before, [])
    told = replace(change, skipped=passed)
    answer = await desk.do(told)
    after = await record(desk)
    assert answer == Scheduled(after)
    assert (after.next_at, after.last_at, after.revision) == (START + 9 * HOUR, passed.until, 1)
    assert await desk.store.fires("k") == [replace(passed, at=START + 3 * HOUR)]
    assert await desk.do(told) == answer
    assert len(await desk.store.fires("k")) == 1


async def test_what_has_not_come_is_no_loss(desk: Desk):
    """Another timing takes its place, whatever is said to have passed."""
    await desk.do(put())
    passed = fired(START + HOUR, FireOutcome.SKIPPED)
    change = put(next_at=START + 9 * HOUR, timing=Timing(every=HOUR))
    assert isinstance(await desk.do(replace(change, skipped=passed)), Scheduled)
    assert await desk.store.fires("k") == []


async def test_a_schedule_is_put_once(desk: Desk, clock: ManualClock):
    """The same again changes nothing; all that it says comes back."""
    full = put(
        version="7",
        queue="slow",
        priority=-3,
        meta=b'{"m":1}',
        options=b"{}",
        tags=("a", "b"),
        missed=Missed.ALL,
        from_code=True,
    )
    answer = await desk.do(full)
    clock.advance(SECOND)
    assert await desk.do(replace(full, next_at=START + 9 * HOUR)) == answer
    expected = ScheduleRecord(full.schedule, 0, START, START, START + HOUR)
    assert answer == Scheduled(expected)
    assert await desk.store.schedules() == [expected]


async def test_another_content_keeps_the_next_instant_of_the_same_timing(
    desk: Desk, clock: ManualClock
):
    """So that an overdue one survives; another timing begins anew. A pause stands."""
    await desk.do(put())
    await desk.do(PauseSchedule("k"))
    clock.advance(2 * HOUR)
    await desk.do(put(next_at=START + 9 * HOUR, priority=5))
    now = await record(desk)
    assert (now.revision, now.next_at, now.schedule.priority) == (1, START + HOUR, 5)
    assert (now.paused_at, now.created_at, now.updated_at) == (START, START, START + 2 * HOUR)
    passed = fired(START + HOUR, FireOutcome.SKIPPED, until=START + 2 * HOUR, count=2)
    other = put(next_at=START + 9 * HOUR, timing=Timing(every=HOUR))
    await desk.do(replace(other, skipped=passed))
    assert ((await record(desk)).revision, (await record(desk)).next_at) == (2, START + 9 * HOUR)


async def test_schedules_are_listed_by_key(desk: Desk):
    """Whatever their order was."""
    await desk.apply(put("b"), put("a"), put("\u00e4"))
    assert [one.schedule.key for one in await desk.store.schedules()] == ["a", "b", "\u00e4"]


async def test_those_that_are_due_are_asked_for(desk: Desk):
    """Not paused, and their next instant has come by then."""
    await desk.apply(put("a", START + 1), put("b", START + 2), put("c", None), put("d", START))
    await desk.do(PauseSchedule("d"))
    for due_by, keys in ((START, ""), (START + 1, "a"), (START + 9, "ab")):
        found = await desk.store.schedules(due_by=due_by)
        assert "".join(one.schedule.key for one in found) == keys


async def test_firing_starts_a_run_and_moves_on(desk: Desk, clock: ManualClock):
    """With everything that the schedule says; the instant is in its cause, and in a row."""
    await desk.do(
        put(queue="slow", priority=2, version="7", meta=b"{}", options=b"{}", tags=("t",))
    )
    clock.advance(HOUR)
    run_id, token = fired_run("k", START + HOUR)
    assert await desk.do(fire()) == Fired((run_id,))
    run = await desk.run(run_id)
    assert (run.definition, run.input, run.token) == ("d", b'{"n":1}', token)
    assert (run.version, run.queue, run.priority, run.tags) == ("7", "slow", 2, ("t",))
    assert (run.meta, run.options, run.status) == (b"{}", b"{}", Status.QUEUED)
    assert run.caused_by == f"schedule:k@{START + HOUR}"
    now = await record(desk)
    assert (now.next_at, now.last_at, now.revision) == (START + 2 * HOUR, START + HOUR, 0)
    at = START + HOUR
    assert await desk.store.fires("k") == [fired(at, at=at, run_id=run_id)]


async def test_an_instant_is_fired_once(desk: Desk, clock: ManualClock):
    """In the same batch, by a rival and years later: it has passed."""
    await desk.do(put())
    clock.advance(HOUR)
    first, second = await desk.apply(fire(), fire())
    assert isinstance(first, Fired)
    assert second == Passed(await record(desk))
    clock.advance(999 * HOUR)
    before = await desk.snapshot()
    assert await desk.do(fire()) == Passed(await record(desk))
    assert await desk.snapshot() == before
    assert len(await desk.store.fires("k")) == 1


async def test_nothing_is_fired_before_its_time(desk: Desk, clock: ManualClock):
    """By the store's clock, to the microsecond."""
    await desk.do(put())
    clock.advance(HOUR - 1)
    assert isinstance(await desk.do(fire()), Passed)
    clock.advance(1)
    assert isinstance(await desk.do(fire()), Fired)


async def test_what_has_changed_meanwhile_is_not_fired(desk: Desk, clock: ManualClock):
    """A scheduler that looked before the change, the pause or the removal fires nothing."""
    await desk.do(put())
    clock.advance(HOUR)
    await desk.do(put(priority=1))
    assert isinstance(await desk.do(fire()), Passed)
    await desk.do(PauseSchedule("k"))
    assert isinstance(await desk.do(fire(revision=1)), Passed)
    await desk.do(RemoveSchedule("k"))
    assert await desk.do(fire(revision=1)) == Unscheduled("k")
    assert await desk.store.fires("k") == []
    assert (await desk.snapshot())[0] == []


async def test_each_of_many_instants_has_its_fate(desk: Desk, clock: ManualClock):
    """What is missed or skipped starts nothing; what is caught up starts its own run."""
    await desk.do(put())
    clock.advance(9 * HOUR)
    fires = (
        fired(START + HOUR, FireOutcome.MISSED, until=START + 5 * HOUR, count=5),
        fired(START + 6 * HOUR, FireOutcome.SKIPPED),
        fired(START + 7 * HOUR, FireOutcome.CAUGHT_UP),
        fired(START + 8 * HOUR, FireOutcome.LATE),
    )
    answer = await desk.do(fire(START + HOUR, None, *fires))
    started = [fired_run("k", START + hours * HOUR)[0] for hours in (7, 8)]
    assert answer == Fired(tuple(started))
    kept = await desk.store.fires("k")
    assert [one.run_id for one in kept] == [started[1], started[0], None, None]
    assert [one.count for one in kept] == [1, 1, 1, 5]
    now = await record(desk)
    assert (now.next_at, now.last_at) == (None, START + 8 * HOUR)


async def test_a_run_that_is_there_already_is_left_alone(desk: Desk, clock: ManualClock):
    """Of a backfill, say; the instant counts as fired."""
    await desk.do(put())
    clock.advance(HOUR)
    run_id, token = fired_run("k", START + HOUR)
    await desk.do(CreateRun(run_id, "d", b"1", token + 1))
    assert await desk.do(fire()) == Fired((run_id,))
    assert (await desk.run(run_id)).input == b"1"


async def test_a_paused_schedule_goes_on_where_it_is_told(desk: Desk, clock: ManualClock):
    """What passed meanwhile is noted once; a second resume changes nothing."""
    await desk.do(put())
    paused = await desk.do(PauseSchedule("k"))
    clock.advance(SECOND)
    assert await desk.do(PauseSchedule("k")) == paused
    clock.advance(5 * HOUR)
    skipped = fired(START + HOUR, FireOutcome.SKIPPED, until=START + 5 * HOUR, count=5)
    resume = ResumeSchedule("k", START + HOUR, START + 6 * HOUR, skipped)
    answer = await desk.do(resume)
    now = await record(desk)
    assert answer == Scheduled(now)
    assert (now.paused_at, now.next_at, now.last_at) == (None, START + 6 * HOUR, START + 5 * HOUR)
    assert await desk.do(replace(resume, next_at=START + 9 * HOUR)) == Scheduled(now)
    [kept] = await desk.store.fires("k")
    assert (kept.outcome, kept.count) == (FireOutcome.SKIPPED, 5)


async def test_verbs_on_what_is_not_there(desk: Desk):
    """Are answered; removing is idempotent."""
    for verb in (RemoveSchedule("x"), PauseSchedule("x"), ResumeSchedule("x", None, None)):
        assert await desk.do(verb) == Unscheduled("x")
    assert await desk.store.fires("x") == []


async def test_a_claim_tells_when_the_next_schedule_is_due(desk: Desk):
    """Of those that are not paused, the earliest."""
    await desk.worker()
    assert (await desk.claim()).next_fire_at is None
    await desk.apply(put("a", START + 2 * HOUR), put("b", START + HOUR), put("c", None))
    assert (await desk.claim()).next_fire_at == START + HOUR
    await desk.do(PauseSchedule("b"))
    assert (await desk.claim()).next_fire_at == START + 2 * HOUR
    await desk.do(RemoveSchedule("a"))
    assert (await desk.claim()).next_fire_at is None


async def test_the_newest_fires_are_kept(desk: Desk, clock: ManualClock):
    """So many of each schedule; of another's none is touched."""
    await desk.apply(put("k", START), put("other", START))
    await desk.do(FireSchedule("other", 0, START, None, (fired(START),)))
    many = MOST_FIRES + 7
    skipped = [fired(START + number, FireOutcome.SKIPPED) for number in range(many)]
    await desk.do(fire(START, None, *skipped))
    kept = await desk.store.fires("k", many)
    assert len(kept) == MOST_FIRES
    assert kept[0].expected == START + many - 1
    assert len(await desk.store.fires("k", 5)) == 5
    assert len(await desk.store.fires("other")) == 1


async def test_namespaces_fire_their_own(desk: Desk, build):
    """The same key is another schedule elsewhere."""
    other = build("elsewhere")
    await other.open()
    try:
        there = Desk(other, desk.clock)
        await there.do(put())
        await there.worker()
        await desk.worker()
        assert await desk.store.schedules() == []
        assert (await desk.claim()).next_fire_at is None
        assert await desk.do(fire()) == Unscheduled("k")
        await desk.do(RemoveSchedule("k"))
        assert len(await there.store.schedules()) == 1
    finally:
        await other.close()
