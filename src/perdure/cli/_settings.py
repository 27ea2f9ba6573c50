"""Settings: an argument beats the environment, that beats the file, that beats the default.

Each one is an option where a command needs it, a ``PERDURE_`` variable, and a key of
``[tool.perdure]`` in the nearest pyproject.toml that has such a table.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

from perdure import defaults
from perdure.cli._failures import TRACEBACK, ExitCode, Failure
from perdure.duration import to_micros
from perdure.errors import InvalidDuration
from perdure.telemetry import Format, Level
from perdure.url import relative_to

LEVELS: Final[tuple[str, ...]] = get_args(Level)
FORMATS: Final[tuple[str, ...]] = get_args(Format)

IN_FILE: Final = 2
"""The rank of what the file says."""


def _text(given: object) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError("a text")
    return given


def _count(given: object) -> int:
    if isinstance(given, str) and given.isascii() and given.isdigit():
        given = int(given)
    if type(given) is not int or given < 1:
        raise ValueError("a whole number above 0")
    return given


def _names(given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",")]
    if not isinstance(given, list | tuple):
        raise ValueError("names, with commas between them in the environment")  # noqa: TRY004  # as the others
    names = tuple(cast("tuple[object, ...]", given))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("names, with commas between them in the environment")
    return cast("tuple[str, ...]", names)


def _duration(given: object) -> str:
    try:
        to_micros(cast("str", given))
    except InvalidDuration as error:
        raise ValueError('a duration such as "25s"') from error
    return str(given)


def _one_of(*choices: str) -> Callable[[object], str]:
    def chosen(given: object) -> str:
        if given not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(given)

    return chosen


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be set.

    Args:
        check: returns the value, or raises ValueError saying what is expected.
        default: where nobody says otherwise; None for nothing.
        meaning: for people.
    """

    check: Callable[[object], Any]
    default: Any
    meaning: str


SETTINGS: Final[dict[str, Setting]] = {
    "app": Setting(_text, None, "where the app is: module:name, or file.py:name"),
    "url": Setting(_text, None, "the store, for commands that need no code"),
    "queues": Setting(_names, None, "which queues a worker serves; all of the app where not set"),
    "only": Setting(_names, None, "which definitions a worker serves; all where not set"),
    "concurrency": Setting(_count, defaults.CONCURRENCY, "runs that a worker executes at once"),
    "grace": Setting(_duration, defaults.GRACE, "what a stop gives bodies that are executing"),
    "lease": Setting(_duration, defaults.LEASE, "how long a worker may give no sign of life"),
    "heartbeat": Setting(_duration, defaults.HEARTBEAT, "how often a worker gives one"),
    "poll": Setting(_duration, defaults.POLL, "how often an idle worker looks by itself"),
    "crash_cap": Setting(_count, defaults.CRASH_CAP, "dead workers in a row before a run fails"),
    "log_level": Setting(_one_of(*LEVELS), "info", "what a worker writes to standard error"),
    "log_format": Setting(_one_of(*FORMATS), "text", "how it writes it: text or json"),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A setting's value and who said so.

    Args:
        value: checked.
        rank: 0 argument, 1 environment, 2 file, 3 default.
        origin: for people: ``PERDURE_URL``, a file's path.
    """

    value: Any
    rank: int
    origin: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, resolved.

    Args:
        chosen: by name.
        file: the pyproject.toml that has a [tool.perdure] table, if there is one.
    """

    chosen: Mapping[str, Chosen]
    file: Path | None

    def __getitem__(self, name: str) -> Any:
        return self.chosen[name].value


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"PERDURE_{name.upper()}"


def resolve(
    arguments: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """Return the value of every setting.

    Args:
        arguments: what the command line said; None and empty tuples say nothing.
        environment: the process's by default.
        directory: where to look for pyproject.toml, and upwards; the working directory by default.

    Raises:
        Failure: a value is wrong, or the file has a key that does not exist.
    """
    variables = os.environ if environment is None else environment
    file, table = _from_file(Path.cwd() if directory is None else directory)
    chosen: dict[str, Chosen] = {}
    for name, setting in SETTINGS.items():
        given = arguments.get(name)
        if given is not None and given != ():
            chosen[name] = _checked(name, given, 0, "argument")
        elif variables.get(variable(name)):
            chosen[name] = _checked(name, variables[variable(name)], 1, variable(name))
        elif name in table and file is not None:
            chosen[name] = _from_beside(_checked(name, table[name], IN_FILE, str(file)), name, file)
        else:
            chosen[name] = Chosen(setting.default, 3, "default")
    return Settings(chosen, file)


def _checked(name: str, given: object, rank: int, origin: str) -> Chosen:
    try:
        return Chosen(SETTINGS[name].check(given), rank, origin)
    except ValueError as expected:
        raise Failure(
            ExitCode.USAGE,
            f"{name} cannot be {given!r}",
            why=f"{'the ' if rank == 0 else ''}{origin} says so, and it must be {expected}",
            do=f"set it to {expected}: {SETTINGS[name].meaning}",
        ) from expected


def _from_beside(chosen: Chosen, name: str, file: Path) -> Chosen:
    """Return a value of the file: what names a file counts from where that one is."""
    if name != "url":
        return chosen
    return Chosen(relative_to(chosen.value, file.parent), chosen.rank, chosen.origin)


def _from_file(directory: Path) -> tuple[Path | None, Mapping[str, object]]:
    """Return the nearest pyproject.toml with a [tool.perdure] table, and the table."""
    for place in (directory, *directory.parents):
        file = place / "pyproject.toml"
        if not file.is_file():
            continue
        table = _table(file)
        if table is not None:
            _refuse_unknown(file, table)
            return file, table
    return None, {}


def _table(file: Path) -> Mapping[str, object] | None:
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(
            ExitCode.USAGE,
            f"cannot read {file}",
            why=str(error),
            do="mend the file, or run the command elsewhere",
        ) from error
    table: object = content.get("tool", {}).get("perdure")
    if table is not None and not isinstance(table, dict):
        raise Failure(
            ExitCode.USAGE,
            f"tool.perdure in {file} is no table",
            why=f"it is {table!r}",
            do="write [tool.perdure] and one key a line below it",
        )
    return cast("dict[str, object] | None", table)


def _refuse_unknown(file: Path, table: Mapping[str, object]) -> None:
    for key in table:
        if key not in SETTINGS:
            close = difflib.get_close_matches(key, SETTINGS, n=1)
            raise Failure(
                ExitCode.USAGE,
                f"there is no setting {key!r}",
                why=f"{file} has it in [tool.perdure]; the settings are {', '.join(SETTINGS)}",
                do=f"did you mean {close[0]!r}?" if close else "remove it; see perdure config",
            )


def strange_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the PERDURE_ variables that set nothing, each with what was probably meant."""
    known = {TRACEBACK, *(variable(name) for name in SETTINGS)}
    strange: dict[str, str] = {}
    for name in sorted(environment):
        if name.startswith("PERDURE_") and name not in known:
            close = difflib.get_close_matches(name[8:].lower(), SETTINGS, n=1)
            strange[name] = variable(close[0]) if close else ""
    return strange
