"""Processes of the feed's kill test: ``FILE DIRECTORY ROLE OPTIONS``; see processes.py.

Roles: ``work`` executes runs, ``enqueue`` starts so many, ``bill`` reads as the subscriber
``billing`` and notes each change in the log of effects before it asks for the next.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from perdure import App, Worker, step

DIRECTORY = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
app = App(f"sqlite:///{DIRECTORY / 'feed.db'}")


@app.workflow
async def fulfil(number: int) -> int:
    """Two steps."""
    return await step("pack", same, await step("pay", same, number))


async def same(number: int) -> int:
    """Return what was given."""
    return number


def note(position: str) -> None:
    """Append a change to the log, in one write, and have the disk take it."""
    log = os.open(DIRECTORY / "billed.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(log, f"{os.getpid()} {position}\n".encode())
        os.fsync(log)
    finally:
        os.close(log)


async def work() -> None:
    """Execute runs until killed."""
    async with app, Worker(app):
        await asyncio.get_running_loop().create_future()


async def enqueue(total: int) -> None:
    """Start runs, some alone and some together."""
    async with app:
        for number in range(total // 10):
            await fulfil.enqueue(number)
            await asyncio.gather(*(fulfil.enqueue(number) for _ in range(9)))


async def bill() -> None:
    """Note each change."""
    async with app:
        async for change in app.subscribe("billing"):
            note(change.position)


async def main(role: str, options: dict[str, int]) -> None:
    """Do what the role is."""
    match role:
        case "work":
            await work()
        case "enqueue":
            await enqueue(**options)
        case _:
            await bill()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2], json.loads(sys.argv[3])))
