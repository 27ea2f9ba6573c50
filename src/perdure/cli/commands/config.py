"""``perdure config``: which value each setting has, and who said so."""

from __future__ import annotations

import os
from typing import Any, cast

import click

from perdure.cli._failures import ExitCode
from perdure.cli._output import as_json, escape, table
from perdure.cli._places import place_options, settings_of
from perdure.cli._settings import SETTINGS, strange_variables, variable
from perdure.url import without_password


@click.command("config", short_help="Show each setting, its value and where that comes from.")
@place_options
@click.option("--json", "in_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(context: click.Context, /, *, app: str | None, url: str | None, in_json: bool) -> int:
    """Show each setting, its value and where that comes from.

    An argument beats the environment (PERDURE_ and the name in capitals), that beats the file (a
    key of [tool.perdure] in the nearest pyproject.toml that has such a table), that beats the
    default.
    """
    settings = settings_of(context, app=app, url=url)
    strange = strange_variables(os.environ)
    if in_json:
        told = {
            name: {"value": _shown(name, chosen.value), "origin": chosen.origin}
            for name, chosen in settings.chosen.items()
        }
        file = None if settings.file is None else str(settings.file)
        answer = {"file": file, "settings": told, "unknown_variables": strange}
        click.echo(as_json(answer))
        return ExitCode.OK
    rows = [
        (name, _text(_shown(name, chosen.value)), chosen.origin, variable(name), setting.meaning)
        for (name, setting), chosen in zip(SETTINGS.items(), settings.chosen.values(), strict=True)
    ]
    click.echo(table(("SETTING", "VALUE", "ORIGIN", "VARIABLE", "MEANING"), rows))
    for name, meant in strange.items():
        hint = f"; did you mean {meant}?" if meant else ""
        click.echo(f"note: {escape(name)} is set, and no setting is named so{hint}", err=True)
    return ExitCode.OK


def _shown(name: str, value: Any) -> Any:
    return without_password(value) if name == "url" and value is not None else value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(cast("tuple[str, ...]", value)) if isinstance(value, tuple) else str(value)
