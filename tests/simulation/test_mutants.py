"""The checker is worth something: it finds every planted bug, and nothing where none is planted."""

import time
from contextlib import suppress

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Broken, World

MOST = 2_000
"""Seeds within which a planted bug must be found."""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, figures: list[str]):
    """Some seed breaks the promise that is its own with the bug planted, and keeps it without."""
    plant, letters, families = MUTANTS[name]
    began = time.perf_counter()
    for seed in range(MOST):
        world = World(seed, families.split())
        with plant(), suppress(Broken):
            world.run()
        if world.broken is not None:
            break
    else:
        pytest.fail(f"{name} survived {MOST} seeds")
    assert world.broken.letter in letters.split(), f"seed {seed}: {world.broken}"
    took = time.perf_counter() - began
    figures.append(f"{name}: {seed + 1} seeds, {took:.1f} s: {str(world.broken)[:100]}")
    World(seed, families.split()).run()
