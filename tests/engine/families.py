"""Parents and children: a parent whose body the test writes, and children that end when let go."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from perdure import App, Workflow
from tests.engine.places import Life

Body = Callable[["Family", Workflow[[int], int]], Awaitable[Any]]


class Family:
    """What the bodies of one test have done, and which children may end.

    Attributes:
        effects: `pass` for each pass of the parent's body, `child n` for each child's.
        gates: what each child waits for.
    """

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.gates: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    @property
    def passes(self) -> int:
        """How often the parent's body began."""
        return self.effects.count("pass")

    def let(self, *children: int) -> None:
        """Let children end."""
        for child in children:
            self.gates[child].set()

    def of(self, body: Body, **options: Any) -> Callable[[App], Any]:
        """Return what declares the child and a parent with this body; options are the parent's."""

        def define(app: App) -> Any:
            @app.workflow
            async def child(number: int) -> int:
                self.effects.append(f"child {number}")
                await self.gates[number].wait()
                return number * 10

            @app.workflow(**options)
            async def parent() -> Any:
                self.effects.append("pass")
                return await body(self, child)

            @app.workflow
            async def witness() -> int:
                return await (await child.enqueue(0)).result()

            self.child = child
            self.witness = witness
            return parent

        return define

    async def outwait(self, life: Life) -> None:
        """Return when a body that began to wait just now has been suspended.

        Whatever has been idle since before would have been suspended, too.
        """
        witness = await self.witness.enqueue()
        await life.reaches(witness, "waiting", "child")
        self.let(0)


async def one_child(_: Family, child: Workflow[[int], int]) -> int:
    """Await one child: the body of a parent."""
    return await (await child.enqueue(1)).result()
