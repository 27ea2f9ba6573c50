"""Why a schedule does not fire: each cause is produced, and named with its holder and its time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure._runtime.why_schedule import ScheduleWhy, why
from perdure.clock import to_datetime
from perdure.model.leader import Lead, LeaveLead, TakeLead
from perdure.model.schedules import (
    Fire,
    FireOutcome,
    FireSchedule,
    PauseSchedule,
    PutSchedule,
    Schedule,
)
from perdure.stores.memory import MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.contract.desk import SECOND, START, Desk, ManualClock, register
from perdure.timing import Timing

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


@pytest.fixture(params=["memory", "sqlite"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk on a store with a clock that is moved by hand, and the schedule k of an hour."""
    clock = ManualClock()
    if request.param == "memory":
        store = MemoryStore(clock=clock)
    else:
        store = SqliteStore(tmp_path / "perdure.db", clock=clock)
    await store.open()
    desk = Desk(store, clock)
    await desk.do(PutSchedule(Schedule("k", Timing(every=HOUR), "d", b"{}"), START + HOUR))
    yield desk
    await store.close()


async def led(desk: Desk) -> None:
    await desk.worker()
    await desk.do(TakeLead("w", 1))


async def fired(desk: Desk, outcome: FireOutcome = FireOutcome.ON_TIME, count: int = 1) -> None:
    until = START + count * HOUR
    desk.clock.advance(count * HOUR)
    await led(desk)
    await desk.do(
        FireSchedule(
            "k", 0, START + HOUR, until + HOUR, (Fire(START + HOUR, outcome, until, count),)
        )
    )


async def never_fired(desk: Desk) -> None:
    await led(desk)
    desk.clock.advance(10 * SECOND)


async def fired_before(desk: Desk) -> None:
    await fired(desk)


async def skipped_before(desk: Desk) -> None:
    await fired(desk, FireOutcome.SKIPPED)


async def missed_before(desk: Desk) -> None:
    await fired(desk, FireOutcome.MISSED, 2)


async def due_now(desk: Desk) -> None:
    desk.clock.advance(HOUR + SECOND)
    await led(desk)


async def paused(desk: Desk) -> None:
    await led(desk)
    desk.clock.advance(MINUTE)
    await desk.do(PauseSchedule("k"))
    desk.clock.advance(5 * SECOND)


async def paused_and_passed(desk: Desk) -> None:
    await desk.do(PauseSchedule("k"))
    desk.clock.advance(2 * HOUR)


async def over(desk: Desk) -> None:
    desk.clock.advance(HOUR)
    await led(desk)
    fire = Fire(START + HOUR, FireOutcome.ON_TIME, START + HOUR)
    await desk.do(FireSchedule("k", 0, START + HOUR, None, (fire,)))


async def nobody_there(desk: Desk) -> None:
    desk.clock.advance(2 * HOUR)


async def all_silent(desk: Desk) -> None:
    await led(desk)
    desk.clock.advance(40 * SECOND)


async def nobody_leads(desk: Desk) -> None:
    await desk.worker()


async def led_no_more(desk: Desk) -> None:
    await led(desk)
    await desk.do(LeaveLead(Lead("w", 1)))
    desk.clock.advance(3 * SECOND)


async def silent_leader(desk: Desk) -> None:
    await led(desk)
    desk.clock.advance(40 * SECOND)
    await desk.do(register("v"))


async def nobody_able(desk: Desk) -> None:
    await desk.worker("w", {"other": "1"})
    await desk.do(TakeLead("w", 1))


async def only_a_scheduler(desk: Desk) -> None:
    await desk.do(replace(register("w"), definitions={}, slots=0))
    await desk.do(TakeLead("w", 1))


Produce = Callable[[Desk], Awaitable[None]]
AT = "2027-01-15T09:00:00+00:00"

CASES: dict[Produce, tuple[str, tuple[str, ...], int | None, str]] = {
    never_fired: ("next", ("w",), HOUR, f"fires next at {AT}, in 59m 50s; nothing has become"),
    fired_before: ("next", ("w",), 2 * HOUR, f"the last one, {AT}, started run "),
    skipped_before: ("next", ("w",), 2 * HOUR, f"the last one, {AT}, was skipped"),
    missed_before: ("next", ("w",), 3 * HOUR, "T10:00:00+00:00, the last of 2, was missed"),
    due_now: ("due", ("w",), HOUR, f"is due since {AT}, for 1s; the next look of worker w on "),
    paused: ("paused", (), None, "was paused by hand 5s ago; perdure schedule resume k lets it"),
    paused_and_passed: ("paused", (), None, f"; what has passed since {AT} will be skipped"),
    over: ("ended", (), None, f"has no instant any more after {AT}; it never fires again"),
    nobody_there: ("no_worker", (), None, "and no worker is there that fires it; start one"),
    all_silent: ("only_silent_workers", ("w",), None, "sign of life of worker w was 40s ago"),
    nobody_leads: ("no_leader", ("w",), None, "nobody has led: unless one of the 1 live worker "),
    led_no_more: ("no_leader", ("w",), None, "nobody has led for 3s: unless"),
    silent_leader: ("silent_leader", ("w",), None, "which leads, gave no sign of life for 40s; an"),
    nobody_able: ("no_capable_worker", ("w",), HOUR, "has the definition 'd', so its runs stay q"),
    only_a_scheduler: (
        "no_capable_worker",
        ("w",),
        HOUR,
        "its runs stay queued; they have none",
    ),
}


@pytest.mark.parametrize("produce", CASES, ids=lambda produce: produce.__name__)
async def test_it_says_why(desk: Desk, produce: Produce):
    """In one sentence that begins with the schedule; with the cause, holder and time apart."""
    cause, holder, until, sentence = CASES[produce]
    await produce(desk)
    found = await why(desk.store, "k")
    assert found is not None
    assert (found.key, found.cause, found.holder) == ("k", cause, holder)
    assert found.until == (None if until is None else to_datetime(START + until))
    assert found.sentence.startswith("schedule k of 'd' ")
    assert sentence in found.sentence
    assert str(found) == found.sentence


def test_every_cause_is_tested():
    """What the record says there is, is produced above."""
    documented = {part for part in (ScheduleWhy.__doc__ or "").split("``") if part.isidentifier()}
    assert {case[0] for case in CASES.values()} == documented


async def test_there_is_no_such_schedule(desk: Desk):
    """It may have been removed."""
    assert await why(desk.store, "other") is None


class TakenOver(MemoryStore):
    """A store in which the lead changes hands after it was read."""

    async def leader(self):
        """Retire who leads, then answer."""
        found = await super().leader()
        self._space().workers.pop("w")
        return found


async def test_a_leader_that_goes_between_two_reads():
    """It is not named, and nothing is raised."""
    clock = ManualClock()
    desk = Desk(TakenOver(clock=clock), clock)
    await desk.store.open()
    await desk.do(PutSchedule(Schedule("k", Timing(every=HOUR), "d", b"{}"), START))
    await led(desk)
    await desk.worker("v")
    found = await why(desk.store, "k")
    assert found is not None
    assert (found.cause, found.holder) == ("due", ("w",))
    assert "the worker that leads fires it" in found.sentence
