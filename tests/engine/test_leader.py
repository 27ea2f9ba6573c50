"""The leader: of the workers of a namespace one fires and prunes, and the next one when it goes."""

import asyncio
from typing import Any

import pytest

from perdure import App, Scheduler
from perdure._runtime import leader as leaders
from perdure._runtime import pruner
from perdure.model.leader import Lead, LeaveLead, TakeLead
from perdure.model.transitions import RegisterWorker, RetireWorker
from perdure.telemetry import LeaderElected, LeaderHook, LeaderLost
from tests.engine.places import Life, Place, eventually


def counting(app: App) -> Any:
    """Declare a job that a schedule can start."""

    @app.job
    async def count(n: int = 1) -> int:
        return n

    return count


def lead_of(life: Life) -> Lead | None:
    """Return what the worker of a life leads by."""
    assert life.worker is not None
    assert life.worker.leader is not None
    return life.worker.leader.lead


async def leads(life: Life, term: int) -> None:
    """Wait until the worker of a life leads, in that term."""
    assert life.worker is not None
    lead = Lead(life.worker.worker_id, term)
    await eventually(lambda: lead_of(life) == lead)
    record = await life.store.leader()
    assert (record.worker_id, record.term) == (lead.worker_id, lead.term)


async def has_fired(life: Life, key: str, times: int) -> bool:
    """Tell whether a schedule has so many rows of fires."""
    return len(await life.app.schedule(key).fires()) >= times


async def test_one_of_many_leads_and_the_others_ask_for_nothing(place: Place):
    """They hear who leads with their claims, and read neither schedules nor the leader."""
    asked: list[str] = []
    async with place.life(counting) as first:
        await leads(first, 1)
        async with place.life(counting) as second, place.life(counting) as third:
            await eventually(lambda: all(one.worker._poll_timer for one in (second, third)))  # type: ignore[union-attr]
            for life in (second, third):
                for name in ("schedules", "leader"):
                    setattr(life.app.engine.store, name, lambda *_, **__: asked.append("read"))
            every = await first.flow.schedule("1s")
            await eventually(lambda: has_fired(first, every.key, 3))
            assert (lead_of(second), lead_of(third), asked) == (None, None, [])


async def test_a_stop_hands_the_lead_over_before_its_bodies_end(place: Place):
    """Another worker leads while the stopping one still waits for what it executes."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def slow() -> None:
            begun.set()
            await may_end.wait()

        return slow

    told: list[tuple[str, int, Any]] = []

    def noted(app: App) -> Any:
        app.on(LeaderHook)(
            lambda hook: told.append(
                (type(hook).__name__, hook.term, getattr(hook, "handed_over", None))
            )
        )
        return define(app)

    async with place.life(noted) as first:
        await leads(first, 1)
        await first.flow.enqueue()
        await begun.wait()
        async with place.life(define, concurrency=1) as second:
            stopping = asyncio.create_task(first.stop())
            await leads(second, 2)
            assert not stopping.done()
            may_end.set()
            await stopping
            await leads(second, 2)
    assert told == [("LeaderElected", 1, None), ("LeaderLost", 1, True)]


async def test_the_stop_of_another_leaves_the_lead(place: Place):
    """It removes only what is its own."""
    async with place.life(counting) as first:
        await leads(first, 1)
        async with place.life(counting) as second:
            await eventually(lambda: second.worker._poll_timer is not None)  # type: ignore[union-attr]
        await leads(first, 1)


async def test_a_killed_leader_is_followed(place: Place):
    """By whoever finds it dead; the schedule goes on."""
    async with place.life(counting) as first:
        await leads(first, 1)
        every = await first.flow.schedule("1s")
        async with place.life(counting) as second:
            await first.kill()
            await leads(second, 2)
            fired = len(await second.app.schedule(every.key).fires())
            await eventually(lambda: has_fired(second, every.key, fired + 1))


async def test_a_worker_that_is_full_leads(place: Place):
    """It claims nothing that could tell it, and asks by itself."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    def define(app: App) -> Any:
        @app.workflow
        async def slow() -> None:
            begun.set()
            await may_end.wait()

        return slow

    async with place.life(counting) as first:
        await leads(first, 1)
        async with place.life(define, concurrency=1) as second:
            await second.flow.enqueue()
            await begun.wait()
            await first.stop()
            await leads(second, 2)
            may_end.set()


