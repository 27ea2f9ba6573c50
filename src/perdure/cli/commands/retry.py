"""``perdure retry``: try failed and cancelled runs again."""

from __future__ import annotations

from typing import Any

import click

from perdure.cli._control import control
from perdure.cli._places import place_of_store, place_options, settings_of
from perdure.handle import Run
from perdure.model.records import Status


@click.command("retry", short_help="Try failed or cancelled runs again.")
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
    """Try failed or cancelled runs again; recorded steps that succeeded are not repeated.

    Each ID may be the beginning of an id. Of several, some may fail: then the exit code is 7.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def retry(run: Run[Any]) -> Status:
        return await run.retry()

    return control(place, ids, retry, in_json=in_json)
