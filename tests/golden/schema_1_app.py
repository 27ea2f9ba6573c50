"""What the golden database of schema 1 was made of; its code must stay as it is."""

import asyncio
import sys
from pathlib import Path

from perdure import App, NonRetryable, Status, Worker, gather, sleep
from perdure.stores.sqlite import SqliteStore

app = App()
failing = True


@app.step
async def charge(cents: int) -> str:
    """Return what is kept of a charge."""
    return f"charged {cents}"


@app.step(max_attempts=5, backoff=lambda number, error: "1h")
async def flaky(n: int) -> int:
    """Fail once, in the process that made the database."""
    if failing:
        raise ValueError("not yet")
    return n * 2


@app.step
async def broken() -> None:
    """Fail for good."""
    raise NonRetryable("broken for good")


@app.workflow(version="1")
async def paid(cents: int) -> str:
    """End completed."""
    return await charge(cents)


@app.workflow(version="1")
async def lost() -> str:
    """End failed, behind a caught failure."""
    try:
        await broken()
    except NonRetryable:
        await charge(1)
    raise ValueError("lost")


@app.workflow(version="1")
async def retried(n: int) -> int:
    """Wait for a step's next attempt."""
    await charge(n)
    return await flaky(n)


@app.workflow(version="1")
async def slept(n: int) -> str:
    """Sleep behind a step."""
    first = await charge(n)
    await sleep("1h")
    return f"{first}, {await charge(n + 1)}"


@app.workflow(version="1")
async def family(n: int) -> list[str]:
    """Wait for children that sleep."""
    children = [await slept.enqueue(number) for number in range(n)]
    return await gather(*children)


async def make(path: Path) -> None:
    """Fill a database with a run of each kind."""
    with app.override(store=SqliteStore(path)):
        await fill()


async def fill() -> None:
    """Create the runs, and let them come to rest."""
    async with app:
        async with Worker(app):
            await (await paid.options(id="paid", tags=("t",)).enqueue(5)).result()
            waiting = [
                await lost.options(id="lost").enqueue(),
                await retried.options(id="retried").enqueue(3),
                await slept.options(id="slept", unique_key="k").enqueue(7),
                await slept.options(id="paused").enqueue(8),
                await family.options(id="family").enqueue(3),
            ]
            for run in waiting:
                while await run.status() not in {Status.WAITING, Status.FAILED}:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await waiting[3].pause()
            cancelled = await slept.options(id="cancelled").enqueue(9)
            await cancelled.cancel(wait=True)
        await paid.options(id="queued", priority=3).enqueue(6)
        await paid.options(id="delayed").delay("1h", 6)


if __name__ == "__main__":
    asyncio.run(make(Path(sys.argv[1])))
