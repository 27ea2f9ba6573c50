"""Each public error has a code, a page with an example that meets it, and a place in the tree."""

import importlib
import logging
import pickle
import pkgutil
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import errors
from tests.docs.test_blocks import ROOT, blocks_of

PAGES = ROOT / "docs" / "errors"

CLASSES: list[type[errors.PerdureError]] = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, errors.PerdureError)
]

NOT_MET = {
    "P203": "a full disk cannot be had in an example",
    "P205": "a lost answer cannot be had in an example",
}


def every_subclass(error: type[BaseException]) -> set[type[BaseException]]:
    """Return an error's class and all below it."""
    below = [every_subclass(each) for each in error.__subclasses__()]
    return {error}.union(*below)


def test_each_error_of_the_package_is_in_its_module():
    """No error of the package is declared anywhere else, where it would have no page."""
    for module in pkgutil.walk_packages(perdure.__path__, "perdure."):
        importlib.import_module(module.name)
    ours = {
        error
        for error in every_subclass(errors.PerdureError)
        if error.__module__.split(".")[0] == "perdure"
    }
    assert ours == set(CLASSES)


def page_of(error: type[errors.PerdureError]) -> Path:
    """Return where an error's page is."""
    return PAGES / f"{error.code}.md"


def test_each_error_has_a_code_of_its_own():
    """A class says its code itself, and no two say the same."""
    assert [error.__name__ for error in CLASSES if "code" not in vars(error)] == []
    codes = [error.code for error in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"P\d{3}", code) for code in codes)


def test_each_error_is_in_the_tree_at_the_top_of_its_module():
    """The drawing in errors.py has every class, below its base."""
    path: list[str] = []
    drawn: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"((?:│   |    )*)(?:[├└]── )?([A-Z]\w+)(?: {2,}.*)?", line)
        if match is None:
            continue
        branch = "── " in line
        depth = len(match[1]) // 4 + branch
        path[depth:] = [match[2]]
        drawn[match[2]] = path[depth - 1] if depth else None
    bases = {error.__name__: error.__bases__[0] for error in CLASSES}
    expected = {name: base.__name__ for name, base in bases.items()}
    assert drawn == {**expected, "PerdureError": None}


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.code)
def test_each_error_has_a_page(error: type[errors.PerdureError]):
    """The page is called after the code, names the class, and has cause, fix and example."""
    text = page_of(error).read_text("utf-8")
    assert text.startswith(f"# {error.code}: {error.__name__}\n\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Cause", "Fix", "Example"]
    [example] = blocks_of(error.code, text)
    assert example.language == "python"
    assert error.__name__ in example.text


def test_no_page_is_of_nobody():
    """Every page belongs to a class, and the index has each with its class and first sentence."""
    assert {page.stem for page in PAGES.glob("*.md")} - {"README"} == {
        error.code for error in CLASSES
    }
    index = (PAGES / "README.md").read_text("utf-8")
    lines = [
        f"| [{error.code}]({error.code}.md) | `{error.__name__}` | "
        f"{page_of(error).read_text('utf-8').splitlines()[2]} |"
        for error in CLASSES
    ]
    assert [line for line in index.splitlines() if line.startswith("| [P")] == lines


@pytest.mark.parametrize(
    "error", [error for error in CLASSES if error.code not in NOT_MET], ids=lambda error: error.code
)
def test_the_example_meets_its_error(
    error: type[errors.PerdureError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What the page's example shows is this error, not another."""
    met: list[str] = []
    init = error.__init__

    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        met.append(type(self).__name__)
        init(self, *args, **kwargs)

    monkeypatch.setattr(error, "__init__", noting)
    monkeypatch.chdir(tmp_path)
    run_logger = logging.getLogger("perdure.run")
    monkeypatch.setattr(run_logger, "handlers", [])
    [example] = blocks_of(error.code, page_of(error).read_text("utf-8"))
    program = tmp_path / "example.py"
    program.write_text(example.text, "utf-8")
    runpy.run_path(str(program), run_name="__main__")
    assert met


def test_errors_are_copied_as_they_are():
    """Process pools pickle what is raised in them, whatever arguments its class takes."""
    for error in (
        errors.RunFailed("no", run_id="r", error_type="ValueError", reason="error"),
        errors.RunConflict("no", run_id="r"),
        errors.Mismatch("no", step="s", recorded="a", asked="b"),
        errors.RetryAfter("10m"),
        errors.EventConflict("no", event_id="e"),
    ):
        copied = pickle.loads(pickle.dumps(error))  # made here
        assert (type(copied), str(copied)) == (type(error), str(error))
        assert vars(copied) == vars(error)
