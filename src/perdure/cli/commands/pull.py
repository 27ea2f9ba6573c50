"""``perdure pull``: everything recorded of a run, to keep in a file."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli._failures import ExitCode, Failure
from perdure.cli._ids import resolve_id
from perdure.cli._meanings import perform
from perdure.cli._output import escape
from perdure.cli._places import opened, place_of_store, place_options, settings_of
from perdure.errors import RunNotFound
from perdure.testing.histories import dump_history


@click.command("pull", short_help="Write everything recorded of a run as JSON.")
@click.argument("id", metavar="ID")
@place_options
@click.option("-o", "--out", metavar="FILE", help="Where to write it, rather than to print it.")
@click.pass_context
def command(
    context: click.Context, /, *, id: str, app: str | None, url: str | None, out: str | None
) -> int:
    """Write the history of a run, exactly as recorded, for `perdure replay` and for tests.

    It holds the payloads of the run: keep it where those may be kept.
    """
    place = place_of_store(settings_of(context, app=app, url=url))

    async def work() -> int:
        async with opened(place) as opened_app:
            store = opened_app.engine.store
            run_id = await resolve_id(store, id)
            history = await store.history(run_id)
        if history is None:
            raise RunNotFound(f"run {run_id!r} was removed just now: its retention has ended")
        text = dump_history(history)
        if out is None:
            click.echo(text)
        else:
            _write(Path(out), text)
            click.echo(f"wrote {escape(run_id)} to {escape(out)}", err=True)
        return ExitCode.OK

    return perform(work)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(f"{text}\n", "utf-8")
    except OSError as error:
        raise Failure(
            ExitCode.USAGE,
            f"cannot write {path}",
            why=error.strerror or str(error),
            do="name a file in a directory that is there",
        ) from error
