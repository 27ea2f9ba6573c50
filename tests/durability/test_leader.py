"""Who fires schedules, with real processes on one file: killed, frozen and woken, stopped.

Instants that a schedule expects are counted from its first to its last: each must have been fired
or noted once, whoever led.
"""

import time
from datetime import timedelta
from itertools import pairwise
from typing import Any

from perdure.schedule import FireEntry
from tests.durability.processes import Effect, Process, fact
from tests.durability.yard import LONG, SHORT, TIMEOUT, Yard


def seen(
    yard: Yard, event: str, process: Process | None = None, *, step: int | None = None
) -> list[Effect]:
    """Return what was noted of that kind so far: of a process, of a term or an instant."""
    return [
        one
        for one in yard.effects.read()
        if one.event == event
        and (process is None or one.pid == process.pid)
        and step in {None, one.step}
    ]


async def elected(yard: Yard, term: int, process: Process) -> Effect:
    """Wait until a process leads in that term."""
    effects = await fact(f"term {term} begins", lambda: seen(yard, "elected", process, step=term))
    return effects[0]


async def fired(yard: Yard, process: Process, after: float) -> Effect:
    """Wait until a process has fired something after a moment; return the first."""

    def look() -> list[Effect]:
        return [one for one in seen(yard, "fired", process) if one.at > after]

    return (await fact("an instant is fired", look))[0]


async def leader_and_schedule(yard: Yard, **options: Any) -> tuple[Process, Any]:
    """Start a worker, which leads, and put a schedule of seconds that it fires."""
    first = await yard.worker(**options)
    await elected(yard, 1, first)
    every = await yard.perform.options(schedule_key="tick").schedule("1s", "tick", ())
    await fired(yard, first, 0.0)
    return first, every


async def all_expected(every: Any, yard: Yard, *others: str) -> list[FireEntry]:
    """Pause a schedule, and check that what became of its instants is what was expected.

    ``others`` are the runs that it has not started.
    """
    await every.pause()
    fires: list[FireEntry] = (await every.fires(1_000))[::-1]
    second = timedelta(seconds=1)
    for one, following in pairwise(fires):
        assert one.until == one.expected + (one.count - 1) * second
        assert following.expected == one.until + second
    started = [one.run for one in fires if one.run is not None]
    runs = await yard.app.runs(name="perform", limit=1_000)
    assert sorted([*started, *others]) == sorted(run.id for run in runs)
    # Each was told by whoever fired it, once; the last one's process may have had no time to tell.
    told = [effect.step for effect in seen(yard, "fired")]
    assert len(set(told)) == len(told)
    return fires


async def test_a_killed_leader_is_followed_at_once(yard: Yard, figure: Any) -> None:
    """The lock file says that it is dead; a lease of minutes need not run out."""
    first, every = await leader_and_schedule(yard, **LONG)
    second = await yard.worker(**LONG)
    first.kill()
    killed = time.monotonic()
    await elected(yard, 2, second)
    figure("from the kill of the leader to firing", (await fired(yard, second, killed)).at - killed)
    await all_expected(every, yard)


async def test_a_frozen_leader_is_followed_and_fires_nothing_when_it_wakes(
    yard: Yard, figure: Any
) -> None:
    """It loses the lead in the middle of everything, and hears of it on waking."""
    frozen, every = await leader_and_schedule(yard, **SHORT)
    others = [await yard.worker(**SHORT) for _ in range(2)]
    await yard.freeze(frozen)
    froze = time.monotonic()
    effects = await fact("term 2 begins", lambda: seen(yard, "elected", step=2))
    [second] = [one for one in others if one.pid == effects[0].pid]
    figure(
        "from the freeze of the leader to firing, with a lease of 1.5 s",
        (await fired(yard, second, froze)).at - froze,
    )
    before = seen(yard, "fired", frozen)
    thawed = time.monotonic()
    frozen.thaw()
    lost = (await fact("it hears of it", lambda: seen(yard, "lost", frozen)))[0]
    await fact("it works again", lambda: len(seen(yard, "ready", frozen)) == 2)
    for _ in range(2):
        await fired(yard, second, time.monotonic())
    assert seen(yard, "fired", frozen) == before
    assert (lost.step, lost.at > thawed) == (1, True)
    told = [(one.event, one.step) for one in yard.effects.read() if one.event in TOLD]
    assert told == [("elected", 1), ("elected", 2), ("lost", 1)]
    fires = await all_expected(every, yard)
    assert {one.outcome for one in fires} <= {"on_time", "missed"}


TOLD = ("elected", "lost", "handed_over")


async def test_a_stopped_leader_hands_over_at_once(yard: Yard, figure: Any) -> None:
    """Long before its lease is over; another's stop takes nothing from the leader."""
    first, every = await leader_and_schedule(yard, **LONG)
    other = await yard.worker(**LONG)
    second = await yard.worker(**LONG)
    other.stop()
    await yard.ended(other)
    stopped = time.monotonic()
    await fired(yard, first, stopped)
    first.stop()
    taken = await elected(yard, 2, second)
    [left] = await fact("it tells", lambda: seen(yard, "handed_over", first))
    figure("from handing over to leading", taken.at - left.at)
    await fired(yard, second, taken.at)
    await yard.ended(first)
    told = [(one.event, one.step) for one in yard.effects.read() if one.event in TOLD]
    assert sorted(told) == [("elected", 1), ("elected", 2), ("handed_over", 1)]
    fires = await all_expected(every, yard)
    assert {one.outcome for one in fires} == {"on_time"}


async def test_a_leader_whose_loop_is_blocked_is_followed(yard: Yard, figure: Any) -> None:
    """Its heart beats on, so its runs stay its own; but somebody else fires what is due."""
    blocked, every = await leader_and_schedule(yard, **SHORT)
    run = await yard.enqueue("blocks", "block", "go")
    await yard.started("blocks")
    began = time.monotonic()
    second = await yard.worker(**SHORT)
    await elected(yard, 2, second)
    effect = await fired(yard, second, began)
    figure("from the block of the leader's loop to firing, beats each 0.5 s", effect.at - began)
    yard.gates.open("blocks-0")
    lost = (await fact("it hears of it", lambda: seen(yard, "lost", blocked)))[0]
    assert lost.step == 1
    assert await run.result(timeout=TIMEOUT) == [blocked.pid, blocked.pid]
    await all_expected(every, yard, "blocks")
