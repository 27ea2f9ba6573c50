"""Run seeds by hand: `python -m tests.simulation 17`, `0-200`, `--mutant split_claim 3`.

One seed prints its whole trace; several print what broke, and how fast they ran.
"""

# ruff: noqa: T201 -- it prints

import argparse
import time
from contextlib import nullcontext

from tests.simulation.mutants import MUTANTS
from tests.simulation.world import Broken, World, simulate


def seeds_of(text: str) -> range:
    """Return the seeds of `17` or `0-200`, the last one included."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", type=seeds_of)
    parser.add_argument("--mutant", choices=MUTANTS, help="with this bug planted")
    parser.add_argument("--digests", action="store_true", help="print only each trace's digest")
    options = parser.parse_args()
    with MUTANTS[options.mutant].plant() if options.mutant else nullcontext():
        if options.digests:
            for seed in options.seeds:
                print(seed, _run(seed).trace.digest())
        elif len(options.seeds) == 1:
            world = _run(options.seeds[0])
            print(world.settings, world.chaos.mix, *world.orders, sep="\n")
            print(*map("{}: {}".format, range(999), world.programs), sep="\n")
            print(*world.trace.lines(), world.broken or "every promise held", sep="\n")
        else:
            _run_all(options.seeds)


def _run(seed: int) -> World:
    world = World(seed)
    try:
        world.run()
    except Broken:
        return world
    return world


def _run_all(seeds: range) -> None:
    began = time.perf_counter()
    broken = simulate(seeds)
    took = time.perf_counter() - began
    for seed, world in broken.items():
        print(f"{seed}: {world.broken}")
    print(f"{len(seeds)} seeds, {len(seeds) / took:.1f} a second, {len(broken)} broken")


main()
