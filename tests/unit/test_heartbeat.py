"""The heart: whom it holds for dead, and when it knows that it cannot know."""

import asyncio

import pytest

from perdure import App
from perdure._engine.engine import Ports
from perdure._runtime.heartbeat import Heart, Pulse
from perdure.clock import SystemClock
from perdure.model.records import Control
from perdure.model.transitions import Heartbeat, RegisterWorker
from perdure.stores.memory import MemoryData, MemoryStore


class StandingClock(SystemClock):
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        """Return the time it was set to."""
        return self.seconds


class Freezing(MemoryStore):
    """A store in whose next read its caller's process is frozen for a while."""

    def __init__(self, data: MemoryData, clock: StandingClock) -> None:
        super().__init__(data=data)
        self._standing = clock
        self.freeze = 0.0

    async def workers(self):
        """Read, then stand still: what was read is as old as that."""
        found = await super().workers()
        self._standing.seconds += self.freeze
        self.freeze = 0.0
        return found

    async def apply(self, batch):
        """Apply, then stand still."""
        outcomes = await super().apply(batch)
        self._standing.seconds += self.freeze
        self.freeze = 0.0
        return outcomes


class Ward:
    """A heart that is ticked by hand, beside another worker; what it reports is kept."""

    def __init__(self) -> None:
        self.clock = StandingClock()
        self.store = Freezing(MemoryData(), self.clock)
        self.worker_id = "own"
        self.rescued: list[str] = []
        self.lead = None
        app = App(self.store, ports=Ports(clock=self.clock))
        self.heart = Heart(self, app.engine, Pulse.of("15s", "5s"))

    async def open(self) -> None:
        """Register both."""
        await self.store.open()
        for worker_id in ("own", "other"):
            await self.store.apply([RegisterWorker(worker_id, "host", 1, {}, (), 1)])

    async def tick(self, seconds: float, *, other_beats: bool = False) -> None:
        """Let time go by, a second at a time, and the heart tick in each."""
        for _ in range(int(seconds)):
            self.clock.seconds += 1
            if other_beats:
                await self.store.apply([Heartbeat("other")])
            await self.heart.tick(self.store)
            await asyncio.sleep(0)

    def controlled(self, run_id: str, control: Control) -> None:
        """Hear of it."""

    def miscounted(self, held: int) -> None:
        """Hear of it."""

    def lost(self) -> None:
        """Never be."""
        raise AssertionError("nobody rescues this one")

    def stalled(self) -> None:
        """Hear of it."""

    def rescue(self, worker_id: str, beat: int | None) -> None:
        """Keep whom it holds for dead."""
        self.rescued.append(worker_id)


@pytest.fixture
async def ward() -> Ward:
    """A ward with two workers."""
    ward = Ward()
    await ward.open()
    return ward


async def test_a_beat_that_stands_still_for_a_lease_is_that_of_a_dead_worker(ward):
    """Not before a lease has gone by since it was first seen, and not much later."""
    await ward.tick(15)
    assert ward.rescued == []
    await ward.tick(1)
    assert ward.rescued == ["other"]


async def test_a_beating_worker_lives(ward):
    """However long it is watched."""
    await ward.tick(60, other_beats=True)
    assert ward.rescued == []


async def test_who_was_frozen_between_two_looks_starts_over(ward):
    """While nobody looked, nothing was seen to stand still."""
    await ward.tick(10)
    ward.clock.seconds += 20
    await ward.tick(15)
    assert ward.rescued == []
    await ward.tick(1)
    assert ward.rescued == ["other"]


@pytest.mark.parametrize("seconds", [10, 14])
async def test_who_is_frozen_in_the_middle_of_a_look_starts_over(ward, seconds):
    """What was read before the freeze is old by then: a whole machine may have stood still."""
    await ward.tick(seconds)
    ward.store.freeze = 20
    await ward.tick(15)
    assert ward.rescued == []
    await ward.tick(1)
    assert ward.rescued == ["other"]
