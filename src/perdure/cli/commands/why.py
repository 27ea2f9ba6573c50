"""``perdure why``: why a run is not moving, or a schedule does not fire, in one sentence."""

from __future__ import annotations

import click
import msgspec

from perdure import App
from perdure._runtime.why import Why
from perdure._runtime.why_schedule import ScheduleWhy
from perdure.cli._failures import ExitCode
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import opened, place_of_store, place_options, settings_of


@click.command("why", short_help="Say why a run is not moving, or a schedule does not fire.")
@click.argument("id", metavar="ID")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context, /, *, id: str, app: str | None, url: str | None, in_json: bool
) -> int:
    """Say why a run is not moving: what or whom it waits for, and until when.

    ID may be the beginning of an id, as long as no other run's begins so; or the key of a schedule,
    where no run has that id.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            found = await _explained(opened_app, id)
        click.echo(as_json(msgspec.to_builtins(found)) if in_json else escape(found.sentence))
        return ExitCode.OK

    return perform(work)


async def _explained(app: App, typed: str) -> Why | ScheduleWhy:
    """Return why it is so, of the run or the schedule that is meant."""
    store = app.engine.store
    if typed in {one.key for one in await app.schedules()} and await store.get(typed) is None:
        return await app.schedule(typed).why()
    return await app.get(await resolve_id(store, typed)).why()
