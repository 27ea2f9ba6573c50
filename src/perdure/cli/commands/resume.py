"""``perdure resume``: let paused runs go on."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli._control import control
from perdure.cli._places import place_of_store, place_options, settings_of
from perdure.handle import Run
from perdure.model.records import Status


@click.command("resume", short_help="Let paused runs go on.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    ids: tuple[str, ...],
    app: str | None,
    url: str | None,
    in_json: bool,
) -> int:
    """Let paused runs go on where they were; what they wait for is later by the pause.

    A run that was paused by a mismatch is tried again by any worker that knows its definition.

    Each ID may be the beginning of an id. Of several, some may fail: then the exit code is 7.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def resume(run: Run[Any]) -> Status:
        return await run.resume()

    return control(place, ids, resume, in_json=in_json)
