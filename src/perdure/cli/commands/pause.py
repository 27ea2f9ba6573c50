"""``perdure pause``: let runs do nothing more until they are resumed."""

from __future__ import annotations

from typing import Any

from perdure.cli._control import command_on_runs
from perdure.handle import Run
from perdure.model.records import Status


async def _pause(run: Run[Any], wait: bool) -> Status:  # noqa: FBT001 -- called by position
    return await run.pause(wait=wait)


command = command_on_runs(
    "pause",
    """Let runs do nothing more until they are resumed; their timers stand still meanwhile.

One that a worker holds is told at its next step; what executes is let finish.""",
    _pause,
    short_help="Pause runs.",
    wait_help="Wait until each is paused.",
)
