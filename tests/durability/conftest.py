"""What the ownership tests share: a yard for each, and a way to print what was measured."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.durability import ownership_app
from tests.durability.processes import Fleet
from tests.durability.yard import Yard

Figure = Callable[[str, float], None]


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """A place of the test's own, without workers."""
    with Fleet(Path(ownership_app.__file__), tmp_path) as fleet:
        yard = Yard(tmp_path, fleet)
        async with yard.app:
            yield yard
    print(fleet.output)  # noqa: T201  # pytest shows it where the test has failed
    assert "database is locked" not in fleet.output
    assert "Traceback" not in fleet.output


@pytest.fixture
def figure(capsys: pytest.CaptureFixture[str]) -> Figure:
    """How to print what was measured; nothing is compared with it in tier 1."""

    def show(what: str, seconds: float) -> None:
        with capsys.disabled():
            print(f"\n    {what}: {seconds:.2f} s", end=" ")  # noqa: T201  # a figure to read

    return show
