"""An app and its store: URLs, and a connect that fails fast and says what is promised."""

import logging
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Context, Run
from perdure.errors import AppNotReady, SchemaTooNew, StoreError, UsageError
from perdure.stores.memory import MemoryStore


@pytest.mark.parametrize(
    "url, says",
    [
        ("memory://", ("memory", "nothing but exceptions")),
        ("sqlite:///shop.db", ("sqlite", "loss of power")),
    ],
)
async def test_connect_says_what_the_store_promises(
    url: str,
    says: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """The durability class is logged once a connection, at level info."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "perdure.app")
    app = App(url)
    async with app, app:
        pass
    [record] = [record for record in caplog.records if record.name == "perdure.app"]
    told = vars(record)
    assert (record.levelno, told["fact"]) == (logging.INFO, "app connected")
    assert (told["store"], told["acknowledged_writes_survive"]) == says


async def test_a_weaker_file_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """With ?synchronous=normal a write survives a kill, not a loss of power."""
    caplog.set_level(logging.INFO, "perdure.app")
    async with App(f"sqlite:///{tmp_path}/shop.db?synchronous=normal"):
        pass
    [record] = [record for record in caplog.records if record.name == "perdure.app"]
    assert vars(record)["acknowledged_writes_survive"] == "kill -9 of every process"


def entries(path: Path) -> list[Path]:
    """Return what is in a directory."""
    return list(path.iterdir())


async def test_connect_fails_where_the_store_cannot_be_reached(tmp_path: Path):
    """A directory that does not exist: a typed error at once, and nothing is created."""
    app = App(f"sqlite:///{tmp_path}/nowhere/shop.db")
    with pytest.raises(StoreError):
        await app.connect()
    assert not app.engine.is_open
    assert entries(tmp_path) == []


async def test_connect_fails_for_data_of_a_newer_version(tmp_path: Path):
    """A schema from the future is refused, and may be connected to once it is put right."""
    import sqlite3

    path = tmp_path / "shop.db"
    async with App(f"sqlite:///{path}"):
        pass

    def stamp(version: int) -> int:
        with sqlite3.connect(path) as connection:
            before = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        return int(before)

    before = stamp(9999)
    app = App(f"sqlite:///{path}")
    with pytest.raises(SchemaTooNew):
        await app.connect()
    stamp(before)
    async with app:
        assert await app.runs() == []


async def test_connect_needs_a_store():
    """An app without one says what to write."""
    with pytest.raises(AppNotReady, match=r'App\("sqlite:///app\.db"\)'):
        await App().connect()


async def test_a_store_object_is_used_as_it_is():
    """A store that is handed in is the app's, with what it holds."""
    store = MemoryStore()
    app = App(store)

    @app.workflow
    async def flow() -> None: ...

    async with app:
        run: Run[Any] = await flow.enqueue()
        assert app.engine.store is store
        record = await store.get(run.id)
    assert record is not None
    assert record.definition == "flow"


@pytest.mark.parametrize(
    "url, message",
    [
        ("redis-ish://host", "memory://, sqlite://"),
        ("shop.db", "sqlite:///relative.db"),
        ("sqlite://", "names no file"),
        ("sqlite:///shop.db?mode=ro", "mode"),
        ("memory://?size=3", "size"),
    ],
)
def test_urls_are_checked(url: str, message: str):
    """A scheme or an option that does not exist is an error where the app is made."""
    with pytest.raises(UsageError, match=message):
        App(url)


def test_an_app_and_a_context_can_be_subscripted():
    """Annotations that are evaluated may leave out the meta, or everything."""
    assert App[int] != App[int, dict[str, int]]
    assert Context[int] == Context[int]
    assert str(Context[int]).startswith("perdure.context.Context[int")


def test_an_app_is_shown_by_its_store_and_definitions():
    """What an error names it by."""
    app = App("memory://")
    app.workflow(name="flow")(lambda: None)
    assert repr(app) == "<app on memory: 'flow'>"
    assert repr(App()) == "<app without a store: no definitions>"
