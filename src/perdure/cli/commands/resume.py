"""``perdure resume``: let paused runs go on."""

from __future__ import annotations

from typing import Any

from perdure.cli._control import command_on_runs
from perdure.handle import Run
from perdure.model.records import Status


async def _resume(run: Run[Any], _: dict[str, Any]) -> Status:
    return await run.resume()


command = command_on_runs(
    "resume",
    """Let paused runs go on where they were; what they wait for is later by the pause.

A run that was paused by a mismatch is tried again by any worker that knows its definition.""",
    _resume,
    lambda selection, _: selection.resume(),
    short_help="Let paused runs go on.",
)
