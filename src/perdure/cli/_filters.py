"""Which runs are meant: the options of every command that takes some by what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import click

from perdure._runtime.queries import check_known, run_query
from perdure.app import App
from perdure.cli._ids import resolve_id
from perdure.clock import to_micros_instant
from perdure.duration import to_micros
from perdure.errors import InvalidDuration
from perdure.model.records import REASONS, Micros, RunQuery, Status


def _when(
    context: click.Context, parameter: click.Parameter, given: str | None
) -> datetime | Micros | None:
    """Return an instant (ISO 8601; local time without an offset), or a duration before now."""
    if given is None:
        return None
    with suppress(InvalidDuration):
        return to_micros(given)
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f'{given!r} is no instant such as 2026-05-01T08:00, and no duration such as "2h"',
            context,
            parameter,
        ) from error


_OPTIONS: Final = (
    click.option(
        "-s",
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice([str(status) for status in Status]),
        help="How they stand.",
    ),
    click.option("-n", "--name", "names", multiple=True, help="Of their workflow or job."),
    click.option("-Q", "--queue", help="The queue they wait in."),
    click.option("--key", help="Their unique_key."),
    click.option("--limit-key", help="Their limit_key."),
    click.option("--tag", help="One of their tags."),
    click.option("--reason", help=f"Why they stand so: {', '.join(REASONS)}."),
    click.option("--parent", metavar="ID", help="Whose body started them."),
    click.option("--since", callback=_when, help='Created from then on: "2h" ago, or an instant.'),
    click.option("--until", callback=_when, help="Created before then."),
    click.option("--text", help="A part of id, name, key or tag."),
    click.option("--version", help="Of their code; see perdure versions."),
    click.option("--id", "id_prefix", metavar="PREFIX", help="How their ids begin."),
)

FILTERS: Final = (
    *("statuses", "names", "queue", "key", "limit_key", "tag", "reason", "parent"),
    *("since", "until", "text", "id_prefix", "version"),
)
"""Under which names a command is given them."""


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that narrow."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def are_given(filters: Mapping[str, Any]) -> bool:
    """Tell whether any of the options was given."""
    return any(filters[name] not in {None, ()} for name in FILTERS)


async def query_of(app: App, filters: Mapping[str, Any]) -> RunQuery:
    """Return the query of what was given.

    Raises:
        Failure: a parent is none, or several.
        PerdureError: a filter holds what nothing does.
    """
    store = app.engine.store
    now = await store.now()
    parent = filters["parent"]
    query = run_query(
        status=filters["statuses"],
        name=filters["names"],
        reason=filters["reason"],
        parent_id=None if parent is None else await resolve_id(store, parent),
        queue=filters["queue"],
        unique_key=filters["key"],
        tag=filters["tag"],
        created_after=_instant(filters["since"], now),
        created_before=_instant(filters["until"], now),
        text=filters["text"],
        id_prefix=filters["id_prefix"],
        limit_key=filters["limit_key"],
        version=filters["version"],
    )
    await check_known(query, app.engine.registry, store)
    return query


def _instant(given: datetime | int | None, now: Micros) -> Micros | None:
    if isinstance(given, datetime):
        return to_micros_instant(given)
    return None if given is None else now - given
