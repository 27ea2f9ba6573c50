"""From what was typed to an app: the code's own, or one without code on a store's URL."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

import click

from perdure.app import App
from perdure.cli._failures import ExitCode, Failure
from perdure.cli._meanings import translated
from perdure.cli._settings import IN_FILE, Settings, resolve
from perdure.errors import UsageError
from perdure.url import without_password

F = TypeVar("F", bound=Callable[..., Any])

NO_PLACE: Final = (
    '--app mod:app, PERDURE_APP, or app = "mod:app" in [tool.perdure] of pyproject.toml'
)


@dataclass(frozen=True, slots=True)
class Place:
    """An app, and how to name it in messages.

    Args:
        app: unopened.
        name: what was typed, without a password.
        option: how to say the same to another command.
    """

    app: App
    name: str
    option: str


def app_option(function: F) -> F:
    """Give a command the option --app."""
    text = "Where the app is: module:name or file.py:name."
    return click.option("--app", metavar="MOD:APP", help=text)(function)


def place_options(function: F) -> F:
    """Give a command the options --app and --url, for one that needs no code."""
    text = "The store, instead of an app: sqlite:///shop.db."
    return app_option(click.option("--url", metavar="URL", help=text)(function))


def settings_of(context: click.Context, **arguments: Any) -> Settings:
    """Return the settings of a command: its own options beat those before its name."""
    before: dict[str, Any] = context.find_root().obj or {}
    typed = {name: given for name, given in arguments.items() if given is not None and given != ()}
    return resolve({**before, **typed})


def place_of_code(settings: Settings) -> Place:
    """Return the app that is set.

    Raises:
        Failure: none is set, or it cannot be imported.
    """
    where = settings["app"]
    if where is None:
        raise Failure(
            ExitCode.USAGE,
            "no app is named",
            why=f"this command needs its code, and there is neither {NO_PLACE}",
            do="name it: --app mod:app",
        )
    directory = None
    if settings.file is not None and settings.chosen["app"].rank == IN_FILE:
        directory = settings.file.parent
        _make_importable(directory)
    return Place(load_app(where, directory), where, f"--app {where}")


def place_of_store(settings: Settings) -> Place:
    """Return the app or the store that is set, whichever was said more directly.

    Raises:
        Failure: neither is set, or what is set is wrong.
    """
    app, url = settings.chosen["app"], settings.chosen["url"]
    if url.value is not None and (app.value is None or url.rank <= app.rank):
        name = without_password(url.value)
        try:
            return Place(App(url.value), name, f"--url {name}")
        except UsageError as error:
            raise Failure(
                ExitCode.USAGE,
                f"{name} is no store",
                why=str(error),
                do="name one: --url sqlite:///shop.db",
            ) from error
    if app.value is None:
        raise Failure(
            ExitCode.USAGE,
            "no store is named",
            why=f"there is neither --url, PERDURE_URL or url in the file, nor {NO_PLACE}",
            do="name it: --url sqlite:///shop.db, or --app mod:app",
        )
    return place_of_code(settings)


@asynccontextmanager
async def opened(place: Place) -> AsyncGenerator[App, None]:
    """Open a store that must be there already, for the time of the context.

    Raises:
        Failure: it is not there; a typing mistake does not make an empty store.
    """
    plan = await place.app.engine.store.plan()
    if plan:
        raise Failure(
            ExitCode.UNREACHABLE,
            f"the store at {place.name} is not there yet, or not up to date",
            why=f"opening it would {'; '.join(plan)}",
            do=f"look whether that is the right place; perdure migrate {place.option} does it",
        )
    async with place.app:
        yield place.app


# --- importing -----------------------------------------------------------------------------------


def load_app(where: str, directory: Path | None = None) -> App:
    """Import ``module:name`` or load ``file.py:name`` and return the app that is there.

    Without ``:name`` it is ``app``. The working directory, and a file's own, can be imported from.

    Args:
        where: what was typed.
        directory: where a relative path counts from; the working directory by default.

    Raises:
        Failure: there is none; the message says what there is.
    """
    module_name, _, attribute = where.partition(":")
    _make_importable(Path.cwd())
    if module_name.endswith(".py"):
        module = _loaded((directory or Path.cwd()) / module_name, where)
    else:
        module = _imported(module_name, where)
    found: Any = module
    for name in (attribute or "app").split("."):
        if not hasattr(found, name):
            raise _no_attribute(where, module, name)
        found = getattr(found, name)
    if not isinstance(found, App):
        raise Failure(
            ExitCode.USAGE,
            f"{where} is no app",
            why=f"it is a {type(found).__name__}, and a perdure.App is needed",
            do=f"the apps of {module_name} are: {_apps_in(module) or 'none'}",
        )
    return found  # pyright: ignore[reportUnknownVariableType] -- an app of whatever services


def _imported(name: str, where: str) -> Any:
    """Import a module by its name."""
    try:
        with _told(where, f"python -c 'import {name}'"):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        near = [file.stem for file in sorted(Path.cwd().glob("*.py"))]
        do = _suggestion(name, near, "{}:app") or "run it where the module is"
        if not f"{name}.".startswith(f"{error.name}."):
            do = "install or mend what it imports"
        raise _not_there(where, str(error), do) from error


def _loaded(file: Path, where: str) -> Any:
    """Load a module from its file, whatever other modules are called."""
    file = file.resolve()
    _make_importable(file.parent)
    if not file.is_file():
        near = [other.name for other in sorted(file.parent.glob("*.py"))]
        do = _suggestion(file.name, near, "{}:app") or "name a file that is there"
        raise _not_there(where, f"there is no file {file}", do)
    known = sys.modules.get(file.stem)
    if known is not None and _is_of(known, file):
        return known
    # A name that somebody else has, or Python itself will want to import, must stay theirs.
    is_free = known is None and file.stem not in sys.stdlib_module_names
    name = file.stem if is_free else f"{file.stem} at {file.parent}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "of a name that ends in .py"
    assert spec.loader is not None, "there is one for such a name"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _told(where, f"python {file}"):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ImportError):
            raise _not_there(where, str(error), "install or mend what it imports") from error
        raise
    return module


def _is_of(module: ModuleType, file: Path) -> bool:
    place = getattr(module, "__file__", None)
    return place is not None and Path(place).resolve() == file


@contextmanager
def _told(where: str, shows: str) -> Generator[None, None, None]:
    """Turn what a module raises while it is imported into a failure; a missing import passes."""
    try:
        with translated():
            yield
    except Failure:
        raise
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise _not_there(where, str(error), "install or mend what it imports") from error
    except (Exception, SystemExit) as error:  # a script that ends itself where it is imported
        raise Failure(
            ExitCode.USAGE,
            f"importing {where} failed",
            why=f"{type(error).__name__}: {error}",
            do=f"mend it; {shows} shows where",
        ) from error


def _not_there(where: str, why: str, do: str) -> Failure:
    return Failure(ExitCode.USAGE, f"cannot import {where}", why=why, do=do)


def _suggestion(name: str, near: list[str], form: str) -> str:
    close = difflib.get_close_matches(name, near, n=1)
    return f"did you mean {form.format(close[0])}?" if close else ""


def _no_attribute(where: str, module: Any, name: str) -> Failure:
    close = difflib.get_close_matches(name, dir(module), n=1)
    apps = _apps_in(module)
    do = f"its apps are: {apps}" if apps else "make one: app = App(…)"
    shown = where.partition(":")[0]
    if close:
        do = f"did you mean {shown}:{close[0]}?"
    why = f"module {shown} has no {name!r}"
    return Failure(ExitCode.USAGE, f"there is no app at {where}", why=why, do=do)


def _apps_in(module: Any) -> str:
    found: dict[str, Any] = module.__dict__
    return ", ".join(name for name, value in found.items() if isinstance(value, App))


def _make_importable(directory: Path) -> None:
    place = str(directory.resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
