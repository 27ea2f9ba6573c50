"""Rules that hold for the whole repository: layers, names that may stand in few places, files."""

import ast
import builtins
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import perdure
from dev import STATIC_GATES
from perdure._version import __version__

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "perdure"

# Import statements inside functions, each with its reason. Anything else stands in the wrong place.
LOCAL_IMPORTS_ALLOWED: dict[tuple[str, str], str] = {}

CLOCK = (
    "time.time",
    "time.time_ns",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "datetime.date.today",
)
CHANCE = ("os.urandom", "random", "secrets", "uuid.uuid1", "uuid.uuid4")
DATA_AS_CODE = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "eval", "exec", "yaml.load")
POSIX_ONLY = (  # os.register_at_fork is not among them: ids.py asks hasattr first
    *("os." + name for name in ("fork", "forkpty", "kill", "killpg", "setpgid")),
    *("os." + name for name in ("getuid", "geteuid", "setsid", "waitpid", "sched_getaffinity")),
    *("signal." + name for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD")),
    *("signal." + name for name in ("alarm", "setitimer", "pthread_kill", "pthread_sigmask")),
    "socket.AF_UNIX",
)
SOURCES_OF_TIME_AND_CHANCE = ("clock.py", "ids.py", "retry.py", "_platform.py", "stores/")


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package as a syntax tree, by its path inside the package."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Map each imported name to what it means: `from time import time as t` gives t: time.time."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                full = alias.name if alias.asname else alias.name.partition(".")[0]
                names[alias.asname or full] = full
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr) -> str | None:
    """Return `a.b.c` for such an expression, None for any other."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr) if left := dotted(value):
            return f"{left}.{attr}"
    return None


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, qualified name) of each import, and of each read of an import or builtin."""
    known = {name: name for name in dir(builtins)} | imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported_names(ast.Module([node], [])).values():
                yield node.lineno, name
        elif isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node)):
            first, dot, rest = name.partition(".")
            if first in known:
                yield node.lineno, known[first] + dot + rest


def offenders(
    forbidden: tuple[str, ...],
    *,
    allowed_in: tuple[str, ...] = (),
    except_for: tuple[str, ...] = (),
) -> list[str]:
    """List `file:line name` of each use of a forbidden name, or of anything below it."""
    return [
        f"{path}:{line} {name}"
        for path, tree in modules().items()
        if not path.startswith(allowed_in)
        for line, name in sorted(uses(tree))
        if name not in except_for and any(f"{name}.".startswith(f"{bad}.") for bad in forbidden)
    ]


