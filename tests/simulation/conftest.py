"""How many seeds are run, and what is said about them at the end."""

import os

import pytest

SEEDS = {1: 200, 2: 2_000, 3: 20_000}
"""Seeds by tier; `PERDURE_SEEDS` says another number, or `17` as `17-17` one seed alone."""

CHUNK = 25

_figures = pytest.StashKey[list[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `seeds` all of them, some at a time."""
    if "seeds" not in metafunc.fixturenames:
        return
    first, _, last = os.environ.get("PERDURE_SEEDS", "").rpartition("-")
    start = int(first or 0)
    count = int(last or SEEDS[metafunc.config.getoption("--tier")])
    stop = count + 1 if first else count
    chunks = [range(at, min(at + CHUNK, stop)) for at in range(start, stop, CHUNK)]
    metafunc.parametrize("seeds", chunks, ids=[f"{c.start}-{c.stop - 1}" for c in chunks])


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[str]:
    """What a test adds to this is printed at the end."""
    return request.config.stash.setdefault(_figures, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    figures = terminalreporter.config.stash.get(_figures, [])
    if figures:
        terminalreporter.section("simulation")
        for line in figures:
            terminalreporter.write_line(line)
