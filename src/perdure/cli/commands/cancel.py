"""``perdure cancel``: end runs without a result."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli._control import control
from perdure.cli._places import place_of_store, place_options, settings_of
from perdure.handle import Run
from perdure.model.records import Status


@click.command("cancel", short_help="Cancel runs.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@place_options
@click.option("--wait", is_flag=True, help="Wait until each has ended.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    ids: tuple[str, ...],
    app: str | None,
    url: str | None,
    wait: bool,
    in_json: bool,
) -> int:
    """Ask runs to end without a result. One that a worker holds is told at its next step.

    Each ID may be the beginning of an id. Of several, some may fail: then the exit code is 7.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def cancel(run: Run[Any]) -> Status:
        return await run.cancel(wait=wait)

    return control(place, ids, cancel, in_json=in_json)
