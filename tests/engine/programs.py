"""Random bodies made of gather and TaskGroup, and what must come out of them."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure import App, Workflow, step
from tests.engine.places import Place

Program = list[Any]
"""What one flow of control does in turn: `("step",)`, or `(how, [Program, ...])`, where how it
starts its branches is `gather`, `group` (TaskGroup), `calls` (a gather of step calls made by one
branch) or `tasks` (create_task, awaited from the last to the first)."""


def draw(rng: random.Random, depth: int = 0) -> Program:
    """Return a random program of two to about thirty steps."""
    program: Program = [("step",)] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 3 - depth)):
        how = rng.choice(["step", "gather", "group", "calls", "tasks"] if depth < 2 else ["step"])
        if how == "step":
            program.append(("step",))
        elif how == "calls":
            program.append((how, [[("step",)] for _ in range(rng.randint(2, 4))]))
        else:
            program.append((how, [draw(rng, depth + 1) for _ in range(rng.randint(2, 3))]))
    return program


def expected(program: Program, place: str = "") -> list[Any]:
    """Return what a program returns: each step the name of its place, each fan-out a list."""
    results: list[Any] = []
    for number, (how, *branches) in enumerate(program):
        here = f"{place}/{number}"
        if how == "step":
            results.append(here)
        elif how == "calls":
            results.append([f"{here}.{n}" for n in range(len(branches[0]))])
        else:
            results.append([expected(b, f"{here}.{n}") for n, b in enumerate(branches[0])])
    return results


@dataclass
class Stage:
    """Where a program is played, life after life: it counts, delays and kills.

    Attributes:
        executed: how often each step's body began, over all lives.
        began: the steps whose body began in this life.
        given: the steps whose result the body was given in this life.
        order: the same in the order of giving, those apart that one gather waited for.
        faults: how often each step was in flight when a life was killed.
        kills: how many lives were killed.
        moves: moves of foreign I/O until the next kill; none left for never.
    """

    program: Program
    rng: random.Random
    executed: Counter[str] = field(default_factory=Counter)
    began: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    moves: int = -1
    store: Any = None

    async def foreign(self) -> None:
        """Take a random number of turns of the loop, as I/O would; the process may die here."""
        for _ in range(self.rng.randint(0, 4)):
            await asyncio.sleep(0)
        self.moves -= 1
        if self.moves == 0:
            self.store.cut()

    def fetch(self, place: str) -> Any:
        """Return a step's body; all have one name and no argument: only their place differs."""

        async def fetch() -> str:
            self.executed[place] += 1
            self.began.add(place)
            await self.foreign()
            return place

        return fetch

    async def play(self, program: Program, place: str = "") -> list[Any]:
        """Perform a program as a body does."""
        results: list[Any] = []
        for number, (how, *branches) in enumerate(program):
            here = f"{place}/{number}"
            await self.foreign()
            if how == "step":
                results.append(await step("fetch", self.fetch(here)))
                self.given.add(here)
                self.order.append(here)
            elif how == "calls":
                names = [f"{here}.{n}" for n in range(len(branches[0]))]
                calls = [step("fetch", self.fetch(name)) for name in names]
                results.append(list(await asyncio.gather(*calls)))
                self.given.update(names)
            else:
                results.append(await self._fan_out(how, branches[0], here))
        return results

    async def _fan_out(self, how: str, branches: Sequence[Program], here: str) -> list[Any]:
        flows = [self.play(branch, f"{here}.{n}") for n, branch in enumerate(branches)]
        if how == "gather":
            return list(await asyncio.gather(*flows))
        if how == "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(flow) for flow in flows]
            return [task.result() for task in tasks]
        tasks = [asyncio.create_task(flow) for flow in flows]
        return [await task for task in reversed(tasks)][::-1]

    def define(self, app: App) -> Workflow[[], list[Any]]:
        """Declare the program as a workflow."""

        @app.workflow
        async def play() -> list[Any]:
            return await self.play(self.program)

        return play

    def aim(self, store: Any) -> None:
        """Choose where this life is killed: in foreign I/O, or before or after a batch."""
        self.store = store
        if self.rng.random() < 0.5:
            self.moves = self.rng.randint(1, 40)
            return
        batches = self.rng.randint(1, 12)

        def doom(_: object) -> bool:
            nonlocal batches
            batches -= 1
            return batches == 0

        store.doomed_batch_is_applied = self.rng.random() < 0.5
        store.doom = doom


async def killed_at_random(place: Place, seed: int) -> Stage:
    """Play a random program in lives killed at random, and check all that must hold."""
    rng = random.Random(seed)
    stage = Stage(draw(rng), rng)
    async with place.client(stage.define) as client:
        run = await client.flow.enqueue()
        for number in range(rng.randint(1, 3) + 1):
            is_last = await _live(place, stage, run, spare=number == 3)
            if is_last:
                break
        else:
            await _live(place, stage, run, spare=True)
        assert await run.result(timeout="5s") == expected(stage.program)
        recorded = Counter(await recorded_steps(client.store, run.id))
    assert set(recorded.values()) <= {1}, "a step is recorded twice"
    assert stage.executed == recorded + stage.faults, "a step was executed without a fault"
    return stage


async def _live(place: Place, stage: Stage, run: Any, *, spare: bool) -> bool:
    """Live until the run has ended or the life is killed; return whether the run has ended."""
    async with place.life(stage.define) as life:
        before = stage.order
        stage.moves, stage.began, stage.given, stage.order = -1, set(), set(), []
        if not spare:
            stage.aim(life.store)
        ended = asyncio.ensure_future(life.get(run).result())
        died = asyncio.ensure_future(life.store.died.wait())
        await asyncio.wait([ended, died], return_when=asyncio.FIRST_COMPLETED, timeout=10)
        has_ended = ended.done()
        for task in (ended, died):
            task.cancel()
        await asyncio.wait([ended, died])
        life.store.doom = None
        known = min(len(before), len(stage.order))
        assert stage.order[:known] == before[:known], "a replay gave outcomes in another order"
        if has_ended and not life.store.dead:
            return True
        assert life.store.dead, "neither ended nor killed"
        await life.kill()
        stage.kills += 1
    store = place.store()
    await store.open()
    recorded = set(await recorded_steps(store, run.id))
    await store.close()
    assert stage.given <= recorded, "the body was given what is not stored"
    stage.faults.update(stage.began - recorded)
    return has_ended


async def recorded_steps(store: Any, run_id: str) -> list[str]:
    """Return the places of the steps that have a record."""
    history = await store.history(run_id)
    return [json.loads(checkpoint.value) for checkpoint in history.checkpoints]
