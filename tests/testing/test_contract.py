"""The contract suite as a third party meets it: in a pytest session of its own, on its store."""

import pytest

pytest_plugins = ["pytester"]

TESTS = 460
"""The suite has at least so many."""

STORES = """
from msgspec.structs import replace
from perdure.model.records import Grant
from perdure.model.transitions import SaveCheckpoint, Settle
from perdure.stores.memory import MemoryData, MemoryStore

class MyStore:
    def __init__(self, data, namespace):
        self.inner = MemoryStore(namespace, data=data)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def side(self):
        return self.inner.side()

class Unfenced(MyStore):
    async def apply(self, batch):
        return await self.inner.apply([await self.forced(each) for each in batch])

    async def forced(self, transition):
        if isinstance(transition, SaveCheckpoint | Settle):
            run = await self.inner.get(transition.grant.run_id)
            if run is not None:
                grant = Grant(run.run_id, run.epoch, run.grant)
                transition = replace(transition, grant=grant)
        return transition
"""

MINE = """
import pytest
from perdure.testing.contract import Contract
from stores import *

class TestMyStore(Contract):
    @pytest.fixture
    def build(self, clock):
        data = MemoryData(clock)
        return lambda namespace: MyStore(data, namespace)
"""


@pytest.fixture(params=["auto", "strict"])
def third_party(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> pytest.Pytester:
    """A project with stores, in either mode of pytest-asyncio, with warnings as errors."""
    pytester.makepyfile(stores=STORES)
    pytester.makeini(
        f"[pytest]\nasyncio_mode = {request.param}\npythonpath = .\nstrict = true\n"
        "asyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    # What the suite's own fixtures are called must not matter to who uses it.
    pytester.makeconftest(
        "import pytest\n\n@pytest.fixture\ndef store():\n    raise AssertionError('not mine')\n"
    )
    return pytester


def run(third_party: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    """Run the third party's tests."""
    third_party.makepyfile(test_store=tests)
    return third_party.runpytest_subprocess("-p", "no:cacheprovider", "-q", *options)


def test_five_lines_prove_a_store(third_party: pytest.Pytester):
    """A class with one fixture is every test of the contract."""
    outcomes = run(third_party, MINE).parseoutcomes()
    assert outcomes.pop("passed") >= TESTS
    assert outcomes.pop("skipped", 0) <= 1
    assert not outcomes


def test_a_mark_of_the_class_holds_for_all_tests(third_party: pytest.Pytester):
    """As it does for any class of tests."""
    marked = MINE.replace("class ", "@pytest.mark.skip(reason='not now')\nclass ", 1)
    outcomes = run(third_party, marked, "-k", "test_checkpoints").parseoutcomes()
    assert set(outcomes) == {"skipped", "deselected"}


def test_a_broken_store_fails(third_party: pytest.Pytester):
    """One without a fence fails the tests about fences, beside one that passes them."""
    both = MINE + MINE.replace("MyStore", "Unfenced")
    result = run(third_party, both, "-k", "test_checkpoints or test_settle")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] > 5
    failed = [line for line in result.outlines if line.startswith("FAILED")]
    assert all("::TestUnfenced::" in line for line in failed)
    assert outcomes["passed"] > outcomes["failed"]


def test_a_class_that_proves_nothing_is_an_error(third_party: pytest.Pytester):
    """Without a store, or with tests of its own that would not be seen."""
    nothing = "from perdure.testing.contract import Contract\n\nclass TestMine(Contract):\n    "
    result = run(third_party, nothing + "pass")
    result.stdout.fnmatch_lines(["*TestMine derives from Contract and has no fixture `build`*"])
    result = run(third_party, nothing + "build = None\n    def test_it(self): ...")
    result.stdout.fnmatch_lines(["*TestMine is collected as the contract; move test_it to*"])
