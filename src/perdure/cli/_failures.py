"""What goes wrong in a command, as people and programs read it, and the exit codes.

Nothing here knows stores or apps, so that ``perdure --version`` does not load them; what their
errors mean is in :mod:`perdure.cli._meanings`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import click

from perdure.cli._output import as_json, escape, is_terminal

TRACEBACK: Final = "PERDURE_TRACEBACK"
"""The variable that asks for tracebacks. No setting: it holds before any setting is read."""


class ExitCode(IntEnum):
    """What a command's exit code tells."""

    OK = 0
    RUN_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNREACHABLE = 5
    TIMED_OUT = 6
    PARTIAL = 7
    FOUND_PROBLEMS = 8
    UNEXPECTED = 9
    INTERRUPTED = 130


class Failure(Exception):
    """A command cannot do what it was asked for.

    Args:
        exit_code: how the process ends.
        what: what went wrong, in one line.
        why: how that is known: what was expected and what was found.
        do: what the reader can do about it, best a command.
        details: more for programs, beside these in JSON.
    """

    def __init__(
        self,
        exit_code: ExitCode,
        what: str,
        *,
        why: str,
        do: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.exit_code = exit_code
        self.what = what
        self.why = why
        self.do = do
        self.details = dict(details or {})

    def as_fields(self) -> dict[str, Any]:
        """Return it for programs."""
        fields = {"exit_code": int(self.exit_code), "what": self.what, "why": self.why}
        return {**fields, "do": self.do, **self.details}


def print_failure(failure: Failure, *, in_json: bool) -> None:
    """Print a failure on standard error: three lines, or one JSON object."""
    if in_json:
        click.echo(as_json({"error": failure.as_fields()}), err=True)
        return
    label = click.style("error:", fg="red", bold=True) if is_terminal(sys.stderr) else "error:"
    lines = [f"{label} {escape(failure.what)}", f"  why: {escape(failure.why)}"]
    below = (f"    {escape(line)}" for line in failure.details.get("traceback", ()))
    click.echo("\n".join([*lines, f"  do:  {escape(failure.do)}", *below]), err=True)


def of_usage(error: click.UsageError) -> Failure:
    """Return what click says about a wrong command line."""
    context = error.ctx
    path = context.command_path if context is not None else "perdure"
    do = f"{path} --help"
    match error:
        case click.NoSuchOption():
            what = f"there is no option {error.option_name}"
            if error.possibilities:
                do = f"did you mean {' or '.join(sorted(error.possibilities))}? {do} lists them all"
        case click.MissingParameter():
            what = error.format_message()
        case _:
            what = error.format_message()
    usage = "usage is perdure [OPTIONS] COMMAND [ARGS]..."
    if context is not None:
        usage = " ".join(context.get_usage().split())
        usage = f"usage is {usage.removeprefix('Usage: ')}"
    return Failure(ExitCode.USAGE, _one_line(what), why=usage, do=do)


def of_file(error: click.FileError) -> Failure:
    """Return what click says about a file that it cannot open."""
    what = f"cannot open {error.ui_filename}"
    return Failure(ExitCode.USAGE, what, why=error.message, do="name a file that can be read")


def of_anything(error: BaseException) -> Failure:
    """Return what no command expected: code of the user's that raised, or a mistake of ours."""
    return Failure(
        ExitCode.UNEXPECTED,
        f"{type(error).__name__} was raised where nothing should be",
        why=str(error) or "it says nothing more",
        do=f"perdure --traceback … or {TRACEBACK}=1 shows where",
    )


def with_traceback(failure: Failure, error: BaseException | None) -> Failure:
    """Return a failure with the traceback of the error behind it; where there is none, as it is."""
    if error is None:
        return failure
    lines = "".join(traceback.format_exception(error)).splitlines()
    return Failure(
        failure.exit_code,
        failure.what,
        why=failure.why,
        do=failure.do,
        details={**failure.details, "traceback": lines},
    )


def wants_traceback(arguments: list[str]) -> bool:
    """Tell whether to print tracebacks: the option asks for it, or the environment."""
    return "--traceback" in arguments or os.environ.get(TRACEBACK, "0") not in {"", "0"}


def _one_line(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:]


def wants_json(arguments: list[str]) -> bool:
    """Tell whether the answer, and so an error too, is to be JSON."""
    return any(word in ("--json", "--jsonl") for word in arguments)
