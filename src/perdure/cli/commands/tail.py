"""``perdure tail``: what has happened to runs, and what happens."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click

from perdure.app import App
from perdure.change import Change
from perdure.cli._describe import change_fields
from perdure.cli._failures import ExitCode, Failure
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import perform
from perdure.cli._output import as_json, escape, status_text
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.model.changes import ChangeKind

LAST: Final = 10
"""Changes that are printed where nothing says which."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which changes somebody wants to see."""

    run_id: str | None
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    after: str | None
    last: int | None

    @property
    def narrows(self) -> bool:
        """Whether there are changes that are not wanted."""
        return bool(self.run_id or self.names or self.kinds)

    def changes(
        self, app: App, after: str | None, *, follow: bool = False
    ) -> AsyncGenerator[Change, None]:
        """Read those that follow on a position."""
        return app.changes(
            after=after, run=self.run_id, name=self.names, kind=self.kinds, follow=follow
        )


@click.command("tail", short_help="Print what happens to runs.")
@click.argument("id", metavar="[ID]", required=False)
@place_options
@click.option("-n", "--name", "names", multiple=True, help="Of these workflows or jobs.")
@click.option(
    "-k",
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([str(kind) for kind in ChangeKind]),
    help="Of these kinds.",
)
@click.option("--after", metavar="POSITION", help="What came after this change.")
@click.option("--last", type=click.IntRange(0), help="At most so many of those there are.")
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option("--json", "in_json", is_flag=True, help="Print one JSON list.")
@click.option("--jsonl", "in_lines", is_flag=True, help="Print a line of JSON a change.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    id: str | None,
    app: str | None,
    url: str | None,
    last: int | None,
    follow: bool,
    in_json: bool,
    in_lines: bool,
    **filters: Any,
) -> int:
    r"""Print what has happened to runs, oldest first; with --follow also what happens from now on.

    Everything that is kept of a run, where ID (or the beginning of one) names it; after a position
    all; else the last ten.

    \b
    perdure tail 0199 --follow
    perdure tail --name fulfil --kind failed --last 100 --jsonl
    """
    if in_json and (follow or in_lines):
        raise Failure(
            ExitCode.USAGE,
            f"--json and {'--follow' if follow else '--jsonl'} exclude each other",
            why="a list ends, and is printed when it has",
            do="take --jsonl: a line a change",
        )
    if last is None and id is None and filters["after"] is None:
        last = LAST
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            run_id = None if id is None else await resolve_id(opened_app.engine.store, id)
            asked = Asked(run_id, filters["names"], filters["kinds"], filters["after"], last)
            async with aclosing(_found(opened_app, asked, follow=follow)) as found:
                if in_json:
                    click.echo(as_json([change_fields(change) async for change in found]))
                    return ExitCode.OK
                async for change in found:
                    click.echo(as_json(change_fields(change)) if in_lines else _line(change))
        return ExitCode.OK

    return perform(work)


async def _found(app: App, asked: Asked, *, follow: bool) -> AsyncGenerator[Change, None]:
    """Yield what was asked for: of what there is perhaps only the last, and what comes."""
    after = asked.after
    if asked.last is not None:
        if after is None and not asked.narrows:
            after = await app.engine.store.position(asked.last)
        kept: deque[Change] = deque(maxlen=asked.last)
        async for change in asked.changes(app, after):
            kept.append(change)
            after = change.position
        for change in kept:
            yield change
    if follow or asked.last is None:
        async for change in asked.changes(app, after, follow=follow):
            yield change


def _line(change: Change) -> str:
    at = change.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    what = f"{status_text(change.kind)}{_detail(change)}"
    return escape(f"{at}Z  {change.run_id}  {change.name}  {what}")


def _detail(change: Change) -> str:
    """Return what there is to say beside the kind, with a blank before it."""
    if change.step is not None:
        again = f", try {change.step.tries}" if change.step.tries > 1 else ""
        return f" {change.step.path}: {change.step.outcome}{again}{_until(change.step.due_at)}"
    parts: list[str] = []
    if change.attempt > 1:
        parts.append(f"attempt {change.attempt}")
    if change.waiting_for is not None:
        parts.append(f"for {change.waiting_for}{_until(change.due_at)}")
    if change.reason is not None:
        parts.append(f"reason {change.reason}")
    return f" ({', '.join(parts)})" if parts else ""


def _until(due_at: datetime | None) -> str:
    return "" if due_at is None else f" until {due_at:%Y-%m-%d %H:%M:%S}Z"
