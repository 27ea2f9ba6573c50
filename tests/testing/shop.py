"""An app as its author would declare it, for the tests of the kit: also for killed processes."""

import asyncio
from dataclasses import dataclass

from perdure import App, Context, NonRetryable, carry, constant, exponential, gather, step
from perdure.testing import Effects

app = App("sqlite:///never-opened.db", services="nobody")
ledger = Effects()
plain: list[str] = []


@dataclass
class Order:
    id: str
    cents: int


@app.step(max_attempts=5, backoff=exponential("30d", cap="90d"))
async def charge(order_id: str, cents: int) -> str:
    ledger.note(f"charge {order_id}")
    return f"paid {cents}"


def reserve(order_id: str) -> str:
    ledger.note(f"reserve {order_id}")
    return "reserved"


@app.workflow
async def pack(order_id: str, boxes: int = 1) -> str:
    """One child."""
    return await step("fold", fold, order_id, boxes)


async def fold(order_id: str, boxes: int) -> str:
    ledger.note(f"fold {order_id}")
    return f"{boxes} boxes"


@app.workflow
async def fulfil(order: Order) -> str:
    """Step, child, step in a thread, two at once, join."""
    payment = await charge(order.id, order.cents)
    packing = await pack.enqueue(order.id, boxes=2)
    stock = await step("reserve", reserve, order.id)
    await asyncio.gather(step("left", fold, order.id, 1), step("right", fold, order.id, 2))
    (boxes,) = await gather(packing)
    return f"{payment}, {stock}, {boxes}"


@app.workflow
async def bundle(order_id: str) -> list[str]:
    """Nothing but waiting for children."""
    packings = [await pack.enqueue(order_id, boxes=boxes) for boxes in (1, 2)]
    return await gather(*packings)


@app.workflow
def in_a_thread(order_id: str) -> str:
    """A body written with `def`."""
    return step.sync("reserve", reserve, order_id)


@app.job(max_attempts=4, backoff=constant("3d"))
async def refund(ctx: Context[str], order_id: str) -> str:
    """Fails twice."""
    if ctx.attempt < 3:
        raise ConnectionError("the bank is closed")
    return f"refunded by {ctx.services}"


@app.workflow
async def refuse(order_id: str) -> str:
    """Ends failed after a step."""
    await charge(order_id, 1)
    raise NonRetryable("no")


@app.workflow
async def outside_of_steps(order_id: str) -> str:
    """Acts on the world in its body, which is repeated by every replay."""
    plain.append("mail")
    return await charge(order_id, 1)


@app.workflow
async def hangs() -> None:
    """Waits for something that is not durable."""
    await step("reserve", reserve, "h")
    await asyncio.get_running_loop().create_future()


@app.workflow
async def swallows() -> str:
    """Catches what it must let pass."""
    child = await pack.options(queue="slow").delay("1d", "s")
    try:
        return await child.result()
    except BaseException:  # noqa: BLE001 -- the mistake
        return "went on"


async def never_set() -> None:
    await asyncio.get_running_loop().create_future()


@app.workflow
async def hanging_step() -> str:
    """A step hangs until its own timeout."""
    try:
        await step.options(timeout="30s", max_attempts=1)("wait", never_set)
    except TimeoutError:
        return "gave up"
    return "?"


@app.workflow
async def nested(order_id: str) -> str:
    """A back-off inside of a step, which keeps the step in memory."""
    return await step.options(timeout=None)("outer", outer, order_id)


async def outer(order_id: str) -> str:
    return await charge(order_id, 7)


@app.workflow
async def computed(number: int) -> str:
    """A step whose name is computed."""
    return await step(f"fetch-{number}", reserve, "c")


@app.workflow
async def carried() -> str:
    """A step called in a thread of the body's own."""
    return await asyncio.get_running_loop().run_in_executor(
        None, carry(lambda: step.sync("reserve", reserve, "t"))
    )
