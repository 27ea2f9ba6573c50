"""``perdure pin``: have runs go on with one version of their code, or with any."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli._control import command_on_runs
from perdure.cli._failures import ExitCode, Failure
from perdure.handle import Run
from perdure.model.records import Status
from perdure.selection import BulkResult, Selection


def _version(options: dict[str, Any]) -> str | None:
    if (options["to"] is None) is not options["any"]:
        raise Failure(
            ExitCode.USAGE,
            "which version the runs are to go on with was not said, or twice",
            why="it is one that --to names, or with --any whichever takes them",
            do="perdure pin ID --to 2",
        )
    version: str | None = options["to"]
    return version


async def _pin(run: Run[Any], options: dict[str, Any]) -> Status:
    return await run.pin(_version(options))


async def _pin_all(selection: Selection, options: dict[str, Any]) -> BulkResult:
    return await selection.pin(_version(options))


command = command_on_runs(
    "pin",
    """Have runs go on with one version of their definition alone, from their next claim on.

What executes goes on with the code that it has. perdure versions tells which there are.""",
    _pin,
    _pin_all,
    short_help="Have runs go on with one version of their code, or with any.",
    options=(
        click.option("--to", metavar="VERSION", help="The version that they are to go on with."),
        click.option("--any", is_flag=True, help="They may go on with any version."),
    ),
    for_all=("to", "any"),
)
