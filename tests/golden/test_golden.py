"""What older versions wrote is read, upgraded and finished by this one, for ever.

`schema_N.sql` is a dump of a database that the last code with schema N made by `schema_N_app.py`;
`histories_N.json` is what the code of its time recorded of `histories_N_app.py`. None is ever made
again. The runs in the ones are finished here by today's code, and it replays the others.
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from perdure import Status, Worker
from perdure._runtime.doctor import examine
from perdure.clock import SystemClock
from perdure.model.records import RunQuery
from perdure.stores.sqlite import SqliteStore, connecting
from perdure.testing import dump_history, replay
from tests.engine.places import eventually
from tests.golden import histories_2_app as h2
from tests.golden import schema_1_app as v1

HERE = Path(__file__).parent
DAY = 86_400_000_000


class Later(SystemClock):
    """The machine's clock, some days on."""

    days = 0

    def now(self) -> int:
        """Return microseconds since the epoch."""
        return super().now() + self.days * DAY


def restored(directory: Path, version: int) -> Path:
    """Return the golden database of a schema, as a file."""
    path = directory / f"schema-{version}.db"
    connection = sqlite3.connect(path)
    connection.executescript((HERE / f"schema_{version}.sql").read_text("utf-8"))
    connection.execute(f"PRAGMA application_id={connecting.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={version}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return path


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    """Open a store on a file."""
    store = SqliteStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def shape(path: Path) -> dict[str, list[str]]:
    """Return what a file's schema is made of, whatever the order of columns."""
    connection = sqlite3.connect(path)
    schema = "SELECT name, type, sql FROM sqlite_master ORDER BY name"
    names = connection.execute(schema).fetchall()
    asked = {"table": "table_info", "view": "table_info", "index": "index_xinfo"}
    found = {
        name: sorted(
            str(row[2:] if kind == "index" else row[1:])
            for row in connection.execute(f"PRAGMA {asked[kind]}({name})")
        )
        if kind in asked
        else [sql]
        for name, kind, sql in names
        if not name.startswith("sqlite_")
    }
    connection.close()
    return found


@pytest.mark.parametrize("version", range(1, connecting.SCHEMA_VERSION))
async def test_an_upgraded_file_is_like_a_new_one(tmp_path: Path, version: int):
    """Same tables, columns, defaults, indexes and views; planned before, done once."""
    path = restored(tmp_path, version)
    now = connecting.SCHEMA_VERSION
    plan = await SqliteStore(path).plan()
    assert plan == [f"upgrade {path} from schema {version} to {now}"]
    async with opened(path), opened(tmp_path / "new.db"):
        assert await SqliteStore(path).plan() == []
    assert shape(path) == shape(tmp_path / "new.db")


@pytest.mark.parametrize("version", range(1, connecting.SCHEMA_VERSION))
async def test_an_older_file_that_lost_a_table_is_refused(tmp_path: Path, version: int):
    """What the old schema has is looked for before anything is added."""
    path = restored(tmp_path, version)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE checkpoint")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(connecting.StoreCorrupt, match="checkpoint"):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_the_runs_of_schema_1_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every run that waited is finished by today's code, and no step is done again."""
    path = restored(tmp_path, 1)
    async with opened(path) as store:
        runs = {run.run_id: run for run in await store.list_runs(RunQuery())}
        assert runs["paid"].status is Status.COMPLETED
        assert runs["lost"].reason == "error"
        assert runs["queued"].priority == 3
        assert (await examine(store)).findings == ()
        (counted,) = store._connections[0].execute("SELECT sum(runs) FROM run_count").fetchone()
        assert counted == len(runs)
        steps = {
            run_id: len(history.checkpoints)
            for run_id in runs
            if (history := await store.history(run_id)) is not None
        }
    monkeypatch.setattr(v1, "failing", False)
    clock, get = Later(), v1.app.get
    with v1.app.override(store=SqliteStore(path, clock=clock)):
        async with v1.app, Worker(v1.app):
            await get("paused").resume()
            clock.days = 1
            assert await get("family").result("10s") == [kept(n) for n in range(3)]
            for run_id, result in {
                "retried": 6,
                "slept": kept(7),
                "paused": kept(8),
                "queued": "charged 6",
                "delayed": "charged 6",
            }.items():
                assert await get(run_id).result("10s") == result
            await get("lost").retry()
            await eventually(lambda: has_status("lost", Status.FAILED))
            history = await get("slept").history()
            assert (await examine(v1.app.engine.store)).findings == ()
    assert len(history.steps) == steps["slept"] + 1, "the first charge and the sleep stand"


def kept(n: int) -> str:
    """Return what a run that sleeps between two charges ends with."""
    return f"charged {n}, charged {n + 1}"


async def has_status(run_id: str, status: Status) -> bool:
    """Tell whether a run stands so."""
    return await v1.app.get(run_id).status() is status


async def test_the_histories_of_schema_1_replay(tmp_path: Path):
    """Today's code asks for what is recorded, and for nothing else."""
    path = restored(tmp_path, 1)
    async with opened(path) as store:
        recordings = [
            dump_history(history)
            for run in await store.list_runs(RunQuery())
            if (history := await store.history(run.run_id)) is not None and history.checkpoints
        ]
    assert len(recordings) >= 7
    for recording in recordings:
        told = await replay(recording, v1.app)
        assert told.fits, told


RECORDED = msgspec.json.decode((HERE / "histories_2.json").read_bytes(), type=list[msgspec.Raw])


@pytest.mark.parametrize("recording", RECORDED, ids=range(len(RECORDED)))
async def test_the_histories_of_what_came_after_replay(recording: msgspec.Raw):
    """Events, timers, children, streams, patches, loops, restarts, forks: what is recorded fits."""
    told = await replay(bytes(recording), h2.app)
    assert told.fits, told
