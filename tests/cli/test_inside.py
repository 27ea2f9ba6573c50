"""What commands do, in this process: places, ids, filters, and how things are printed."""

import asyncio
import io
import sys
from pathlib import Path

import click
import pytest

from perdure import App
from perdure.cli._failures import ExitCode
from perdure.cli._main import COMMANDS, root
from perdure.cli._output import as_json, escape, table, width
from perdure.cli._places import load_app
from perdure.model.transitions import CreateRun
from perdure.stores.sqlite import SqliteStore
from tests.cli.conftest import Perdure, create

URL = "sqlite:///shop.db"


@pytest.fixture
def filled(yard: Path) -> None:
    """A store with a few runs, one of which has an id and texts that would paint a terminal."""

    async def fill() -> None:
        store = SqliteStore(yard / "shop.db")
        await store.open()
        creates = [
            CreateRun("order-1", "fulfil", b'{"a": "\\u001b[2J"}', 1, unique_key="k", queue="q"),
            CreateRun("order-10", "fulfil", b"{}", 2, tags=("VIP",)),
            CreateRun("evil\x1b[31m\u202e", "mail\x07\n", b"{}", 3, parent_id="order-1"),
            CreateRun("late", "mail", b"{}", 4, delay=10**9),
        ]
        await store.apply(creates)
        await store.close()

    asyncio.run(fill())


def listed(perdure: Perdure, *words: str) -> list[str]:
    answer = perdure("runs", "--url", URL, "--json", *words)
    assert (answer.code, answer.err) == (0, "")
    return [run["id"] for run in answer.json]


def test_every_line_of_the_help_is_the_commands_own():
    """The table that spares importing the commands agrees with them."""
    context = root.make_context("perdure", ["config"])
    for name, line in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert (command.name, command.short_help) == (name, line)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(perdure: Perdure, name: str):
    """--help and -h, with every option described."""
    answer = perdure(name, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: perdure {name} ")
    assert perdure(name, "-h") == answer
    command = root.get_command(root.make_context("perdure", ["config"]), name)
    assert command is not None
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)


def test_filters_of_runs(filled: None, perdure: Perdure):
    """Each one alone, and two together."""
    assert listed(perdure) == ["late", "evil\x1b[31m\u202e", "order-10", "order-1"]
    assert listed(perdure, "--status", "waiting") == ["late"]
    assert listed(perdure, "-s", "waiting", "-s", "failed") == ["late"]
    assert listed(perdure, "--name", "fulfil", "--limit", "1") == ["order-10"]
    assert listed(perdure, "-Q", "q") == ["order-1"]
    assert listed(perdure, "--key", "k") == ["order-1"]
    assert listed(perdure, "--tag", "VIP") == ["order-10"]
    assert listed(perdure, "--text", "vip") == ["order-10"]
    assert listed(perdure, "--id", "order") == ["order-10", "order-1"]
    assert listed(perdure, "--reason", "crash") == []
    assert listed(perdure, "--parent", "order-1") == ["evil\x1b[31m\u202e"]
    assert len(listed(perdure, "--since", "1h")) == 4
    assert listed(perdure, "--until", "1h") == []
    assert listed(perdure, "--since", "2999-01-01") == []
    assert listed(perdure, "--until", "2000-01-01T00:00+01:00") == []
    wrong = perdure("runs", "--url", URL, "--since", "soon")
    assert wrong.code == ExitCode.USAGE
    assert "'soon' is no instant" in wrong.err
    both = perdure("runs", "--url", URL, "--json", "--jsonl")
    assert both.code == ExitCode.USAGE


WRONG_FILTERS = {
    ("--reason", "crahs"): (ExitCode.USAGE, "did you mean 'crash'?"),
    ("--name", "fulfi"): (ExitCode.NOT_FOUND, "did you mean 'fulfil'?"),
    ("--name", "\udcff"): (ExitCode.USAGE, "name must not contain"),
    ("--queue", "\udcff"): (ExitCode.USAGE, "queue must not contain"),
    ("--key", ""): (ExitCode.USAGE, "unique_key must not be empty"),
    ("--tag", "\x1b"): (ExitCode.USAGE, "tag must not contain"),
    ("--text", "\n"): (ExitCode.USAGE, "text must not be empty or blank"),
    ("--id", "\udcff"): (ExitCode.USAGE, "id_prefix must not contain"),
}


