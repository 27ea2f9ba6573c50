"""``perdure start``: one run, from the command line."""

from __future__ import annotations

import difflib
from typing import Any, get_args

import click

from perdure.app import App
from perdure.cli._describe import value_of
from perdure.cli._failures import ExitCode, Failure
from perdure.cli._meanings import meaning_of, perform, translated
from perdure.cli._output import as_json, escape
from perdure.cli._places import app_option, opened, place_of_code, settings_of
from perdure.cli._values import parse_arguments
from perdure.duration import named_micros
from perdure.errors import PerdureError
from perdure.handle import Run
from perdure.unique import OnConflict
from perdure.workflow import Workflow


@click.command("start", short_help="Start a run.")
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@app_option
@click.option("--id", "run_id", metavar="ID", help="Its id; starting the same again finds it.")
@click.option("--key", "unique_key", help="Its unique_key: one unfinished run at a time has it.")
@click.option(
    "--on-conflict",
    type=click.Choice(get_args(OnConflict)),
    help="With a unique_key that is taken: an error, find the run that has it, or cancel it.",
)
@click.option("--unique-for", metavar="DURATION", help="Its unique_key is taken so long.")
@click.option("--limit-key", help="Under which the limits by key of its queue count it.")
@click.option("-Q", "--queue", help="Instead of the definition's.")
@click.option("--priority", type=int, help="Smaller is sooner.")
@click.option("--tag", "tags", multiple=True, help="For people; may come several times.")
@click.option("--delay", metavar="DURATION", help='Not before then: "10m".')
@click.option("--wait", is_flag=True, help="Wait for its end and print its result as JSON.")
@click.option("--timeout", metavar="DURATION", help="With --wait: how long at most.")
@click.option("--json", "in_json", is_flag=True, help="Print id and result as one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    name: str,
    arguments: tuple[str, ...],
    app: str | None,
    delay: str | None,
    wait: bool,
    timeout: str | None,
    in_json: bool,
    **options: Any,
) -> int:
    r"""Start a run of the workflow or job NAME, with the arguments that it takes.

    n=3 is read by the parameter's annotation: as JSON where that fits, else as a text. order:=JSON
    takes nothing but JSON; order=@FILE reads the file.

    \b
    perdure start send_mail to=a@b.c subject="hello"
    perdure start fulfil order:='{"id": "o1", "cents": 499}' --wait --timeout 1m
    """
    if timeout is not None and not wait:
        raise Failure(
            ExitCode.USAGE,
            "--timeout needs --wait",
            why="without --wait nothing is waited for",
            do="add --wait, or leave --timeout out",
        )
    if timeout is not None:
        with translated():
            named_micros(timeout, "--timeout")  # before anything is started
    place = place_of_code(settings_of(context, app=app))

    async def work() -> int:
        async with opened(place):
            run = await _start(place.app, name, arguments, delay, options)
            if not wait:
                click.echo(as_json({"id": run.id}) if in_json else escape(run.id))
                return ExitCode.OK
            if not in_json:
                click.echo(f"started {escape(run.id)}", err=True)
            try:
                await run.result(timeout)
            except PerdureError as error:
                raise meaning_of(error, run.id) from error
            record = await place.app.engine.store.get(run.id)
            result = None if record is None else value_of(record.result or b"")
            click.echo(as_json({"id": run.id, "result": result} if in_json else result))
        return ExitCode.OK

    return perform(work)


async def _start(
    app: App, name: str, words: tuple[str, ...], delay: str | None, options: dict[str, Any]
) -> Run[Any]:
    definition = app.engine.registry.find(name)
    if definition is None:
        raise _unknown(app, name)
    args, kwargs = parse_arguments(words, definition.arguments)
    calls = Workflow[..., Any](definition, app.engine).options(
        id=options["run_id"],
        unique_key=options["unique_key"],
        on_conflict=options["on_conflict"],
        unique_for=options["unique_for"],
        limit_key=options["limit_key"],
        queue=options["queue"],
        priority=options["priority"],
        tags=options["tags"],
    )
    if delay is not None:
        return await calls.delay(delay, *args, **kwargs)
    return await calls.enqueue(*args, **kwargs)


def _unknown(app: App, name: str) -> Failure:
    names = [definition.name for definition in app.engine.registry]
    close = difflib.get_close_matches(name, names, n=1)
    do = "name one of them" if names else "declare one: @app.workflow"
    return Failure(
        ExitCode.NOT_FOUND,
        f"there is no workflow or job {name!r}",
        why=f"the app has {', '.join(names) or 'none'}",
        do=f"did you mean {close[0]}?" if close else do,
        details={"candidates": close},
    )
