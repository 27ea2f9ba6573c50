"""A process that works until it is killed at a boundary; ``crash_everywhere`` starts it.

``python -m perdure.testing._victim ORDER``, where ORDER is JSON. It ends with status 0 where it
finished without coming to its boundary.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure._platform import kill_this_process
from perdure.app import App
from perdure.stores.sqlite import SqliteStore
from perdure.testing._boundaries import Boundaries, InFlight
from perdure.testing._places import find
from perdure.testing._stage import Stage
from perdure.testing.clock import VirtualClock
from perdure.testing.effects import Effects


async def main(order: dict[str, Any]) -> None:
    """Work on the file in the home that the order names, and die at its commit."""
    home = Path(order["home"])
    app: App = find(order["app"])
    find(order["definition"])
    in_flight = InFlight(_reader(order, home), None)

    def die() -> None:
        _write(home / "crashed", json.dumps(in_flight.began()))
        kill_this_process()

    clock = VirtualClock()
    store = Boundaries(
        SqliteStore(home / "crash.db", clock=clock),
        crash_at=order["commit"],
        before=order["before"],
        die=die,
        applied=in_flight.applied,
    )
    patience = order["patience"]
    stage = Stage(app, store.store, clock, patience=patience, stand_in=in_flight.stand_in)
    await stage.connect()
    try:
        await stage.work()
        await stage.finish(lambda left: not left)
    finally:
        await stage.stop()


def _reader(order: dict[str, Any], home: Path) -> Callable[[], list[Any]]:
    if order["effects"] is None:
        return list
    found: Any = find(order["effects"])
    if isinstance(found, Effects):
        found.keep_in(home / "effects")
        return found.read
    return lambda: list(found())


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
