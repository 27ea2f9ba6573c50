"""Cancel against completion, very often: what is answered, stored and told to a waiter agree."""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from perdure import App, Status, step
from perdure.errors import InvalidTransition, RunCancelled
from tests.engine.places import Place

RACES = 10_000
AT_ONCE = 500


LATE = -1
"""Turns of the loop for a cancel that is sure to come too late."""


def define(app: App) -> Any:
    async def work(n: int) -> int:
        return n

    async def flow(n: int) -> int:
        return n if n % 2 else await step("work", work, n)

    return app.workflow(flow)


async def outcome(run: Any) -> str:
    """Return what a waiter is told."""
    try:
        return f"returned {await run.result(timeout='60s')}"
    except RunCancelled:
        return "cancelled"


async def answer(run: Any, turns: int) -> str:
    """Cancel after so many turns of the loop, or when it has ended; return what that answers."""
    if turns == LATE:
        await outcome(run)
    for _ in range(turns):
        await asyncio.sleep(0)
    try:
        return str(await run.cancel())
    except InvalidTransition:
        return "refused"


async def race(flow: Any, n: int, turns: int) -> tuple[str, str, str]:
    """Start a run, wait for it and cancel it; return the three answers."""
    run = await flow.enqueue(n)
    told, answered = await asyncio.gather(outcome(run), answer(run, turns))
    return answered, told, str(await run.status())


@pytest.mark.parametrize("others", [False, True], ids=["same process", "another"])
async def test_ten_thousand_races_agree(place: Place, others: bool):
    """A cancel that was accepted is kept, one that was refused has changed nothing.

    Half of the races are in this test's one case, half in the other.
    """
    chance = Random(7)
    seen: Counter[tuple[str, bool]] = Counter()
    async with place.life(define, concurrency=AT_ONCE) as life, place.client(define) as client:
        flow = client.flow if others else life.flow
        for start in range(0, RACES // 2, AT_ONCE):
            turns = [chance.choice((0, 1, 3, 10, 40, 200)) for _ in range(AT_ONCE)]
            turns[0] = LATE  # on a busy machine no other may be late enough to be refused
            numbers = range(start, start + AT_ONCE)
            races = [race(flow, n, turn) for n, turn in zip(numbers, turns, strict=True)]
            for n, (answered, told, status) in zip(
                numbers, await asyncio.gather(*races), strict=True
            ):
                is_kept = answered in {Status.CANCELLED, Status.RUNNING}
                expected = "cancelled" if is_kept else f"returned {n}"
                assert (told, status) == (expected, "cancelled" if is_kept else "completed"), n
                seen[answered, is_kept] += 1
    assert sum(seen.values()) == RACES // 2
    assert {answered for answered, _ in seen} >= {"cancelled", "refused"}
