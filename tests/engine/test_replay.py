"""Random bodies, killed at random: whatever the order of I/O, each branch finds its own records."""

import pytest

from tests.engine.conftest import MakePlace
from tests.engine.programs import killed_at_random

SEEDS = {"memory": 1_000}
SEEDS_ON_DISK = 50
PARTS = 5


@pytest.mark.parametrize("part", range(PARTS))
async def test_branches_killed_at_random_find_their_own_records(make_place: MakePlace, part: int):
    """Gather and TaskGroup with foreign I/O in random order: right results, no step repeated."""
    seeds = range(part, SEEDS.get(make_place.backend, SEEDS_ON_DISK), PARTS)
    kills = 0
    for seed in seeds:
        try:
            kills += (await killed_at_random(make_place(), seed)).kills
        except BaseException as error:
            error.add_note(f"seed {seed} of {__name__}")
            raise
    assert kills > len(seeds) / 3, "most lives must be killed, or this shows nothing"
