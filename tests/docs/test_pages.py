"""The pages agree with the code, with the tests and files they name, and with each other."""

import re
from collections.abc import Iterable

import pytest

from perdure.model.records import REASONS, Status, StepKind, StepOutcome, WaitKind
from perdure.url import STORES
from tests.docs.test_blocks import PAGES, ROOT

DOCS = ROOT / "docs"


def section(page: str, heading: str) -> str:
    """Return the text of a page below a heading, up to the next one."""
    text = (DOCS / page).read_text("utf-8")
    return re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]


def words(table: str) -> list[str]:
    """Return the first column of a table."""
    rows = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    return [row.strip("`") for row in rows[1:]]


@pytest.mark.parametrize(
    "heading, members",
    [
        ("Status of a run", Status),
        ("What a waiting run waits for", WaitKind),
        ("Kinds and outcomes of a step", [*StepKind, *StepOutcome]),
    ],
    ids=["status", "wait", "step"],
)
def test_the_glossary_has_every_member(heading: str, members: Iterable[str]):
    """Each status, kind of wait, kind of step and outcome is in its table, and nothing else."""
    listed = words(section("glossary.md", heading))
    assert sorted(listed) == sorted({str(member) for member in members})


def test_the_glossary_has_every_reason():
    """Each reason for which a run is failed or paused is named."""
    text = section("glossary.md", "Status of a run") + section("glossary.md", "What happens")
    assert [reason for reason in REASONS if reason not in text] == []


def test_the_glossary_is_sorted():
    """The two tables of words are in the order of the alphabet, and no word is in both."""
    tables = [words(section("glossary.md", name)) for name in ("What you write", "What happens")]
    assert tables == [sorted(table) for table in tables]
    assert not set(tables[0]) & set(tables[1])


def test_what_is_promised_has_a_column_for_each_store():
    """A store that the app knows has its column in the table of promises."""
    header = section("concepts.md", "What is promised").split("| promise |")[1].splitlines()[0]
    columns = [column.strip().lower() for column in header.split("|")[:-1]]
    assert columns == [*sorted(STORES), "shown by"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tests_and_files_that_are_named_exist(page):
    """A page that names a test or links to a file names one that is there."""
    text = page.read_text("utf-8")
    for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text):
        assert (ROOT / file).is_file(), file
        assert not name or re.search(rf"def {name}\(", (ROOT / file).read_text("utf-8")), name
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index():
    """docs/README.md links to each page beside it."""
    index = (DOCS / "README.md").read_text("utf-8")
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in index] == []
