"""``perdure pause``: let runs do nothing more until they are resumed."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli._control import control
from perdure.cli._places import place_of_store, place_options, settings_of
from perdure.handle import Run
from perdure.model.records import Status


@click.command("pause", short_help="Pause runs.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@place_options
@click.option("--wait", is_flag=True, help="Wait until each is paused.")
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
    """Let runs do nothing more until they are resumed; their timers stand still meanwhile.

    One that a worker holds is told at its next step; what executes is let finish.

    Each ID may be the beginning of an id. Of several, some may fail: then the exit code is 7.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def pause(run: Run[Any]) -> Status:
        return await run.pause(wait=wait)

    return control(place, ids, pause, in_json=in_json)
