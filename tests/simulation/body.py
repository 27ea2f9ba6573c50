"""The body of every simulated run: interprets a program with the package's durable calls."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from perdure import (
    App,
    compensate,
    gather,
    now,
    random,
    sleep,
    step,
    uuid,
    wait_for_event,
)
from perdure._engine import scope as scopes
from perdure._engine.activation import Activation
from perdure.errors import EventTimeout, RunCancelled, RunFailed, StepTimeout
from perdure.model.records import StepOutcome
from perdure.retry import constant
from perdure.workflow import Workflow
from tests.simulation.effects import CLEANS, ON_CANCEL
from tests.simulation.programs import (
    Announce,
    Await,
    Branches,
    Children,
    Fatal,
    Flaky,
    Inline,
    Late,
    Nap,
    Nested,
    Node,
    Poison,
    Program,
    Race,
    Refusal,
    Repeat,
    Sleep,
    Step,
    Together,
    Undoable,
    Values,
)
from tests.simulation.tokens import make, mix, parts, plain

if TYPE_CHECKING:
    from tests.simulation.process import Process

NAMES = ("pay", "payment", "pay/ment")
"""The definitions; all carry out the program whose number they are given."""

EARS = ("ear", "ear/2")
"""Those that an event starts; the second one declines what it does not want."""

NARROW = "narrow"
"""The queue with limits, of :data:`LIMITED` and the first ear."""

LIMITED = NAMES[1]

PING = "ping"
"""The type of the events that waits take."""


@dataclass(frozen=True)
class Placed:
    """The event that starts runs."""

    number: int
    wanted: bool


def declare(app: App, process: "Process") -> dict[str, Workflow]:
    """Declare the definitions in an app of a process."""

    def bind() -> Callable:
        async def body(number: int) -> list[str]:
            return await carry_out(process, number)

        return body

    def bind_ear() -> Callable:
        async def body(placed: Placed) -> list[str]:
            return await carry_out(process, placed.number)

        return body

    async def clean() -> str:
        return await on_cancel(process)

    app.queue(NARROW, **process.world.limits)
    settings = {LIMITED: {"queue": NARROW}, CLEANS: {"on_cancel": clean}}
    definitions = {
        name: app.workflow(name=name, **settings.get(name, {}))(bind()) for name in NAMES
    }
    app.workflow(name=EARS[0], on=Placed, queue=NARROW)(bind_ear())
    app.workflow(name=EARS[1], on=Placed, where=lambda placed: placed.wanted)(bind_ear())
    process.definitions = definitions
    process.app = app
    return definitions


async def on_cancel(process: "Process") -> str:
    """Do what a definition has to do when it is cancelled."""
    scope = scopes.current()
    assert scope is not None, "it is a step"
    body = Body(process, scope.activation, "")
    return make(ON_CANCEL, mix(ON_CANCEL, ""), body.begin(ON_CANCEL))


async def carry_out(process: "Process", number: int) -> list[str]:
    """Interpret a program as the body of a run, or as a part of one."""
    scope = scopes.current()
    assert scope is not None, "a body has a scope"
    activation = scope.activation
    effects, desk = process.world.effects, process.desk
    inline = process.inlining.get((activation.grant, number))
    if inline is not None:
        effects.enter_inline(activation, inline)
        return (await Body(process, activation, f"{inline}:").block(number, "start"))[0]
    effects.enter(desk, activation)
    try:
        return (await Body(process, activation, "").block(number, "start"))[0]
    finally:
        effects.leave(desk, activation)


class Body:
    """One activation's way through a program."""

    def __init__(self, process: "Process", activation: Activation, prefix: str) -> None:
        self._process = process
        self._world = process.world
        self._effects = process.world.effects
        self._activation = activation
        self._prefix = prefix

    async def block(self, number: int, given: str) -> tuple[list[str], str]:
        return await self._nodes(self._world.programs[number], given)

    async def _nodes(self, nodes: Program, given: str) -> tuple[list[str], str]:
        tokens: list[str] = []
        for node in nodes:
            made, given = await self._node(node, given)
            tokens += made
        return tokens, given

    async def _node(self, node: Node, given: str) -> tuple[list[str], str]:  # noqa: C901, PLR0912 -- a table
        match node:
            case Step() | Flaky():
                return self._one(await self._call(node, given))
            case Late():
                return self._one(await self._late(node))
            case Fatal():
                return self._one(await self._fatal(node, given))
            case Repeat():
                return await self._repeat(node, given)
            case Nested():
                return self._one(await self._nested(node, given))
            case Together(steps=steps):
                tokens = await asyncio.gather(*[self._call(one, given) for one in steps])
                return tokens, parts(tokens[-1])[1]
            case Branches():
                made = await self._branches(node, given)
                return [token for tokens, _ in made for token in tokens], made[-1][1]
            case Nap(seconds=seconds):
                await asyncio.sleep(seconds)
                return [], given
            case Children():
                return await self._children(node, given)
            case Inline():
                return await self._inline(node)
            case Poison():
                return self._one(await self._poison(node, given))
            case Values(name=name):
                drawn = f"{uuid()} {random().random()} {now().isoformat()}"
                self._effects.observe_value(self._activation, self._place(name), drawn)
                return [], given
            case Sleep(name=name, seconds=seconds):
                await sleep(timedelta(seconds=seconds), name=name)
                return [], given
            case Await():
                return self._one(await self._await(node))
            case Race():
                return self._one(await self._race(node))
            case Announce(name=name, key=key):
                said = {"said": self._place(name)}
                await self._process.app.publish(said, type=PING, key=key)
                return [], given
            case Undoable():
                return self._one(await self._undoable(node, given))
            case Refusal(name=name, until=until):
                if self._activation.run.attempt < until:
                    raise ValueError(make(self._place(name), "refused"))
                return [], given

    async def _branches(self, node: Branches, given: str) -> list[tuple[list[str], str]]:
        if not node.grouped:
            return await asyncio.gather(*[self._nodes(one, given) for one in node.branches])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._nodes(one, given)) for one in node.branches]
        return [task.result() for task in tasks]

    def _place(self, name: str) -> str:
        return self._prefix + name

    def _one(self, token: str) -> tuple[list[str], str]:
        return [token], parts(token)[1]

    # --- steps -----------------------------------------------------------------------------------

    def _call(self, node: Step | Flaky, given: str):
        """Make the call now, so that its identity is fixed in the order of the calls."""
        place = self._place(node.name)
        if isinstance(node, Flaky):
            perform = step.options(
                max_attempts=node.attempts, backoff=constant(timedelta(seconds=node.backoff))
            )
            call = perform(node.name, self._failing(node, place, given))
            return self._observed(place, call)
        if node.threaded:
            call = step(node.name, self._plainly(place, given))
        elif node.takes:
            call = step(node.name, self._taking(place, node.work), given)
        else:
            call = step(node.name, self._working(place, given, node.work))
        return self._observed(place, call)

    async def _observed(self, place: str, call) -> str:
        """Await a step; a failure that is final counts as a value."""
        try:
            token = await call
            outcome = StepOutcome.OK
        except ValueError as error:
            token = str(error)
            outcome = StepOutcome.ERROR
        self._effects.observe(self._activation, place, parts(token)[2], outcome)
        return token

    def begin(self, place: str, *, attempts: int = 3, backoff: float = 1.0) -> int:
        world = self._world
        execution = self._effects.begin(
            self._process.desk, self._activation, place, world.timeline.now, world.now(),
            attempts=attempts, backoff=round(backoff * 1e6),
        )  # fmt: skip
        world.note("begin", self._process.name, world.ledger.alias(execution.run_id), place)
        return execution.number

    def _working(self, place: str, given: str, work: float):
        async def execute() -> str:
            number = self.begin(place)
            if work:
                await asyncio.sleep(work)
            return make(place, mix(place, given), number)

        return execute

    def _taking(self, place: str, work: float):
        async def execute(given: str) -> str:
            return await self._working(place, given, work)()

        return execute

    def _plainly(self, place: str, given: str):
        def execute() -> str:
            return make(place, mix(place, given), self.begin(place))

        return execute

    def _failing(self, node: Flaky, place: str, given: str):
        async def execute() -> str:
            failed = self._effects.failures(self._activation, place)
            number = self.begin(place, attempts=node.attempts, backoff=node.backoff)
            if node.work:
                await asyncio.sleep(node.work)
            if failed < node.fails:
                raise ValueError(make(place, "failed", number))
            return make(place, mix(place, given), number)

        return execute

    async def _late(self, node: Late) -> str:
        place = self._place(node.name)
        self._effects.timeouts.add(place)

        async def execute() -> None:
            self.begin(place, attempts=node.attempts)
            await asyncio.sleep(60.0)

        backoff = constant(timedelta(seconds=node.backoff))
        perform = step.options(max_attempts=node.attempts, backoff=backoff, timeout="500ms")
        try:
            await perform(node.name, execute)
        except StepTimeout:
            return make(place, "late")
        raise AssertionError("it slept for a minute within half a second")

    async def _fatal(self, node: Fatal, given: str) -> str:
        place = self._place(node.name)
        attempt = self._activation.run.attempt

        async def execute() -> str:
            number = self.begin(place, attempts=1)
            if node.work:
                await asyncio.sleep(node.work)
            if attempt < node.until:
                raise ValueError(make(place, "fatal", number))
            return make(place, mix(place, given), number)

        return await step.options(max_attempts=1)(node.name, execute)

    async def _repeat(self, node: Repeat, given: str) -> tuple[list[str], str]:
        tokens = []
        for k in range(node.times):
            place = f"{self._place(node.name)}#{k}"
            call = step(node.name, self._working(place, given, node.work))
            tokens.append(await self._observed(place, call))
            given = parts(tokens[-1])[1]
        return tokens, given

    async def _await(self, node: Await) -> str:
        place = self._place(node.name)
        timeout = timedelta(seconds=node.timeout)
        try:
            event = await wait_for_event(PING, key=node.key, timeout=timeout, name=node.name)
        except EventTimeout:
            value = "late"
        else:
            value = event.get("id") or event["said"]
        self._effects.observe_wait(self._activation, place, value)
        return make(place, value)

    async def _race(self, node: Race) -> str:
        place = self._place(node.name)
        event = asyncio.ensure_future(wait_for_event(PING, key=node.key, name=node.name))
        rival = asyncio.ensure_future(
            sleep(timedelta(seconds=node.seconds), name=f"{node.name}-rival")
        )
        try:
            done, late = await asyncio.wait({event, rival}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (event, rival):
                one.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for one in done:
            one.result()
        value = "late"
        if event in done:
            value = event.result().get("id") or event.result()["said"]
        self._effects.observe_wait(self._activation, place, value)
        return make(place, value)

    async def _undoable(self, node: Undoable, given: str) -> str:
        place = self._place(node.name)
        if node.early:
            self._register(node, place)
        call = step(node.name, self._working(place, given, node.work))
        token = await self._observed(place, call)
        if not node.early:
            self._register(node, place)
        return token

    def _register(self, node: Undoable, place: str) -> None:
        undo = self._place(node.undo)

        async def execute() -> str:
            failed = self._effects.failures(self._activation, undo)
            number = self.begin(undo, attempts=3, backoff=0.8)  # less what jitter takes
            if failed < node.fails:
                raise ValueError(make(undo, "failed", number))
            return make(undo, mix(undo, place), number)

        self._effects.register(self._activation, undo)
        compensate(node.undo, execute)

    async def _nested(self, node: Nested, given: str) -> str:
        place = self._place(node.name)

        async def execute() -> str:
            number = self.begin(place)
            _, made = await self._nodes(node.inner, given)
            return make(place, mix(place, made), number)

        return await self._observed(place, step(node.name, execute))

    async def _poison(self, node: Poison, given: str) -> str:
        place = self._place(node.name)

        async def execute() -> str:
            number = self.begin(place)
            entry = self._world.ledger.runs[self._activation.run.run_id]
            if entry.crashes < node.until:
                await self._process.die("poison")
            return make(place, mix(place, given), number)

        return await self._observed(place, step(node.name, execute))

    # --- children --------------------------------------------------------------------------------

    async def _children(self, node: Children, given: str) -> tuple[list[str], str]:
        definition = self._process.definitions[NAMES[len(node.programs) % len(NAMES)]]
        places = [f"{self._place(node.name)}#{k}" for k in range(len(node.programs))]
        runs = [
            await definition.options(tags=(place,)).enqueue(number)
            for place, number in zip(places, node.programs, strict=True)
        ]
        tokens = []
        if node.joined:
            with suppress(RunFailed, RunCancelled):  # each is looked at below
                await gather(*runs)
        for place, run in zip(places, runs, strict=True):
            try:
                status, value = "completed", plain(await run.result())
            except RunFailed:
                status, value = "failed", "failed"
            except RunCancelled:
                status, value = "cancelled", "cancelled"
            self._effects.observe_child(self._activation, place, run.id, status)
            tokens.append(make(place, mix(place, value)))
        return tokens, parts(tokens[-1])[1]

    async def _inline(self, node: Inline) -> tuple[list[str], str]:
        place = self._place(node.name)
        key = (self._activation.grant, node.program)
        self._process.inlining[key] = place
        tokens = await self._process.definitions[NAMES[0]].run(node.program)
        return tokens, mix(place, plain(tokens))
