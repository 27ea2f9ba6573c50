"""The pytest plugin, in pytest sessions of its own."""

import subprocess
import sys

import pytest

from tests.docs.test_blocks import ROOT, blocks_of

pytest_plugins = ["pytester"]

APP = """
import asyncio
from perdure import App, constant, step
from perdure.testing import Effects

app = App("sqlite:///never-opened.db")
ledger = Effects()

async def pay(order):
    ledger.note(f"pay {order}")

@app.workflow
async def order(name: str) -> str:
    await step("pay", pay, name)
    return f"{name} paid"

@app.job(max_attempts=2, backoff=constant("3d"))
async def refund(name: str) -> str:
    raise ConnectionError("away")

@app.workflow
async def hangs() -> None:
    await asyncio.get_running_loop().create_future()

@app.workflow
async def swallows() -> str:
    child = await refund.enqueue("s")
    try:
        return await child.result()
    except BaseException:
        return "went on"
"""


@pytest.fixture(params=["auto", "strict"])
def session(pytester: pytest.Pytester, request: pytest.FixtureRequest):
    """Runs tests beside the app, in either mode of pytest-asyncio, with warnings as errors."""
    pytester.makepyfile(shop=APP)
    pytester.makeini(
        f"""
        [pytest]
        asyncio_mode = {request.param}
        asyncio_default_fixture_loop_scope = function
        perdure_app = shop:app
        filterwarnings = error
        strict = true
        pythonpath = .
        """
    )

    def run(tests: str, *options: str) -> pytest.RunResult:
        head = "import asyncio, pytest\nfrom shop import *\n"
        pytester.makepyfile(test_it=head + tests)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return run


def test_async_and_sync_tests_pass(session):
    """The fixture is the app's kit, in async tests, in classes, and in tests written with def."""
    result = session("""
@pytest.mark.asyncio
async def test_refund(perdure):
    run = await refund.enqueue("o_1")
    await perdure.advance("3 days")
    assert await run.status() == "failed"

class TestIt:
    @pytest.mark.asyncio
    async def test_order(self, perdure):
        assert await perdure.run(order, "o_1") == "o_1 paid"

@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.asyncio
async def test_parameters(perdure, name):
    assert await perdure.run(order, name) == f"{name} paid"

@pytest.mark.perdure(skip_waits=True)
@pytest.mark.asyncio
async def test_marked(perdure):
    run = await order.delay("30d", "a")
    assert await run.result() == "a paid"

def test_any_crash(perdure):
    report = perdure.crash_everywhere(order, "o_1", effects=ledger)
    assert report.visited == 2

def test_any_kill(perdure):
    report = perdure.crash_everywhere(order, "o_1", effects=ledger, store="sqlite")
    assert report.visited == 2

@pytest.mark.asyncio
async def test_without():
    with pytest.raises(Exception, match="not connected"):
        await order.enqueue("a")
""")
    result.assert_outcomes(passed=8)


def test_what_is_wrong_fails_the_test_by_name(session):
    """A hanging body, a swallowed suspension, pending work: each fails its own test, no other."""
    result = session("""
@pytest.mark.perdure(patience="200ms")
@pytest.mark.asyncio
async def test_hanging(perdure):
    await hangs.enqueue()

@pytest.mark.perdure(patience="200ms")
@pytest.mark.asyncio
async def test_hanging_and_awaited(perdure):
    await (await hangs.enqueue()).result()

@pytest.mark.asyncio
async def test_swallowing(perdure):
    await swallows.enqueue()

@pytest.mark.asyncio
async def test_pending(perdure):
    await refund.enqueue("left")

@pytest.mark.asyncio
async def test_fine(perdure):
    perdure.expect_pending(await refund.enqueue("left"))
""")
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(
        [
            "*Hung: nothing has moved*'hangs' (run *shop.py:* in hangs*",
            "*Hung: the test has waited*",
            "*of 'hangs' is running at *shop.py:* in hangs*",
            "*Swallowed: the body of 'swallows' (run *",
            "*WorkLeft: 1 runs have not ended*",
            "*of 'refund' is waiting for retry until *",
            "FAILED test_it.py::test_hanging*",
            "FAILED test_it.py::test_hanging_and_awaited*",
            "FAILED test_it.py::test_swallowing*",
            "FAILED test_it.py::test_pending*",
        ]
    )


def test_where_the_app_comes_from(pytester: pytest.Pytester):
    """A marker goes before a fixture, a fixture before the option; without any, it says what to do.

    In auto mode, without a marker for pytest-asyncio.
    """
    pytester.makepyfile(shop=APP)
    pytester.makeini("[pytest]\nasyncio_mode = auto\npythonpath = .\nstrict = true")
    pytester.makepyfile(
        test_it="""
import pytest
from perdure import App
import shop
other = App()

async def test_nothing(perdure): ...

@pytest.mark.perdure(app="shop:app")
async def test_marker(perdure):
    assert perdure.app is shop.app

@pytest.mark.perdure(app="shop:ledger")
async def test_no_app(perdure): ...

@pytest.mark.perdure(app=other, pacience="1s")
async def test_no_option(perdure): ...

class TestFixture:
    @pytest.fixture
    def perdure_app(self):
        return other

    async def test_fixture(self, perdure):
        assert perdure.app is other

    @pytest.mark.perdure(app=shop.app)
    async def test_both(self, perdure):
        assert perdure.app is shop.app
"""
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*UsageError: the fixture `perdure` has no app: set perdure_app*",
            "*UsageError: 'shop:ledger' is no app*",
            "*UsageError: @pytest.mark.perdure knows no option 'pacience'*",
        ]
    )


def test_the_first_test_of_the_documentation(pytester: pytest.Pytester):
    """The file that the page shows passes as it is printed, in strict mode."""
    first, *_ = blocks_of("testing.md", (ROOT / "docs" / "testing.md").read_text("utf-8"))
    pytester.makepyfile(test_shop=first.text)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=3)


def test_a_session_that_does_not_use_it_does_not_load_it(pytester: pytest.Pytester):
    """The plugin is there, and of `perdure` nothing."""
    pytester.makepyfile(
        test_it="""
import sys

def test_it(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("perdure")
    assert "pytest_perdure" in sys.modules
    assert not [name for name in sys.modules if name.partition(".")[0] == "perdure"]
"""
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_kit_needs_no_pytest():
    """It can be used from any other runner, or none."""
    code = "import sys, perdure.testing; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "pytest" not in loaded
