"""``perdure stream``: what a run gives out."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import click

from perdure.cli._describe import item_fields
from perdure.cli._failures import ExitCode
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.streaming import StreamItem


@click.command("stream", short_help="Print what a run gives out in a stream.")
@click.argument("id", metavar="ID")
@click.argument("name", metavar="NAME")
@place_options
@click.option("--after", metavar="CURSOR", help="What came after this item.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the stream ends.")
@click.option("--jsonl", "in_lines", is_flag=True, help="Print a line of JSON an item.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    id: str,
    name: str,
    app: str | None,
    url: str | None,
    after: str | None,
    follow: bool,
    in_lines: bool,
) -> int:
    """Print the items of a stream of a run, a line each: texts as they are, else JSON.

    With --follow also what comes, until the stream is closed or the run has ended. ID may be the
    beginning of an id; `perdure show` names the streams of a run.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            run = opened_app.get(await resolve_id(opened_app.engine.store, id))
            async with aclosing(run.stream(name, after=after, follow=follow)) as items:
                async for item in items:
                    click.echo(as_json(item_fields(item)) if in_lines else _line(item))
        return ExitCode.OK

    return perform(work)


def _line(item: StreamItem[Any]) -> str:
    value = item.value
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
