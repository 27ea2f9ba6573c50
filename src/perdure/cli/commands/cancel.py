"""``perdure cancel``: end runs without a result."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli._control import command_on_runs, wait_option
from perdure.handle import Run
from perdure.model.records import Status


async def _cancel(run: Run[Any], options: dict[str, Any]) -> Status:
    return await run.cancel(compensate=options["compensate"], wait=options["wait"])


command = command_on_runs(
    "cancel",
    """Ask runs to end without a result. One that a worker holds is told at its next step.""",
    _cancel,
    lambda selection, _: selection.cancel(),
    short_help="Cancel runs.",
    options=(
        wait_option("Wait until each has ended."),
        click.option(
            "--compensate", is_flag=True, help="Undo what their bodies have registered, first."
        ),
    ),
)