def test_imports_run_downwards():
    """The layers and the forbidden imports of pyproject.toml hold."""
    command = [sys.executable, *STATIC_GATES["layers"], "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_nothing_is_imported_inside_functions():
    """An import stands at the top of its module, or in the list of exceptions."""
    found = {
        (path, name)
        for path, tree in modules().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in imported_names(ast.Module(function.body, [])).values()
    }
    assert found == LOCAL_IMPORTS_ALLOWED.keys()


def test_no_exception_is_caught_unseen():
    """There is no bare except."""
    assert not [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def test_the_clock_is_read_in_few_places():
    """Wall-clock time comes from an injected clock or from the store."""
    assert not offenders(CLOCK, allowed_in=SOURCES_OF_TIME_AND_CHANCE)


def test_chance_comes_from_few_places():
    """Randomness is injected; a seeded random.Random is a value and may be named anywhere."""
    except_for = ("random", "random.Random")
    assert not offenders(CHANCE, allowed_in=SOURCES_OF_TIME_AND_CHANCE, except_for=except_for)


def test_stored_data_is_never_code():
    """Nothing that turns bytes into code is imported or called: the store is data."""
    assert not offenders(DATA_AS_CODE)


def test_one_module_knows_the_platform():
    """What Windows does not have is used in _platform.py only."""
    assert not offenders(POSIX_ONLY, allowed_in=("_platform.py",))


def test_the_rules_see_what_they_forbid(monkeypatch: pytest.MonkeyPatch):
    """Each way to spell a forbidden use is found, and a method of the same name is not."""
    source = """
from datetime import datetime as dt
import time as t, random
from pickle import loads
at = dt.now()
factory = t.time
draw = random.random() + random.Random(1).random()
value = eval("1")
answer = redis.eval(script)
secrets = answer.secrets
"""
    monkeypatch.setattr(f"{__name__}.modules", lambda: {"x.py": ast.parse(source)})
    assert offenders(CLOCK) == ["x.py:5 datetime.datetime.now", "x.py:6 time.time"]
    assert offenders(CHANCE, except_for=("random", "random.Random")) == ["x.py:7 random.random"]
    assert offenders(DATA_AS_CODE) == ["x.py:4 pickle.loads", "x.py:8 eval"]


def test_importing_costs_little():
    """No public name loads a driver, the command line, an optional package or any metadata."""
    code = "import sys; from perdure import *; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    costly = {"click", "http", "importlib.metadata", "pydantic", "sqlite3"}
    assert "perdure.app" in loaded
    assert not costly.intersection(loaded)


LATE = ("perdure._late", "perdure._engine.late", "perdure._runtime.late")
DECLARING = """
import asyncio, sys
import msgspec
brought_along = {*sys.modules}
from perdure import App, Context, Rate, step

app = App(services=object())

@app.step(max_attempts=3, timeout="30s")
async def charge(order_id: str, cents: int) -> str: ...

@app.workflow(max_attempts=2, queue="orders")
async def fulfil(order_id: str) -> str: ...

@app.job(timeout="1h")
def mail(ctx: Context[object], to: str) -> None: ...

app.queue("orders", concurrency=2, rate=Rate(10, "1m"))
declared = {*sys.modules} - brought_along

async def main():
    with app.override(store="memory://"):
        async with app:
            return {*sys.modules} - brought_along

connected = asyncio.run(main())
print(*declared)
print(*connected)
"""


def test_declaring_loads_what_declares():
    """What executes and stores runs is loaded with the first connection, all of it; not before."""
    done = subprocess.check_output([sys.executable, "-c", DECLARING], text=True)
    declared, connected = (set(line.split()) for line in done.splitlines())
    of_engine = {f"perdure._engine.{name}" for name in ("activation", "journal", "turns", "waits")}
    of_engine |= {*importlib.import_module("perdure._engine.late").MODULES.values()}
    late = of_engine.union(*(importlib.import_module(name).MODULES.values() for name in LATE))
    others = {"perdure._engine.executor", "perdure._runtime.worker", "perdure.store"}
    theirs = {"concurrent.futures.thread", "cronsim", "pathlib", "urllib.parse", "zoneinfo"}
    assert {"perdure.app", "perdure.workflow", "perdure.step"} <= declared
    assert not declared & (late | others | theirs)
    assert of_engine <= connected
    # They are 45, and each takes 0.1 to 0.3 ms.
    assert len([name for name in declared if name.partition(".")[0] == "perdure"]) <= 50


@pytest.mark.parametrize("place", LATE)
def test_late_modules_are_at_home(place: str):
    """Each is the module that its import for type checkers names, and is loaded once."""
    late = importlib.import_module(place)
    tree = modules()[place.removeprefix("perdure.").replace(".", "/") + ".py"]
    for_checkers = ast.Module(
        [line for node in tree.body if isinstance(node, ast.If) for line in node.body], []
    )
    homes = imported_names(for_checkers)
    assert homes == late.MODULES
    assert homes.keys() <= set(late.__all__)
    for name, home in homes.items():
        assert getattr(late, name) is importlib.import_module(home)
        assert vars(late)[name] is sys.modules[home]
    with pytest.raises(AttributeError, match=f"module '{place}' has no attribute 'nothing'"):
        late.nothing  # noqa: B018  # the attribute is asked for


def test_public_names_are_at_home():
    """Each name is loaded from where its import for type checkers says, whatever came before."""
    tree = modules()["__init__.py"]
    imported = {
        alias.name: (node.module or "").removeprefix("perdure.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in perdure.__all__ and alias.name != "__version__"
    }
    homes = {name: home for home, names in perdure._HOMES.items() for name in names}
    assert homes == imported
    assert {*homes, "__version__"} == set(perdure.__all__) <= set(dir(perdure))
    code = "import perdure.app; from perdure import step; print(type(step).__name__)"
    done = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert done == "StepVerb\n", "importing the module `step` does not hide the verb"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        perdure.nothing  # noqa: B018  # the attribute is asked for


def test_the_changelog_names_the_version():
    """The newest entry of the changelog is about this version."""
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heading is not None
    assert heading[1] == __version__


def test_ci_runs_the_readme_commands():
    """`.ci/run` calls the README's second command as it is printed there."""
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^python3 dev\.py .*$", readme, re.MULTILINE)
    assert commands[:2] == ["python3 dev.py demo", "python3 dev.py test"]
    assert f"stage tests {commands[1]}\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_readme_is_short():
    """The README stays under 200 lines."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 200


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def tracked_files() -> list[Path]:
    """Return every file that git tracks and that is there."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@needs_git
def test_no_file_names_a_machine():
    """No tracked file holds a path of somebody's machine or the host of a registry."""
    places = re.compile(
        rf"{re.escape(str(ROOT))}\b|/(home|Users)/[a-z]\w*/|/roo[t]/|pyp[i]\.org"
        r"|\b(files|registry)\.[a-z]+\.(com|org)"
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked_files()
        if (match := places.search(path.read_text("utf-8", errors="replace")))
    ]
    assert not found


@needs_git
def test_no_lock_file_is_tracked():
    """uv.lock records registry hosts and stays out of git."""
    assert "uv.lock" not in {path.name for path in tracked_files()}