async def test_a_worker_that_leaves_it_to_others_never_leads(place: Place):
    """A scheduler alone does, which has no slots."""
    async with place.life(counting, scheduler=False) as life:
        assert life.worker is not None
        assert life.worker.leader is None
        assert (await life.store.leader()).worker_id is None
        async with Scheduler(App(place.store())):
            record = await eventually(lambda: led(life))
            [scheduler] = [one for one in await life.app.workers() if one.id == record.worker_id]
            assert (scheduler.slots, scheduler.definitions) == (0, {})
            every = await life.flow.schedule("1s")
            await eventually(lambda: has_fired(life, every.key, 1))
        assert (await life.store.leader()).worker_id is None


async def test_a_scheduler_alone_prunes_as_the_workers_say(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """It knows nothing of the app's retention of events but what is stored."""
    monkeypatch.setattr(pruner, "EVERY", 0.01)

    def define(app: App) -> Any:
        app.configure(event_retention="0s")
        return counting(app)

    async with place.life(define, scheduler=False) as life:
        await life.app.publish("nobody hears", type="T")
        async with Scheduler(App(place.store())):

            async def is_gone() -> bool:
                return not await life.app.events()

            await eventually(is_gone)


async def led(life: Life) -> Any:
    """Return who leads; None while nobody does."""
    record = await life.store.leader()
    return record if record.worker_id is not None else None


async def test_a_leader_whose_term_is_over_fires_nothing(place: Place):
    """It hears of it where it fires, tells so, and leads again when the lead is vacant."""
    told: list[LeaderHook] = []

    def define(app: App) -> Any:
        app.on(LeaderHook)(told.append)
        return counting(app)

    async with place.life(define) as life:
        await leads(life, 1)
        lead = lead_of(life)
        assert lead is not None
        other = RegisterWorker("other", "host", 1, {}, (), 0)
        await life.store.apply([other, LeaveLead(lead), TakeLead("other", 2)])
        every = await life.flow.schedule("1s")
        await eventually(lambda: lead_of(life) is None)
        assert await every.fires() == []
        await life.store.apply([RetireWorker("other")])
        await leads(life, 3)
        await eventually(lambda: has_fired(life, every.key, 1))
    assert [(type(one), one.term) for one in told] == [
        (LeaderElected, 1),
        (LeaderLost, 1),
        (LeaderElected, 3),
        (LeaderLost, 3),
    ]
    assert [one.handed_over for one in told if isinstance(one, LeaderLost)] == [False, True]


@pytest.mark.parametrize("applied", [True, False], ids=["after", "before"])
async def test_a_kill_as_it_takes_the_lead_leaves_it_to_the_next(place: Place, applied: bool):
    """Whether it was given the lead or not."""
    async with place.life(counting) as first:
        await leads(first, 1)
        async with place.life(counting) as second:
            second.store.doom = lambda batch: any(isinstance(one, TakeLead) for one in batch)
            second.store.doomed_batch_is_applied = applied
            await first.stop()
            await asyncio.wait_for(second.store.died.wait(), 10)
            await second.kill()
    async with place.life(counting) as third:
        await leads(third, 3 if applied else 2)


async def test_a_full_worker_goes_on_asking_who_leads(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    """A full worker looks again and again, also where somebody leads."""
    monkeypatch.setattr(leaders, "POLL", 0.01)
    async with place.life(counting) as first:
        await leads(first, 1)
        begun = asyncio.Event()

        def define(app: App) -> Any:
            @app.workflow
            async def slow() -> None:
                begun.set()
                await asyncio.get_running_loop().create_future()

            return slow

        async with place.life(define, concurrency=1, grace="1ms") as full:
            await full.flow.enqueue()
            await begun.wait()
            looks = 0
            real = full.store.leader

            async def leader() -> Any:
                nonlocal looks
                looks += 1
                return await real()

            full.store.leader = leader  # type: ignore[method-assign]
            await eventually(lambda: looks >= 3)
