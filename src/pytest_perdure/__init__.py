"""The front of the pytest plugin: options, marker, fixtures; what they do is in perdure.testing.

Every pytest session with Perdure installed loads this module, and loading anything of ``perdure``
costs 150 ms. So it is a package of its own, and loads the rest when a test asks for a fixture.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from typing import Any

import pytest


def _plugin() -> Any:
    return importlib.import_module("perdure.testing.plugin")


pytest.register_assert_rewrite("perdure.testing.contract")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of pytest's configuration file."""
    parser.addini("perdure_app", 'the app under test, as "module:attribute"', default="")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "perdure(app=…, only=[…], services=…, skip_waits=False, patience='10s', start=…, seed=0): "
        "the app of the fixture `perdure`, and how its kit is made; see perdure.testing.Kit",
    )


@pytest.fixture
def perdure_app(request: pytest.FixtureRequest) -> Any:
    """The app of the fixture `perdure`: the option perdure_app, unless a test overrides this."""
    return _plugin().configured_app(request.config.getini("perdure_app"))


@pytest.fixture
def perdure(request: pytest.FixtureRequest) -> Any:
    """A kit on the app under test; it runs while an async test does, see perdure.testing.Kit."""
    marker = request.node.get_closest_marker("perdure")
    options: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    app = options.pop("app", None)
    if app is None:
        app = request.getfixturevalue("perdure_app")
    return _plugin().make_kit(app, options)


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Any:
    """Collect a class that derives from the contract suite as the whole of it."""
    if not name.startswith("Test") or not getattr(obj, "is_perdure_contract", False):
        return None
    return importlib.import_module("perdure.testing.contract.suite").suite_of(collector, name, obj)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run the kit around an async test that has one."""
    kit = getattr(item, "funcargs", {}).get("perdure")
    if kit is None or not _plugin().is_kit(kit):
        return (yield)
    with _plugin().running(item, kit):
        return (yield)
