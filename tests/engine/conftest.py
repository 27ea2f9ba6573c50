"""What the engine suite runs on: every store of `PLACES`, the same tests."""

from itertools import count
from pathlib import Path

import pytest

from tests.engine.places import PLACES, Place


class MakePlace:
    """Makes places for one test, each with data of its own."""

    def __init__(self, backend: str, path: Path) -> None:
        self.backend = backend
        self._path = path
        self._numbers = count()

    def __call__(self) -> Place:
        """Return one more place."""
        path = self._path / str(next(self._numbers))
        path.mkdir()
        return Place(PLACES[self.backend](path))


@pytest.fixture(params=list(PLACES))
def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> MakePlace:
    """How to make the places of a test that needs many."""
    return MakePlace(request.param, tmp_path)


@pytest.fixture
def place(make_place: MakePlace) -> Place:
    """The test's place: data on which lives come and go."""
    return make_place()
