"""What the SQLite store does when the disk is full, the file is damaged or a writer is killed.

The faults are real: a small file system, limits and rights of the system, SIGKILL, damaged bytes.
"""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perdure.errors import SchemaTooNew, StoreCorrupt, StoreFull
from perdure.ids import Ids
from perdure.model.records import RunQuery, Status
from perdure.model.transitions import Created, CreateRun
from perdure.stores.sqlite import SqliteStore
from tests.durability.processes import Fleet, Process, fact

WRITER = Path(__file__).parent / "sqlite_writer.py"

posix = pytest.mark.skipif(os.name != "posix", reason="signals, rights and limits are POSIX")

MakeStore = Callable[[Path], Awaitable[SqliteStore]]


@pytest.fixture
async def make_store() -> AsyncIterator[MakeStore]:
    """Open stores; they are closed at the end."""
    opened: list[SqliteStore] = []

    async def make(path: Path) -> SqliteStore:
        store = SqliteStore(path)
        opened.append(store)
        await store.open()
        return store

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(WRITER, tmp_path) as fleet:
        yield fleet


def creates(count: int, size: int = 100) -> list[CreateRun]:
    ids = Ids()
    return [CreateRun(ids.run_id(), "d", b"x" * size, ids.token()) for _ in range(count)]


def stored(path: Path) -> dict[str, str]:
    """Return id and status of every run, read without Perdure from a file that must be whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(connection.execute("SELECT id, status FROM runs").fetchall())


def size_of(store: SqliteStore, suffix: str = "") -> int:
    """Return the bytes of the store's file, or of one beside it."""
    return Path(f"{store.path}{suffix}").stat().st_size


def fingerprint(directory: Path) -> dict[str, str]:
    """Return the names of all files and what is in them."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


# --- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or shutil.which("mount") is None:
        pytest.skip("a small file system is mounted on Linux only")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def fill(store: SqliteStore) -> tuple[list[CreateRun], list[CreateRun]]:
    """Create until the store is full; return what was acknowledged and the batch that was not."""
    acknowledged: list[CreateRun] = []
    for _ in range(10_000):
        batch = creates(20, size=1_000)
        try:
            assert await store.apply(batch) == [Created(run.run_id) for run in batch]
        except StoreFull:
            return acknowledged, batch
        acknowledged += batch
    raise AssertionError("it is never full")


async def test_a_full_disk_loses_nothing_and_work_resumes(small_disk: Path):
    """The batch is not applied, reads go on, and with space the same batch is taken."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 800_000)
    store = SqliteStore(small_disk / "perdure.db")
    await store.open()
    try:
        acknowledged, refused = await fill(store)
        assert acknowledged
        for _ in range(2):
            with pytest.raises(StoreFull, match=r"perdure\.db.*nothing was lost"):
                await store.apply(refused)
        assert await store.get(acknowledged[-1].run_id) is not None
        assert await store.get(refused[0].run_id) is None
        ballast.unlink()
        assert await store.apply(refused) == [Created(run.run_id) for run in refused]
        expected = {run.run_id for run in acknowledged + refused}
    finally:
        await store.close()
    assert stored(store.path).keys() == expected


async def test_a_disk_without_room_for_a_long_log_is_left_its_room(small_disk: Path):
    """The log is not lengthened where it does not fit, and commits go on."""
    store = SqliteStore(small_disk / "perdure.db")
    await store.open()
    try:
        for _ in range(30):
            assert await store.apply(creates(1))
        assert size_of(store, "-wal") < 1 << 20
    finally:
        await store.close()


async def test_a_full_disk_at_the_start_is_said(small_disk: Path):
    """Opening raises the same, and succeeds when there is space."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (2 << 20))
    store = SqliteStore(small_disk / "perdure.db")
    with pytest.raises(StoreFull):
        await store.open()
    ballast.unlink()
    await store.open()
    assert await store.apply(creates(1))
    await store.close()


async def test_a_file_at_its_largest_is_full_too(make_store: MakeStore, tmp_path: Path):
    """SQLite's own limit of pages, on every system; one large batch keeps what was before."""
    store = await make_store(tmp_path / "perdure.db")
    [writer, _] = store._connections
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count={pages + 50}")
    acknowledged, refused = await fill(store)
    with pytest.raises(StoreFull):
        await store.apply(creates(1_000))
    writer.execute("PRAGMA max_page_count=1000000")
    assert await store.apply(refused) == [Created(run.run_id) for run in refused]
    assert stored(store.path).keys() == {run.run_id for run in acknowledged + refused}


@posix
async def test_a_commit_that_fails_is_unknown_and_the_same_batch_tells(
    fleet: Fleet, tmp_path: Path
):
    """A write error while committing: whether its frames are on the disk is not known."""
    process = fleet.start("limit")
    await fact("the end of the process", lambda: process.ended)
    assert process.output.splitlines() == ["unknown: True", "again: True", "closed"]
    assert len(stored(tmp_path / "perdure.db")) == 201


# --- rights ----------------------------------------------------------------------------------


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    place = Path(tempfile.mkdtemp(prefix="perdure-rights-"))
    place.chmod(0o755)
    yield place
    for path in (place, *place.iterdir()):
        path.chmod(0o700)
    shutil.rmtree(place)


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


async def said_by_somebody_without_rights(fleet: Fleet, path: Path) -> str:
    process = fleet.start("open", path=str(path))
    await fact("the end of the process", lambda: process.ended)
    return process.output