@pytest.mark.parametrize("words", WRONG_FILTERS)
def test_a_filter_that_no_run_can_match(shop: str, perdure: Perdure, words: tuple[str, str]):
    """It is told as in `app.runs`, rather than as an empty list; a definition may be new."""
    code, says = WRONG_FILTERS[words]
    assert perdure("start", "add", "n=1", "--app", shop).code == 0
    answer = perdure("runs", *words, "--app", shop)
    assert (answer.code, answer.out) == (code, "")
    assert says in answer.err
    assert perdure("runs", "--name", "boom", "--app", shop).out == "no runs\n"


def test_a_full_list_says_that_there_may_be_more(filled: None, perdure: Perdure):
    """On standard error, so that a program that reads the list is not disturbed."""
    answer = perdure("runs", "--url", URL, "--limit", "2")
    assert len(answer.out.splitlines()) == 3
    assert "--limit" in answer.err


def test_more_than_a_page_is_listed(
    filled: None, perdure: Perdure, monkeypatch: pytest.MonkeyPatch
):
    """A limit above the store's own page is put together from several."""
    monkeypatch.setattr("perdure.cli.commands.runs.PAGE", 3)
    assert listed(perdure, "--limit", "4") == ["late", "evil\x1b[31m\u202e", "order-10", "order-1"]


def test_nothing_that_is_stored_moves_the_cursor(filled: None, perdure: Perdure):
    """Control characters and marks of direction are shown, in text and in JSON."""
    for words in (["runs"], ["runs", "--json"], ["show", "evil"], ["show", "order-1"]):
        answer = perdure(*words, "--url", URL)
        assert answer.code == 0
        assert not set("\x1b\x07\u202e") & set(answer.out)
    assert "evil\\x1b[31m\\u202e  mail\\x07\\n" in perdure("runs", "--url", URL).out


def test_a_whole_id_is_not_ambiguous(filled: None, perdure: Perdure):
    """Although another run's begins with it; a beginning that several share is."""
    assert perdure("show", "order-1", "--url", URL, "--json").json["id"] == "order-1"
    assert perdure("show", "l", "--url", URL, "--json").json["id"] == "late"
    ambiguous = perdure("show", "order-", "--url", URL)
    assert ambiguous.code == ExitCode.NOT_FOUND
    assert "order-10 (fulfil, queued, " in ambiguous.err
    assert perdure("show", "", "--url", URL).code == ExitCode.NOT_FOUND
    assert perdure("show", "%", "--url", URL).code == ExitCode.NOT_FOUND


def test_cancel_by_the_beginning_of_an_id(filled: None, perdure: Perdure):
    """The whole id is told; the same run named twice is cancelled once."""
    answer = perdure("cancel", "lat", "lat", "--url", URL)
    assert (answer.code, answer.out) == (0, "late  ⊘ cancelled\n")
    nobody = perdure("cancel", "x", "y", "--url", URL)
    assert nobody.code == ExitCode.NOT_FOUND, "not partial: none was cancelled"
    assert perdure("cancel", "--url", URL).code == ExitCode.USAGE


# --- places ----------------------------------------------------------------------------------


def test_options_may_stand_before_the_command(filled: None, perdure: Perdure):
    """`perdure --url … runs`; the command's own option wins."""
    assert perdure("--url", URL, "runs", "--json").code == 0
    assert perdure("--url", "sqlite:///other.db", "runs", "--url", URL).code == 0


def test_an_app_stands_for_its_store(shop: str, perdure: Perdure, yard: Path):
    """Named on the command line it beats a URL in the file; a URL on the command line beats it."""
    (yard / "pyproject.toml").write_text('[tool.perdure]\nurl = "sqlite:///missing.db"\n')
    assert perdure("start", "add", "n=1", "--app", f"{shop}:app").code == 0
    assert "add" in perdure("runs", "--app", f"{shop}:app").out
    answer = perdure("runs", "--app", f"{shop}:app", "--url", "sqlite:///missing.db")
    assert answer.code == ExitCode.UNREACHABLE


