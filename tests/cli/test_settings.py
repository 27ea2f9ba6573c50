"""Settings: argument before environment before file before default."""

from pathlib import Path

import pytest

from perdure import defaults
from perdure.cli._failures import Failure
from perdure.cli._settings import SETTINGS, resolve, strange_variables, variable
from tests.cli.conftest import Perdure


def write(directory: Path, text: str) -> Path:
    file = directory / "pyproject.toml"
    file.write_text(text, "utf-8")
    return file


def test_the_more_direct_word_wins(tmp_path: Path):
    """Each of the four, where the ones before it say nothing."""
    file = write(tmp_path, '[tool.perdure]\ngrace = "3s"\nqueues = ["a", "b"]\n')
    environment = {"PERDURE_GRACE": "2s", "PERDURE_CONCURRENCY": ""}
    settings = resolve({"grace": "1s"}, environment, tmp_path)
    assert (settings["grace"], settings.chosen["grace"].origin) == ("1s", "argument")
    settings = resolve({"grace": None}, environment, tmp_path)
    assert (settings["grace"], settings.chosen["grace"].origin) == ("2s", "PERDURE_GRACE")
    settings = resolve({}, {}, tmp_path)
    assert (settings["grace"], settings.chosen["grace"].origin) == ("3s", str(file))
    assert settings["queues"] == ("a", "b")
    settings = resolve({"queues": ()}, {}, tmp_path.parent)
    assert (settings["grace"], settings.chosen["grace"].origin) == (defaults.GRACE, "default")
    assert settings["queues"] is None


def test_every_setting_has_a_variable_and_a_key(tmp_path: Path):
    """Whatever can be set at all can be set in each way."""
    samples = {"queues": "a,b", "only": "a", "concurrency": "3", "crash_cap": "3"}
    samples |= {"log_level": "error", "log_format": "json", "app": "m:a", "url": "memory://"}
    for name in SETTINGS:
        text = samples.get(name, "7s")
        by_variable = resolve({}, {variable(name): text}, tmp_path)
        assert by_variable.chosen[name].origin == variable(name)
        value = text if not text.isdigit() else int(text)
        write(tmp_path, f"[tool.perdure]\n{name} = {value!r}\n")
        by_file = resolve({}, {}, tmp_path)
        assert by_file.chosen[name].rank == 2
        assert by_file[name] == by_variable[name]
        (tmp_path / "pyproject.toml").unlink()


def test_the_help_shows_the_defaults_of_the_table(perdure: Perdure):
    """What `worker --help` says of an option is what holds where nobody says otherwise."""
    shown = " ".join(perdure("worker", "--help").out.split())
    for name, setting in SETTINGS.items():
        if name not in {"app", "url", "only", "queues"}:
            assert (
                f"[{setting.default}]"
                in shown.partition(f"--{name.rstrip('s').replace('_', '-')}")[2]
            )


def test_the_nearest_file_with_a_table_counts(tmp_path: Path):
    """A pyproject.toml without [tool.perdure] is passed over."""
    file = write(tmp_path, '[tool.perdure]\nurl = "memory://"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    write(inner, '[project]\nname = "x"\n')
    settings = resolve({}, {}, inner)
    assert (settings.file, settings["url"]) == (file, "memory://")


@pytest.mark.parametrize(
    "text, what, do",
    [
        ("[tool.perdure]\nconcurency = 1\n", "no setting 'concurency'", "'concurrency'"),
        ('[tool.perdure]\nlog-level = "info"\n', "no setting 'log-level'", "'log_level'"),
        ("[tool.perdure]\nconcurrency = 0\n", "concurrency cannot be 0", "above 0"),
        ("[tool.perdure]\nconcurrency = true\n", "concurrency cannot be True", "above 0"),
        ("[tool.perdure]\ngrace = 25\n", "grace cannot be 25", '"25s"'),
        ("[tool.perdure]\nqueues = []\n", "queues cannot be []", "names"),
        ('[tool.perdure]\nlog_level = "loud"\n', "log_level cannot be 'loud'", "debug"),
        ("[tool]\nperdure = 1\n", "is no table", "[tool.perdure]"),
        ("[tool.perdure\n", "cannot read", "mend"),
    ],
)
def test_a_wrong_file_is_an_error_with_a_suggestion(tmp_path: Path, text: str, what: str, do: str):
    """Nothing in it is passed over in silence."""
    file = write(tmp_path, text)
    with pytest.raises(Failure) as caught:
        resolve({}, {}, tmp_path)
    assert what in caught.value.what
    assert do in caught.value.do
    assert str(file) in caught.value.what + caught.value.why


def test_strange_variables_are_told(perdure: Perdure, monkeypatch: pytest.MonkeyPatch):
    """A variable with a typing mistake sets nothing, and `config` says so."""
    environment = {"PERDURE_URL": "", "PERDURE_QUEUE": "", "PERDURE_ZZZ": "", "OTHER": ""}
    assert strange_variables(environment) == {"PERDURE_QUEUE": "PERDURE_QUEUES", "PERDURE_ZZZ": ""}
    monkeypatch.setenv("PERDURE_QUEUE", "x")
    answer = perdure("config")
    assert answer.code == 0
    assert "PERDURE_QUEUE is set" in answer.err
    assert "did you mean PERDURE_QUEUES?" in answer.err