@posix
@pytest.mark.parametrize("mode", [0o777, 0o555])
async def test_a_file_that_may_not_be_written_is_said(
    fleet: Fleet, shared_place: Path, make_store: MakeStore, mode: int
):
    """At opening, not at the first write; the file stays as it is."""
    store = await make_store(shared_place / "perdure.db")
    await store.apply(creates(1))
    await store.close()
    set_mode(store.path, 0o444)
    before = fingerprint(shared_place)
    set_mode(shared_place, mode)
    said = await said_by_somebody_without_rights(fleet, store.path)
    assert said.startswith(f"StoreReadOnly {store.path}: ")
    assert "must be writable" in said
    set_mode(shared_place, 0o755)
    assert fingerprint(shared_place)[store.path.name] == before[store.path.name]


@posix
async def test_a_directory_that_may_not_be_written_is_said(fleet: Fleet, shared_place: Path):
    """There is no file yet, and none can be made."""
    set_mode(shared_place, 0o555)
    said = await said_by_somebody_without_rights(fleet, shared_place / "perdure.db")
    assert said.startswith("StoreReadOnly cannot open ")
    assert "Permission denied" in said


# --- a damaged file, or another's ------------------------------------------------------------


async def whole(path: Path, runs: int = 3_000) -> None:
    """Make a file with runs in it, and no log beside it."""
    store = SqliteStore(path)
    await store.open()
    await store.apply(creates(runs))
    await store.close()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, but somebody needs it\n" * 400)


def short_garbage(path: Path) -> None:
    path.write_bytes(b"\0")


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_in_its_header(path: Path) -> None:
    os.truncate(path, 60)


def zeroed_first_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 4096)


def damaged_schema(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 1_000)


def another_application(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customer (name)")
        connection.commit()


def another_application_in_wal_mode(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE customer (name)")
        connection.commit()


def another_application_id(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id=7")


def a_lost_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE checkpoint")
        connection.commit()


DAMAGES = [
    garbage,
    short_garbage,
    cut_off,
    cut_in_its_header,
    zeroed_first_page,
    damaged_schema,
    another_application,
    another_application_in_wal_mode,
    another_application_id,
    a_lost_table,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_what_is_not_ours_or_not_whole_is_left_alone(
    tmp_path: Path, damage: Callable[[Path], None]
):
    """It is refused, never recreated; not a byte changes and nothing is left beside it."""
    path = tmp_path / "perdure.db"
    await whole(path)
    damage(path)
    before = fingerprint(tmp_path)
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="left as it is"):
            await store.open()
    await store.close()
    assert fingerprint(tmp_path) == before


async def test_a_newer_schema_is_refused(tmp_path: Path):
    """Whoever upgraded first is right; the message says what to do."""
    path = tmp_path / "perdure.db"
    await whole(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    before = fingerprint(tmp_path)
    store = SqliteStore(path)
    with pytest.raises(SchemaTooNew, match=r"schema 99 .* upgrade Perdure"):
        await store.open()
    await store.close()
    assert fingerprint(tmp_path) == before


async def test_damage_that_is_found_later_is_said_then(make_store: MakeStore, tmp_path: Path):
    """A page in the middle: reads and writes that meet it raise, and the file is not made worse."""
    path = tmp_path / "perdure.db"
    await whole(path)
    with closing(sqlite3.connect(path)) as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'run' AND pagetype = 'leaf'"
        ).fetchall()
        first = connection.execute("SELECT id FROM runs ORDER BY seq LIMIT 1").fetchone()[0]
    with path.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)
    before = fingerprint(tmp_path)
    store = await make_store(path)
    with pytest.raises(StoreCorrupt, match="restore a backup"):
        await store.list_runs(RunQuery())
    with pytest.raises(StoreCorrupt):
        await store.get(first)
    with pytest.raises(StoreCorrupt):
        await store.apply([CreateRun(first, "d", b"", 1)])
    await store.close()
    assert fingerprint(tmp_path) == before


async def test_an_empty_file_is_used(make_store: MakeStore, tmp_path: Path):
    """As mktemp makes one: there is nothing in it that could be lost."""
    (tmp_path / "perdure.db").touch()
    store = await make_store(tmp_path / "perdure.db")
    assert await store.apply(creates(1))


# --- several writers, and their death --------------------------------------------------------


def acknowledged(process: Process) -> set[str]:
    """Return the ids that a process has printed as acknowledged; its last line may be cut."""
    return {line for line in process.output.split("\n")[:-1] if len(line) == 36}


async def test_three_processes_write_one_file(fleet: Fleet, make_store: MakeStore, tmp_path: Path):
    """They wait for each other; no error of a locked database comes out, and nothing is lost."""
    store = await make_store(tmp_path / "perdure.db")
    creators = [fleet.start("create", batch=3, total=600) for _ in range(2)]
    workers = [fleet.start("live", total=150) for _ in range(2)]
    ours: set[str] = set()
    while not all(process.ended for process in (*creators, *workers)):
        batch = creates(2)
        await store.apply(batch)
        ours |= {run.run_id for run in batch}
    assert fleet.output.count("closed") == 4, fleet.output
    expected = ours.union(*[acknowledged(process) for process in creators])
    assert len(expected) == len(ours) + 1_200
    runs = stored(store.path)
    assert runs.keys() >= expected
    assert list(runs.values()).count(Status.COMPLETED) >= 300


@posix
async def test_what_was_acknowledged_survives_kill_9(fleet: Fleet, tmp_path: Path):
    """A writer is killed in the middle of its stream, three times on one file."""
    path = tmp_path / "perdure.db"
    survivors: set[str] = set()
    for _ in range(3):
        process = fleet.start("create")
        await fact("500 acknowledged", lambda process=process: len(acknowledged(process)) >= 500)
        process.kill()
        survivors |= acknowledged(process)
        assert stored(path).keys() >= survivors
    store = SqliteStore(path)
    await store.open()
    assert await store.apply(creates(1))
    await store.close()
    assert len(stored(path)) > len(survivors)
