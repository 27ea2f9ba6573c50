"""The public surface used once, as users write it; pyright and mypy, both strict, prove it.

``assert_type`` does nothing at run time: what counts is that the checkers agree, and that the
lines marked as errors are errors (an unneeded ignore is one, too).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import assert_type

from perdure import App, Context, Run, Status, Worker, carry, constant, gather, now, step, uuid

app = App("memory://")


@dataclass(frozen=True)
class Services:
    """What bodies share."""

    greeting: str


@app.step(max_attempts=5, timeout="30s", backoff=constant("1s"))
async def charge(order_id: str, cents: int) -> str:
    """Return a receipt."""
    return f"{order_id}:{cents}"


@app.step
def weigh(order_id: str) -> float:
    """Return kilograms."""
    return float(len(order_id))


@step
async def notify(order_id: str) -> None:
    """Tell somebody."""


@app.workflow(max_attempts=3)
async def fulfil(order_id: str, *, cents: int = 1) -> str:
    """Charge and tell."""
    receipt = assert_type(await charge(order_id, cents), str)
    assert_type(await step("weigh", weigh, order_id), float)
    assert_type(await step("upper", str.upper, receipt), str)
    assert_type(await step.options(max_attempts=1)("notify", notify, order_id), None)
    child = assert_type(await greet.enqueue(order_id), Run[str])
    assert_type(await child.result(), str)
    assert_type(await gather(child, await greet.enqueue("b")), list[str])
    assert_type(await greet.run("c"), str)
    await asyncio.to_thread(carry(lambda: None))
    return f"{receipt} {now().isoformat()} {uuid()}"


@app.job
async def greet(ctx: Context[Services], name: str) -> str:
    """Greet; the context is no argument of a call."""
    return f"{ctx.services.greeting}, {name}"


@app.job(name="sum", queue="numbers")
def add(a: int, b: int = 1) -> int:
    """Add, in a thread."""
    return a + b


async def calls() -> None:
    """Call everything rightly."""
    run = assert_type(await fulfil.enqueue("o1", cents=5), Run[str])
    assert_type(await run.status(), Status)
    assert_type(await run.result(timeout="1m"), str)
    assert_type(await run.cancel(), Status)
    assert_type(await fulfil.delay("10m", "o1"), Run[str])
    assert_type(await fulfil.options(id="order-7", priority=1).enqueue("o1"), Run[str])
    assert_type(await add.enqueue(1, b=2), Run[int])
    assert_type(await add.run(1), int)
    assert_type(await greet.enqueue("Ada"), Run[str])
    assert_type(await charge("o1", 5), str)
    async with app, Worker(app, concurrency=10):
        pass


async def mistakes() -> None:
    """Call things wrongly: each line is an error to both checkers."""
    await fulfil.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fulfil.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fulfil.enqueue("o", price=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await add.delay("1s", "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await greet.options(id="x").enqueue(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await charge("o1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await step("weigh", weigh, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_the_surface_is_there() -> None:
    """What is used above exists; the checkers do the rest (`dev.py check`)."""
    assert calls.__name__ == "calls"
    assert mistakes.__name__ == "mistakes"
    assert {definition.name for definition in app.engine.registry} == {"fulfil", "greet", "sum"}
