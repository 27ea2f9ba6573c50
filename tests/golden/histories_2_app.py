"""What recorded the golden histories of `histories_2.json`; its code must stay as it is.

They are of what came after schema 1: events, sleeps, patches, children by one call, blocks,
compensations, restarts and forks, streams, progress, loops, versions.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from perdure import (
    App,
    EventTimeout,
    Run,
    Worker,
    block_on,
    compensate,
    gather,
    now,
    patched,
    progress,
    sleep,
    step,
    stream,
    uuid,
    wait_for_event,
)
from perdure.testing import dump_history

app = App("memory://")
lines = stream("lines", str)


@dataclass
class Packed:
    """What a body waits for."""

    order_id: str
    box: str


@app.step
async def note(text: str) -> str:
    """Return a text."""
    return f"noted {text}"


@app.workflow(version="1")
async def fulfil(order_id: str) -> str:
    """Wait for an event, and for one that never comes."""
    compensate(note, f"undo {order_id}")
    await note(order_id)
    packed = await wait_for_event(Packed, key=order_id, timeout="1h")
    try:
        await wait_for_event("Shipped", timeout="50ms", name="shipped")
    except EventTimeout:
        await sleep("50ms")
    return packed.box


@app.workflow(version="1")
async def undone(order_id: str) -> None:
    """Fail behind two compensations."""
    compensate(note, "undo a")
    await note("a")
    compensate("named", note, "undo b")
    await note("b")
    raise ValueError(order_id)


@app.job(version="1", on_parent_close="cancel")
async def part(number: int) -> int:
    """Be a child."""
    return number * 2


@app.workflow(version="1")
async def family(count: int) -> int:
    """Start children by one call, and one by one."""
    runs = await part.enqueue_many([((number,), {}) for number in range(count)])
    one = await part.options(on_parent_close="wait").enqueue(100)
    return sum(await gather(one, *(run for run in runs if isinstance(run, Run))))


@app.workflow(version="1")
def in_def(count: int) -> int:
    """Do it in a body written with def."""
    text = step.sync("length", len, "abc")
    return block_on(block_on(part.enqueue(count)).result()) + text


@app.workflow(version="1")
async def tells(count: int) -> str:
    """Give out items, say how far it is, and draw values."""
    for number in range(count):
        lines.write(f"line {number}")
        progress(number)
        await note(str(number))
    lines.close()
    if patched("wordy"):
        await note("wordy")
    return f"{uuid()} {now():%Y}"


@app.workflow(version="1")
async def loop(left: int) -> int:
    """Continue as new."""
    await note(str(left))
    if left:
        loop.continue_as_new(left - 1)
    return left


@app.workflow(version="2", pinned=True)
async def pinned(text: str) -> str:
    """Be of the second version."""
    return await note(f"2 {text}")


@pinned.earlier("1")
async def pinned_1(text: str) -> str:
    """Be of the first."""
    return await note(f"1 {text}")


async def record() -> list[str]:
    """Run all of them, and return what is recorded of each."""
    async with app, Worker(app):
        order = await fulfil.enqueue("o1")
        await app.publish(Packed("o1", "b7"), key="o1")
        told = await tells.enqueue(3)
        runs = [
            order,
            await undone.enqueue("o2"),
            await family.enqueue(3),
            await in_def.enqueue(4),
            told,
            await loop.enqueue(2),
            await pinned.enqueue("x"),
        ]
        for run in runs:
            await ended(run)
        forked = await told.fork(from_step="note", occurrence=3)
        await ended(forked)
        await told.restart(from_step="note", occurrence=2)
        await ended(told)
        histories = [await app.engine.store.history(run.id) for run in [*runs, forked]]
        return [dump_history(history) for history in histories if history is not None]


async def ended(run: Run[object]) -> None:
    """Wait for the end of a run, however it ends."""
    await asyncio.wait([asyncio.ensure_future(run.result(timeout="30s"))])


if __name__ == "__main__":
    recorded = asyncio.run(record())
    Path(sys.argv[1]).write_text("[\n" + ",\n".join(recorded) + "\n]\n", "utf-8")
