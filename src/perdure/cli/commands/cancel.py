"""``perdure cancel``: end runs without a result."""

from __future__ import annotations

from typing import Any

from perdure.cli._control import command_on_runs
from perdure.handle import Run
from perdure.model.records import Status


async def _cancel(run: Run[Any], wait: bool) -> Status:  # noqa: FBT001 -- called by position
    return await run.cancel(wait=wait)


command = command_on_runs(
    "cancel",
    """Ask runs to end without a result. One that a worker holds is told at its next step.""",
    _cancel,
    short_help="Cancel runs.",
    wait_help="Wait until each has ended.",
)
