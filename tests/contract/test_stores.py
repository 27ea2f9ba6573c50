"""Every store passes the contract suite that the package ships: the same tests, on each."""

from pathlib import Path

import pytest

from perdure.stores.sqlite import counting
from perdure.testing.contract import Contract
from perdure.testing.contract.desk import ManualClock
from tests.contract.backends import BACKENDS, sqlite


class TestStores(Contract):
    """The stores of `BACKENDS`."""

    @pytest.fixture(params=list(BACKENDS))
    def build(self, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock):
        """How to build the stores of this test."""
        return BACKENDS[request.param](tmp_path, clock)


@pytest.mark.tier(2)
class TestCountingStores(Contract):
    """SQLite again, where runs are counted at once and not only when they are old.

    In tier 1 tests/unit/test_sqlite_counts.py and a run of tests/model do so.
    """

    @pytest.fixture
    def build(self, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch):
        """How to build the stores of this test."""
        monkeypatch.setattr(counting, "FOLD", 1)
        return sqlite(tmp_path, clock)
