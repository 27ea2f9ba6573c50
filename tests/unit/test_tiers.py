"""The tiers of tests/conftest.py, seen on three small tests."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TESTS = """
import pytest

def test_always(): pass

@pytest.mark.tier(2)
def test_longer(): pass

@pytest.mark.tier(3)
def test_longest(): pass
"""


@pytest.mark.parametrize(
    "arguments, summary",
    [
        ([], "1 passed, 2 skipped"),
        (["--tier", "2"], "2 passed, 1 skipped"),
        (["--tier", "3"], "3 passed"),
    ],
    ids=["default", "two", "three"],
)
def test_tier_chooses(tmp_path: Path, arguments: list[str], summary: str):
    """A test runs when its tier is at most the chosen one, which is 1 by default."""
    file = tmp_path / "test_small.py"
    file.write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-q", "--rootdir", str(ROOT), "-c", "pyproject.toml", *arguments, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert summary in done.stdout, done.stdout + done.stderr
