"""``perdure pause``: let runs do nothing more until they are resumed."""

from __future__ import annotations

from typing import Any

from perdure.cli._control import command_on_runs, wait_option
from perdure.handle import Run
from perdure.model.records import Status


async def _pause(run: Run[Any], options: dict[str, Any]) -> Status:
    return await run.pause(wait=options["wait"])


command = command_on_runs(
    "pause",
    """Let runs do nothing more until they are resumed; their timers stand still meanwhile.

One that a worker holds is told at its next step; what executes is let finish.""",
    _pause,
    lambda selection, _: selection.pause(),
    short_help="Pause runs.",
    options=(wait_option("Wait until each is paused."),),
)
