"""Random faults on several workers at once, and what may be repeated because of them."""

import random
import time
from collections import defaultdict
from functools import partial
from itertools import pairwise

import pytest

from perdure import Run, Status
from tests.durability.processes import Effect, Process, fact
from tests.durability.yard import SHORT, Yard

ACTS = ("go", "linger", "yield", "linger", "go")
WORKERS = 3
FAULTS = 20


class Storm:
    """Workers that are hit again and again, and from when to when each was.

    One that was frozen is hit until it has joined again: before it hears that it was rescued it may
    begin one more step, though it can write nothing.
    """

    def __init__(self, yard: Yard, seed: int) -> None:
        self.yard = yard
        self.chance = random.Random(seed)
        self.faults: dict[int, list[tuple[float, float]]] = defaultdict(list)
        self.living: list[Process] = []
        self.runs: dict[str, Run[list[int]]] = {}

    def start(self) -> None:
        """Start a worker, which is not waited for."""
        self.living.append(self.yard.fleet.start("work", grace="50ms", **SHORT))

    async def work(self) -> None:
        """Create some runs, and wait until some of their steps have been started."""
        before = len(self.yard.effects.read())
        names = [f"run{len(self.runs) + count}" for count in range(self.chance.randrange(5, 60))]
        calls = [((name, ACTS), {}) for name in names]
        created = await self.yard.perform.enqueue_many(calls)
        self.runs.update(zip(names, created, strict=True))
        enough = before + self.chance.randrange(1, 2 * len(names) * len(ACTS))
        await fact("some work is done", lambda: len(self.yard.effects.read()) > enough)

    async def hit(self) -> None:
        """Hit a worker."""
        victim = self.chance.choice(self.living)
        await self.yard.working(victim)
        how = self.chance.choice([self.kill, self.kill, self.stop, self.freeze, self.blink])
        began = time.monotonic()
        await how(victim)
        self.faults[victim.pid].append((began, time.monotonic()))

    async def kill(self, victim: Process) -> None:
        """End it without a warning."""
        victim.kill()
        await self.replace(victim)

    async def stop(self, victim: Process) -> None:
        """Ask it to stop: what does not end within the grace is given up and repeated."""
        victim.stop()
        await self.replace(victim)

    async def freeze(self, victim: Process) -> None:
        """Let it stand still until it is rescued, and then go on."""
        await self.yard.freeze(victim)
        await fact("it is rescued", partial(self._is_gone, victim))
        victim.thaw()
        await fact("it has joined again", partial(self._is_there, victim))

    async def _is_gone(self, victim: Process) -> bool:
        return victim.pid not in await self.yard.workers()

    async def _is_there(self, victim: Process) -> bool:
        return victim.pid in await self.yard.workers()

    async def blink(self, victim: Process) -> None:
        """Let it stand still, so shortly that nobody can tell."""
        victim.freeze()
        victim.thaw()

    async def replace(self, victim: Process) -> None:
        """Start another when it has ended."""
        await self.yard.ended(victim)
        self.living.remove(victim)
        self.start()

    def starts(self) -> dict[tuple[str, int], list[Effect]]:
        """Return the executions of each step, in order."""
        found = defaultdict(list)
        for effect in self.yard.effects.read():
            if effect.event == "start":
                found[effect.run, effect.step].append(effect)
        return found

    def was_hit(self, pid: int, after: float, before: float) -> bool:
        """Tell whether a worker was hit between two moments."""
        return any(began <= before and ended >= after for began, ended in self.faults[pid])


@pytest.mark.tier(2)
@pytest.mark.parametrize("seed", range(4))
async def test_seeded_kills_freezes_and_stops_repeat_only_what_they_hit(yard, figure, seed):
    """Every run completes with one outcome a step, and no step is repeated without a fault."""
    storm = Storm(yard, seed)
    for _ in range(WORKERS):
        storm.start()
    for _ in range(FAULTS):
        await storm.work()
        await storm.hit()
    results = {name: await run.result(timeout="60s") for name, run in storm.runs.items()}

    starts = storm.starts()
    repeated = 0
    for name, run in storm.runs.items():
        history = await run.history()
        assert (history.status, history.attempt) == (Status.COMPLETED, 1)
        assert {attempt.outcome for attempt in history.attempts} <= {"crashed"}
        assert [(step.outcome, step.tries) for step in history.steps] == [("ok", 1)] * len(ACTS)
        for number, pid in enumerate(results[name]):
            executions = starts[name, number]
            assert yard.effects.find("end", name, number, pid=pid)
            for one, following in pairwise(executions):
                repeated += 1
                assert storm.was_hit(one.pid, one.at, following.at), (name, number, executions)
    figure(f"{len(storm.runs)} runs, {FAULTS} faults, repeated steps", repeated)
