"""Every store passes the contract suite that the package ships: the same tests, on each."""

from pathlib import Path

import pytest

from perdure.testing.contract import Contract
from perdure.testing.contract.desk import ManualClock
from tests.contract.backends import BACKENDS


class TestStores(Contract):
    """The stores of `BACKENDS`."""

    @pytest.fixture(params=list(BACKENDS))
    def build(self, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock):
        """How to build the stores of this test."""
        return BACKENDS[request.param](tmp_path, clock)
