"""How a test module gets every test of the contract: by one class.

The tests are modules of this package. A class that derives from :class:`Contract` is collected as
all of them, with the fixtures of :mod:`perdure.testing.contract.fixtures` below its own.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from perdure.testing.contract import fixtures

MODULES: Final = tuple(sorted(Path(__file__).parent.glob("test_*.py")))
"""The tests, in modules by subject."""


class Contract:
    """Derive from it in a test module to prove a store.

    The class needs one fixture, ``build``: a function that returns one more unopened store of a
    namespace, on the same data as the others of this test. It may ask for ``clock``, which decides
    what is due and moves when a test says so. Whatever the store declares not to be able to
    (``Capabilities``) is skipped, nothing else.

    Example::

        class TestMyStore(Contract):
            @pytest.fixture
            def build(self, tmp_path, clock):
                return lambda namespace: MyStore(tmp_path / "data", namespace, clock=clock)
    """

    is_perdure_contract: Final = True


class Suite(pytest.Collector):
    """All tests of the contract, for the store of one class."""

    def __init__(self, *, contract: type[Any], **rest: Any) -> None:
        super().__init__(**rest)
        self.obj: object = contract
        self._contract = contract
        for mark in getattr(contract, "pytestmark", ()):  # those of the class hold for all tests
            self.add_marker(getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs))

    def collect(self) -> Iterator[pytest.Module]:
        """Yield the modules, below the fixtures of the suite and of the class.

        Raises:
            CollectError: the class has no ``build``, or tests of its own.
        """
        names = dir(self._contract)
        if "build" not in names:
            raise self.CollectError(
                f"{self.name} derives from Contract and has no fixture `build`; it returns a "
                "function of a namespace that returns one more unopened store"
            )
        own = [name for name in names if name.startswith("test")]
        if own:
            raise self.CollectError(
                f"{self.name} is collected as the contract; move {own[0]} to another class"
            )
        # There is no older public way to have fixtures hold below one node only.
        manager = self.session._fixturemanager  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        for holder in (_again(fixtures), self._contract()):
            self.obj = holder
            manager.parsefactories(self)
        for path in MODULES:
            name, nodeid = path.stem, f"{self.nodeid}::{path.stem}"
            module = pytest.Module.from_parent(self, path=path, name=name, nodeid=nodeid)  # pyright: ignore[reportUnknownMemberType] -- pytest takes any keyword
            module.obj = _again(_tests(name))
            yield module


@cache
def _tests(name: str) -> ModuleType:
    """Return a module of tests, the async ones marked for pytest-asyncio in strict mode."""
    module = importlib.import_module(f"{__package__}.{name}")
    for function in vars(module).values():
        if inspect.iscoroutinefunction(function):
            pytest.mark.asyncio(function)
    return module


def _again(module: ModuleType) -> ModuleType:
    """Return the same module as another object: pytest takes the fixtures of each only once."""
    again = ModuleType(module.__name__, module.__doc__)
    vars(again).update(vars(module))
    return again


def suite_of(collector: pytest.Collector, name: str, contract: type[Any]) -> Suite:
    """Return the node of a class that derives from :class:`Contract`."""
    return Suite.from_parent(collector, name=name, contract=contract)  # pyright: ignore[reportUnknownMemberType] -- same
