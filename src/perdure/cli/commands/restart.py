"""``perdure restart``: let runs begin again."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli._control import command_on_runs
from perdure.handle import Run
from perdure.model.records import Status


async def _restart(run: Run[Any], options: dict[str, Any]) -> Status:
    return await run.restart(
        from_step=options["from_step"],
        occurrence=options["occurrence"] or 1,
        pin=options["pin"],
    )


command = command_on_runs(
    "restart",
    """Let runs begin again, whatever has become of them: from their start, or from a step.

What was recorded before the step stands; it and everything after it is done again.""",
    _restart,
    lambda selection, _: selection.restart(),
    short_help="Let runs begin again, from the start or from a step.",
    options=(
        click.option("--from", "from_step", metavar="STEP", help="A step, as show names it."),
        click.option(
            "--occurrence",
            type=click.IntRange(1),
            help="With --from: which call of that step, counted from 1.",
        ),
        click.option("--pin", metavar="VERSION", help="Go on with this version of the code alone."),
    ),
)
