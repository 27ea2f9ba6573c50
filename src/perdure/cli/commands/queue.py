"""``perdure queue``: the verbs on one queue."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import click

from perdure.cli._describe import queue_fields
from perdure.cli._failures import ExitCode
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.errors import PerdureError
from perdure.queue import Queue, Rate

Verb = Callable[[Queue], Awaitable[str]]
"""Does it, and returns what to tell people."""

_RATE = re.compile(r"([0-9]+)/([^,]+?)(?:,([0-9]+))?")


def _rate(context: click.Context, parameter: click.Parameter, given: str | None) -> Rate | None:
    """Read ``100/1m`` or, with a burst, ``100/1m,10``."""
    if given is None:
        return None
    found = _RATE.fullmatch(given)
    try:
        if found is not None:
            return Rate(int(found[1]), found[2], int(found[3] or 1))
    except (PerdureError, ValueError):  # what is read is no number of that length, or no time
        pass
    raise click.BadParameter(
        f'{given!r} is no rate such as "100/1m", or "100/1m,10" with a burst of 10',
        context,
        parameter,
    )


@click.group("queue", short_help="Pause, resume or limit a queue.")
def command() -> None:
    """Do something with one queue, named by its name: `perdure queues` lists them."""


def _do(context: click.Context, name: str, verb: Verb, options: dict[str, Any]) -> int:
    in_json = options.pop("in_json")
    place = place_of_store(settings_of(context, **options))

    async def work() -> int:
        async with opened(place) as opened_app:
            queue = opened_app.queue(name)
            text = await verb(queue)
            told = queue_fields(await queue.get())
        click.echo(as_json(told) if in_json else text)
        return ExitCode.OK

    return perform(work)


def _options(function: Any) -> Any:
    in_json = click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
    name = click.argument("name", metavar="NAME")
    return name(place_options(in_json(click.pass_context(function))))


@command.command("pause", short_help="Claim nothing of it until it is resumed.")
@_options
def pause(context: click.Context, /, *, name: str, **options: Any) -> int:
    """Let no worker claim a run of a queue until it is resumed; what runs runs on."""

    async def verb(queue: Queue) -> str:
        await queue.pause()
        return f"paused {escape(name)}"

    return _do(context, name, verb, options)


@command.command("resume", short_help="Claim of it again.")
@_options
def resume(context: click.Context, /, *, name: str, **options: Any) -> int:
    """Let workers claim the runs of a queue again."""

    async def verb(queue: Queue) -> str:
        await queue.resume()
        return f"resumed {escape(name)}"

    return _do(context, name, verb, options)


@command.command("limit", short_help="Set all its limits.")
@click.option("-c", "--concurrency", type=int, metavar="N", help="Runs at once, on all workers.")
@click.option("--concurrency-per-key", type=int, metavar="N", help="The same for each limit_key.")
@click.option("--rate", callback=_rate, metavar="N/TIME", help='Starts: "100/1m", "100/1m,10".')
@click.option("--rate-per-key", callback=_rate, metavar="N/TIME", help="For each limit_key.")
@_options
def limit(
    context: click.Context,
    /,
    *,
    name: str,
    concurrency: int | None,
    concurrency_per_key: int | None,
    rate: Rate | None,
    rate_per_key: Rate | None,
    **options: Any,
) -> int:
    """Set all limits of a queue; what is left out is no limit any more.

    An app that declares other limits sets those when its next worker starts.
    """

    async def verb(queue: Queue) -> str:
        await queue.set_limits(
            concurrency=concurrency,
            rate=rate,
            concurrency_per_key=concurrency_per_key,
            rate_per_key=rate_per_key,
        )
        return f"limited {escape(name)}"

    return _do(context, name, verb, options)
