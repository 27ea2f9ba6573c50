"""What the contract suite runs on: the stores that a class's `build` returns.

Only a declared capability may make a test skip.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest
import pytest_asyncio

from perdure.store import Store
from perdure.testing.contract.desk import Desk, ManualClock
from perdure.testing.contract.invariants import Watched, check_invariants

Build = Callable[[str], Store]
"""Returns one more unopened store of a namespace, on the same data as the others."""

MakeStore = Callable[..., Awaitable[Store]]
"""Opens one more store object on the test's data: `await make_store(namespace="default")`."""


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the test's stores; it moves only when told."""
    return ManualClock()


@pytest_asyncio.fixture
async def make_store(build: Build) -> AsyncIterator[MakeStore]:
    """Open stores on the same data; at the end the invariants of all of them must hold."""
    opened: list[Watched] = []
    claims: dict[object, object] = {}

    async def make(namespace: str = "default") -> Store:
        store = Watched(build(namespace), namespace, claims)
        await store.open()
        opened.append(store)
        return cast("Store", store)  # it passes on what it does not do itself

    yield make
    try:
        for store in {store.namespace: store for store in opened if store.is_open}.values():
            await check_invariants(cast("Store", store))
    finally:
        for store in opened:
            await store.close()


@pytest_asyncio.fixture
async def store(make_store: MakeStore) -> Store:
    """The test's store."""
    return await make_store()


@pytest.fixture
def desk(store: Store, clock: ManualClock) -> Desk:
    """The test's hand on its store."""
    return Desk(store, clock)
