"""``perdure retry``: try failed and cancelled runs again."""

from __future__ import annotations

from typing import Any

from perdure.cli._control import command_on_runs
from perdure.handle import Run
from perdure.model.records import Status


async def _retry(run: Run[Any], _: dict[str, Any]) -> Status:
    return await run.retry()


command = command_on_runs(
    "retry",
    """Try failed or cancelled runs again; recorded steps that succeeded are not repeated.""",
    _retry,
    lambda selection, _: selection.retry(),
    short_help="Try failed or cancelled runs again.",
)
