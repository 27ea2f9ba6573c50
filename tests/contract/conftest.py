"""What the contract suite runs on: every store of `BACKENDS`, the same tests.

Only a declared capability may make a test skip.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from perdure.store import Store
from tests.contract.backends import BACKENDS
from tests.contract.desk import Desk, ManualClock
from tests.contract.invariants import Watched, check_invariants

MakeStore = Callable[..., Awaitable[Store]]
"""Opens one more store object on the test's data: `await make_store(namespace="default")`."""


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest):
    """How to build the stores of this test: a function of (path, clock)."""
    return BACKENDS[request.param]


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the test's stores; it moves only when told."""
    return ManualClock()


@pytest.fixture
async def make_store(backend, tmp_path: Path, clock: ManualClock) -> AsyncIterator[MakeStore]:
    """Open stores on the same data; at the end the invariants of all of them must hold."""
    build = backend(tmp_path, clock)
    opened: list[Watched] = []
    claims: dict = {}

    async def make(namespace: str = "default") -> Store:
        store = Watched(build(namespace), namespace, claims)
        await store.open()
        opened.append(store)
        return store

    yield make
    try:
        for store in {store.namespace: store for store in opened if store.is_open}.values():
            await check_invariants(store)
    finally:
        for store in opened:
            await store.close()


@pytest.fixture
async def store(make_store: MakeStore) -> Store:
    """The test's store."""
    return await make_store()


@pytest.fixture
def desk(store: Store, clock: ManualClock) -> Desk:
    """The test's hand on its store."""
    return Desk(store, clock)