def test_the_app_of_the_file_is_imported_from_beside_it(
    shop: str, perdure: Perdure, yard: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also in a directory below."""
    (yard / "pyproject.toml").write_text(f'[tool.perdure]\napp = "{shop}:app"\n')
    (yard / "below").mkdir()
    create(yard / "below" / "shop.db")
    monkeypatch.chdir(yard / "below")
    assert perdure("start", "add", "n=1").code == 0


def test_apps_are_found_by_module_and_by_file(shop: str, yard: Path):
    """The name `app` may be left out."""
    by_module = load_app(shop)
    assert isinstance(by_module, App)
    assert load_app(f"{shop}:app") is by_module
    assert load_app(f"{shop}.py") is by_module
    assert load_app(f"{yard / shop}.py:app") is by_module


@pytest.mark.parametrize("stem", ["types", "json", "my-app", "a.b", "twice_there"])
def test_a_file_is_loaded_by_its_path(yard: Path, perdure: Perdure, stem: str):
    """Whatever else is called so; who has the name keeps it, and a second load is no copy."""
    for directory in (yard / "one", yard / "two"):
        directory.mkdir()
        text = f"from perdure import App\napp = App('memory://')\nplace = {directory.name!r}\n"
        (directory / f"{stem}.py").write_text(text, "utf-8")
    before = sys.modules.get(stem)
    one, two = (load_app(f"{name}/{stem}.py:app") for name in ("one", "two"))
    assert one is not two
    assert load_app(f"one/{stem}.py") is one
    assert before is None or sys.modules[stem] is before
    wrong = perdure("worker", f"one/{stem}.py:ap")
    assert f"did you mean one/{stem}.py:app?" in wrong.err


def test_a_file_that_is_not_there(yard: Path, perdure: Perdure):
    """The message suggests one that is, and what a file cannot import is told as for modules."""
    (yard / "shop.py").write_text("import a_module_that_does_not_exist", "utf-8")
    missing = perdure("worker", "shp.py:app")
    assert (missing.code, "did you mean shop.py:app?" in missing.err) == (ExitCode.USAGE, True)
    needy = perdure("worker", "shop.py:app")
    assert (needy.code, "mend what it imports" in needy.err) == (ExitCode.USAGE, True)


def test_paths_in_the_file_count_from_where_it_is(
    shop: str, perdure: Perdure, yard: Path, monkeypatch: pytest.MonkeyPatch
):
    """The URL of a store and the file of an app, for a command in a directory below."""
    (yard / "pyproject.toml").write_text(
        f'[tool.perdure]\nurl = "sqlite:///shop.db"\napp = "{shop}.py:app"\n', "utf-8"
    )
    assert perdure("start", "add", "n=1", "--id", "r").code == 0
    (yard / "below").mkdir()
    monkeypatch.chdir(yard / "below")
    assert perdure("show", "r", "--json").json["id"] == "r"
    assert perdure("worker", "--only", "nobody").code == ExitCode.NOT_FOUND, "the app was found"
    assert perdure("migrate", "--url", "sqlite:///new.db").code == 0
    assert (yard / "below" / "new.db").exists()


def test_a_mistake_of_place_makes_no_store(shop: str, perdure: Perdure, yard: Path):
    """`start` refuses a store that is not there and says how to create it; memory needs none."""
    (yard / "away.py").write_text(
        "from perdure import App, job\napp = App('sqlite:///away.db')\nheap = App('memory://')\n"
        "@job\nasync def add(n: int) -> int: ...\napp.include(add)\nheap.include(add)\n",
        "utf-8",
    )
    refused = perdure("start", "add", "n=1", "--app", "away:app")
    assert (refused.code, refused.out) == (ExitCode.UNREACHABLE, "")
    assert "perdure migrate --app away:app does it" in refused.err
    assert not (yard / "away.db").exists()
    assert perdure("start", "add", "n=1", "--app", "away:heap").code == 0
    created = perdure("worker", "away:app", "--burst")
    assert created.code == 0
    assert f"will create {yard / 'away.db'} with schema 2" in created.err
    assert perdure("start", "add", "n=1", "--app", "away:app").code == 0
    assert "note:" not in perdure("worker", "away:app", "--burst").err


NO_APPS = {
    "SHOPP:app": ("cannot import", "did you mean SHOP:app?"),
    "nothing:app": ("cannot import", "run it where the module is"),
    "SHOP:apq": ("there is no app at", "did you mean SHOP:app?"),
    "SHOP:zzz": ("there is no app at", "its apps are: app, empty"),
    "SHOP:Order": ("is no app", "are: app, empty"),
    "broken:app": ("importing broken:app failed", "mend it"),
    "needy:app": ("cannot import", "mend what it imports"),
}


@pytest.mark.parametrize("where", NO_APPS)
def test_an_app_that_is_not_there(shop: str, perdure: Perdure, yard: Path, where: str):
    """Exit 2, what Python said, and the likely remedy."""
    (yard / "broken.py").write_text("1 / 0")
    (yard / "needy.py").write_text("import a_module_that_does_not_exist")
    answer = perdure("worker", where.replace("SHOP", shop))
    assert answer.code == ExitCode.USAGE
    for part in NO_APPS[where]:
        assert part.replace("SHOP", shop) in answer.err


def test_commands_that_need_a_place_say_how_to_name_one(perdure: Perdure):
    """The three ways to name an app, and the three to name a store."""
    for words in (["worker"], ["start", "x"], ["runs"], ["doctor"], ["migrate"], ["show", "x"]):
        answer = perdure(*words)
        assert answer.code == ExitCode.USAGE
        assert "PERDURE_APP" in answer.err
        assert "--app" in answer.err


def test_wrong_places_are_usage_errors(shop: str, perdure: Perdure):
    """No such scheme (without the password), two apps, an app without a store, no --wait."""
    answer = perdure("runs", "--url", "postgre://me:secret@host/db")
    assert answer.code == ExitCode.USAGE
    assert "secret" not in answer.err
    for url in ("postgresql://u:se\\cret@h/db", "memory://u:se\\cret@h", "sqlite://u:se\\cret@[x"):
        answer = perdure("runs", "--url", url)
        assert (answer.code, "cret" in answer.err) == (ExitCode.USAGE, False)
    assert perdure("worker", f"{shop}:app", "--app", f"{shop}:empty").code == ExitCode.USAGE
    assert perdure("worker", f"{shop}:empty").code == ExitCode.USAGE
    answer = perdure("start", "add", "n=1", "--timeout", "1s", "--app", f"{shop}:app")
    assert answer.code == ExitCode.USAGE
    assert "--timeout needs --wait" in answer.err


def test_a_worker_of_nothing_known(shop: str, perdure: Perdure):
    """--only names a definition that the app does not have: exit 3, with a suggestion."""
    answer = perdure("worker", f"{shop}:app", "--burst", "--only", "fulfill")
    assert answer.code == ExitCode.NOT_FOUND
    assert "did you mean 'fulfil'?" in answer.err


def test_start_with_options(shop: str, perdure: Perdure):
    """Id, key, queue, priority, tags and delay reach the run; the same id again finds it."""
    words = ["start", "add", "n=1", "more=2", "--id", "r", "--key", "k", "-Q", "q"]
    words += ["--priority", "3", "--tag", "a", "--tag", "b", "--delay", "1h", "--app", shop]
    assert perdure(*words).out == "r\n"
    assert perdure(*words).out == "r\n"
    told = perdure("show", "r", "--url", URL, "--json").json
    assert (told["unique_key"], told["queue"], told["priority"]) == ("k", "q", 3)
    assert (told["tags"], told["waiting_for"]) == (["a", "b"], "delay")
    assert told["input"] == {"n": 1, "more": 2.0}
    text = perdure("show", "r", "--url", URL)
    assert "◷ waiting for delay" in text.out
    assert perdure("start", "add", "--app", shop).code == ExitCode.USAGE
    assert perdure("start", "add", "n=1", "--delay", "soon", "--app", shop).code == ExitCode.USAGE


def test_start_where_a_key_is_taken(shop: str, perdure: Perdure):
    """Refused, or the run that has it, or in its place; in a window that run although it ended."""
    words = ["start", "add", "--key", "k", "--app", shop]
    first = perdure(*words, "n=1").out.strip()
    assert perdure(*words, "n=2").code == ExitCode.REFUSED
    assert perdure(*words, "n=2", "--on-conflict", "skip").out.strip() == first
    new = perdure(*words, "n=2", "--on-conflict", "replace").out.strip()
    told = perdure("show", first, "--url", URL, "--json").json
    assert (told["status"], told["audit"][0]["action"]) == ("cancelled", "replace")
    assert told["audit"][0]["request_id"] == f"create {new}"
    perdure("cancel", new, "--url", URL)
    window = ["--unique-for", "1h", "--on-conflict", "skip"]
    third = perdure(*words, "n=3", *window).out.strip()
    perdure("cancel", third, "--url", URL)
    assert perdure(*words, "n=4", *window).out.strip() == third
    assert perdure("start", "add", "n=1", *window, "--app", shop).code == ExitCode.USAGE
    both = ["--unique-for", "1h", "--on-conflict", "replace"]
    assert perdure(*words, "n=1", *both).code == ExitCode.USAGE
    assert perdure(*words, "n=1", "--on-conflict", "ignore").code == ExitCode.USAGE


def test_show_a_run_that_failed_twice(shop: str, perdure: Perdure):
    """Its error with where it was raised, and the attempt before."""
    perdure("start", "boom", "what=first\x1b", "--id", "r", "--app", shop)
    perdure("worker", shop, "--burst", "--log-level", "error")
    perdure("retry", "r", "--url", URL)
    perdure("worker", shop, "--burst", "--log-level", "error")
    text = perdure("show", "r", "--url", URL).out
    assert "✕ failed, reason error" in text
    assert "ValueError: first\\x1b" in text
    assert f"{shop}.py:" in text
    assert "attempts before this one" in text
    told = perdure("show", "r", "--url", URL, "--json").json
    assert told["error"]["type"] == "ValueError"
    assert [entry["action"] for entry in told["audit"]] == ["retry"]
    assert len(told["attempts"]) == 1


def test_show_what_is_long_or_damaged(yard: Path, perdure: Perdure):
    """A long input is cut for people and whole in JSON; bytes that are no JSON are a text."""

    async def fill() -> None:
        store = SqliteStore(yard / "shop.db")
        await store.open()
        long = b'"' + b"x" * 100_000 + b'"'
        await store.apply([CreateRun("long", "d", long, 1), CreateRun("odd", "d", b"\xff{", 2)])
        await store.close()

    asyncio.run(fill())
    text = perdure("show", "long", "--url", URL).out
    assert len(text) < 3_000
    assert "of 100,002 characters; --json prints all" in text
    assert perdure("show", "long", "--url", URL, "--json").json["input"] == "x" * 100_000
    assert perdure("show", "odd", "--url", URL, "--json").json["input"] == "\\xff{"


# --- printing --------------------------------------------------------------------------------


def test_escape_leaves_what_can_be_printed():
    """Letters of any script and blanks stay; what moves, hides or breaks a line does not."""
    assert escape("é 漢字 🙂 ok") == "é 漢字 🙂 ok"
    assert escape("a\nb\tc\x00\x7f\x9b") == "a\\nb\\tc\\x00\\x7f\\x9b"
    assert escape("\u2028\u202e\u200b\ufeff\ud800") == "\\u2028\\u202e\\u200b\\ufeff\\ud800"


def test_columns_are_aligned_by_what_is_seen():
    """Wide characters take two columns, combining ones none."""
    assert [width(text) for text in ("abc", "漢字", "e\u0301", "")] == [3, 4, 1, 0]
    assert table(("A", "B"), [("漢字", "x"), ("e\u0301", "")]) == "A     B\n漢字  x\ne\u0301"


def test_json_is_ascii():
    """No terminal acts on it."""
    assert as_json({"é\x7f": "\x1b"}) == '{"\\u00e9\\u007f": "\\u001b"}'


def test_colour_only_on_a_terminal_and_never_alone(
    filled: None, perdure: Perdure, monkeypatch: pytest.MonkeyPatch
):
    """The status keeps its word; NO_COLOR is heard."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("perdure.cli._output.is_terminal", lambda stream: stream.isatty() or True)
    coloured = table(("S",), [("✓ completed",), ("plain",)])
    assert coloured == "S\n\x1b[32m✓ completed\x1b[0m\nplain"
    monkeypatch.undo()
    assert "\x1b" not in perdure("runs", "--url", URL).out


def test_a_terminal_without_glyphs_gets_the_word(
    filled: None, perdure: Perdure, monkeypatch: pytest.MonkeyPatch
):
    """An encoding that lacks the glyph shows the status alone, and other characters as numbers."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert perdure("runs", "--url", URL).code == 0
    out.flush()
    text = out.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert " queued " in text
    assert "○" not in text
