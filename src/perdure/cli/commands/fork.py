"""``perdure fork``: start a run that goes on from what another one has recorded."""

from __future__ import annotations

import json
from typing import Any

import click

from perdure.cli._failures import ExitCode, Failure
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import meaning_of, perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.errors import PerdureError


@click.command("fork", short_help="Start a run that goes on from what another has recorded.")
@click.argument("id", metavar="ID")
@place_options
@click.option("--from", "from_step", metavar="STEP", help="Keep what was recorded before it.")
@click.option(
    "--occurrence",
    type=click.IntRange(1),
    help="With --from: which call of that step, counted from 1.",
)
@click.option(
    "--input",
    "inputs",
    metavar="NAME=JSON",
    multiple=True,
    help="Another argument; may come several times. Needs --app.",
)
@click.option(
    "--result",
    "results",
    metavar="STEP=JSON",
    multiple=True,
    help="What a step is to have returned; may come several times.",
)
@click.option("--new-id", metavar="ID", help="The id of the new run.")
@click.option("--pin", metavar="VERSION", help="Go on with this version of the code alone.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    id: str,
    app: str | None,
    url: str | None,
    from_step: str | None,
    occurrence: int | None,
    inputs: tuple[str, ...],
    results: tuple[str, ...],
    new_id: str | None,
    pin: str | None,
    in_json: bool,
) -> int:
    """Start a run that goes on from what the run ID has recorded, which is not changed.

    Without --from and --result it keeps nothing and begins at the start. With --result alone it
    keeps everything up to the last step that is to have another result.
    """
    changed = _parsed("--input", inputs)
    replaced = _parsed("--result", results)
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            run_id = await resolve_id(opened_app.engine.store, id)
            try:
                forked = await opened_app.get(run_id).fork(
                    from_step=from_step,
                    occurrence=occurrence or 1,
                    input=changed,
                    results=replaced,
                    id=new_id,
                    pin=pin,
                )
            except PerdureError as error:
                raise meaning_of(error, run_id) from error
        click.echo(as_json({"id": forked.id}) if in_json else escape(forked.id))
        return ExitCode.OK

    return perform(work)


def _parsed(option: str, words: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the values of an option that may come several times; None where it did not."""
    parsed: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            parsed[name] = json.loads(text)
        except ValueError:
            equals = ""
        if not (name and equals):
            raise Failure(
                ExitCode.USAGE,
                f"{option} {word} is not NAME=JSON",
                why="what follows the name is read as JSON, and a text needs its quotes there",
                do=f"{option} 'charge=\"payment-7\"' or {option} count=3",
            )
    return parsed or None
