"""What every test shares: the tiers. Fixtures live beside the tests that use them."""

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores it, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--tier`: 1 is what every change runs, 2 and 3 take longer and print their figures."""
    parser.addoption(
        "--tier", type=int, choices=(1, 2, 3), default=1, help="run tests up to this tier (1)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what `@pytest.mark.tier(n)` puts above the chosen tier."""
    chosen = config.getoption("--tier")
    for item in items:
        marker = item.get_closest_marker("tier")
        tier = marker.args[0] if marker else 1
        if tier > chosen:
            item.add_marker(pytest.mark.skip(reason=f"tier {tier}; run with --tier {tier}"))
