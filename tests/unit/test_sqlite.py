"""What the SQLite store is beyond the contract: its file, its plans, its sizes, its processes."""

import asyncio
import os
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from perdure import ids
from perdure.errors import (
    CursorExpired,
    NotApplied,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreReadOnly,
    UsageError,
)
from perdure.ids import Ids
from perdure.model.changes import KEPT, Change
from perdure.model.keys import REMEMBERED, Debounce, Throttle
from perdure.model.queues import Limits, PutQueue
from perdure.model.records import Control, RunQuery, Status, StepOutcome
from perdure.model.retention import Prune, Pruned
from perdure.model.transitions import (
    CancelRun,
    Claim,
    Claimed,
    Completed,
    Created,
    CreateRun,
    RetireWorker,
    SaveCheckpoint,
    Saved,
    Settle,
    Settled,
)
from perdure.stores.sqlite import (
    SqliteStore,
    choosing,
    claims,
    codes,
    connecting,
    gates,
    keys,
    listing,
    reads,
    waiting,
    wakeups,
    workers,
)
from perdure.stores.sqlite import feed as feeding
from perdure.stores.sqlite.names import Names
from perdure.stores.sqlite.store import _INHERITED
from perdure.testing.contract.desk import (
    DONE,
    Desk,
    ManualClock,
    child,
    fresh_token,
    grant_of,
    register,
    save,
)

posix = pytest.mark.skipif(os.name != "posix", reason="modes, forks and sockets are POSIX")

PATIENCE = 20.0
"""Seconds after which a fact that does not come is an error."""

MakeStore = Callable[..., Awaitable[SqliteStore]]


@pytest.fixture
async def make_store(tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Open stores on one file; they are closed at the end."""
    opened: list[SqliteStore] = []

    async def make(path: Path = tmp_path / "perdure.db", **options) -> SqliteStore:
        store = SqliteStore(path, **options)
        opened.append(store)
        await store.open()
        return store

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(make_store: MakeStore, clock: ManualClock) -> SqliteStore:
    return await make_store(clock=clock)


@pytest.fixture
def desk(store: SqliteStore, clock: ManualClock) -> Desk:
    return Desk(store, clock)


def writer(store: SqliteStore) -> sqlite3.Connection:
    """The connection that a store writes with."""
    return store._connections[0]


def creates(count: int, *, definition: str = "d", **fields) -> list[CreateRun]:
    run_ids = Ids()
    return [
        CreateRun(run_ids.run_id(), definition, b"1", fresh_token(), **fields) for _ in range(count)
    ]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def size_of(store: SqliteStore, suffix: str = "") -> int:
    """Return the bytes of the store's file, or of one beside it."""
    return Path(f"{store.path}{suffix}").stat().st_size


def statements(store: SqliteStore) -> list[str]:
    """Return a list to which every statement of the store's writer is added."""
    seen: list[str] = []
    writer(store).set_trace_callback(seen.append)
    return seen


# --- values ----------------------------------------------------------------------------------


def test_every_member_has_a_code_of_its_own():
    """A status or kind that is added must get a number in the file format."""
    for there, back in [
        (codes.STATUSES, codes.STATUS_CODES),
        (codes.CONTROLS, codes.CONTROL_CODES),
        (codes.WAIT_KINDS, codes.WAIT_KIND_CODES),
        (codes.STEP_KINDS, codes.STEP_KIND_CODES),
        (codes.STEP_OUTCOMES, codes.STEP_OUTCOME_CODES),
    ]:
        [kind] = {type(member) for member in there.values()}
        assert set(there.values()) == set(kind)
        assert {member: code for code, member in there.items()} == back
    assert {rank.value: rank for rank in codes.RANKS.values()} == codes.RANKS


@pytest.mark.parametrize(
    "text",
    [
        "0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f6a7b",
        "00000000-0000-0000-0000-000000000000",
        "0190A0B0-C0D0-7E0F-8A1B-2C3D4E5F6A7B",
        "0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f6a7",
        "0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f6a7bc",
        "0190a0b0c0d0-7e0f-8a1b-2c3d-4e5f6a7b",
        "0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f6a b",
        "0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f\u00b2a7b",
        "x" * 36,
        "",
        "r",
    ],
)
def test_ids_come_back_as_they_were(text: str):
    """Only what is exactly a canonical UUID is packed."""
    packed = codes.pack_id(text)
    assert codes.unpack_id(packed) == text
    assert isinstance(packed, bytes) == bool(
        re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)
    )


async def test_a_long_payload_is_written_once(store: SqliteStore, desk: Desk):
    """It stands beside its run's row, which every claim and settle writes anew."""
    long = b'"' + b"x" * 100_000 + b'"'
    await desk.worker()
    await desk.apply(CreateRun("r", "d", long, 1, meta=long, options=long))
    await writer_copied_back(store)
    size = size_of(store)
    claimed = await desk.claim()
    assert (claimed.runs[0].run.input, claimed.runs[0].run.meta) == (long, long)
    await desk.settle(grant_of(claimed.runs[0]), Completed(long))
    assert size_of(store, "-wal") < size + 2 * len(long), "the input was written again"
    run = await desk.run()
    assert (run.input, run.meta, run.options, run.result) == (long, long, long, long)
    assert (await store.endings(["r"]))["r"].result == long


async def writer_copied_back(store: SqliteStore) -> None:
    """Begin the log anew, so that its size tells what is written from here on."""
    busy, _, _ = writer(store).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy


async def test_a_value_that_cannot_be_stored_leaves_nothing(make_store: MakeStore, desk: Desk):
    """Neither rows nor names that the batch had made; the store goes on."""
    good = CreateRun("good", "first seen here", b"1", 1)
    for bad in [
        CreateRun("bad\ud800", "d", b"1", 2),
        CreateRun("bad", "d", b"1", 2, priority=1 << 64),
        CreateRun("bad", "d", "1", 2, unique_key=object()),  # type: ignore[arg-type]
    ]:
        with pytest.raises(NotApplied, match="cannot store a value"):
            await desk.apply(good, bad)
        assert await desk.store.get("good") is None
    assert await desk.apply(good) == [Created("good")]
    other = await make_store()
    run = await other.get("good")
    assert run is not None
    assert run.definition == "first seen here"


# --- the file --------------------------------------------------------------------------------


@posix
async def test_all_files_are_private(store: SqliteStore, desk: Desk):
    """Whoever may read payloads is the user that runs the workers, and nobody else."""
    await desk.create("r")
    release = store.hold("w")
    stop = store.listen(lambda: None)
    found = [path for path in store.path.parent.rglob("*") if path.name.startswith("perdure.db")]
    found += [path for directory in found if directory.is_dir() for path in directory.iterdir()]
    found += [store._bell._place, *store._bell._place.iterdir()]
    assert len(set(found)) == 7, "the file, its log and index, two directories, a lock, a socket"
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    stop()
    release()


@pytest.mark.parametrize(
    "name", ["a b.db", "what?mode=memory.db", "50%41.db", "a#b.db", "größe-数.db", "it's;--.db"]
)
async def test_a_path_may_hold_any_character(make_store: MakeStore, tmp_path: Path, name: str):
    """The path is a path, whatever a URI or SQL would make of it."""
    store = await make_store(tmp_path / name)
    await Desk(store, ManualClock()).create("r")
    assert (tmp_path / name).stat().st_size > 0
    assert {found.removeprefix(name) for found in files(tmp_path)} == {"", "-wal", "-shm"}
    again = await make_store(tmp_path / name)
    assert await again.get("r") is not None


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_store_needs_a_file(path: str):
    """SQLite would make a database that nobody else sees and nothing survives."""
    with pytest.raises(UsageError, match="needs a file"):
        SqliteStore(path)


async def test_an_old_sqlite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before anything fails with a syntax error."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    store = SqliteStore(tmp_path / "perdure.db")
    with pytest.raises(StoreError, match=r"needs SQLite 3\.33 or later"):
        await store.open()
    await store.close()
    assert not (tmp_path / "perdure.db").exists()


async def test_a_missing_directory_is_named(tmp_path: Path):
    """It is not made: a typing error would make one in the wrong place."""
    store = SqliteStore(tmp_path / "no" / "perdure.db")
    with pytest.raises(StoreReadOnly, match="create it first"):
        await store.open()
    await store.close()
    assert not (tmp_path / "no").exists()


async def test_a_directory_is_no_file(tmp_path: Path):
    """Its name is in the message."""
    store = SqliteStore(tmp_path)
    with pytest.raises(StoreReadOnly, match=re.escape(str(tmp_path))):
        await store.open()
    await store.close()


async def test_settings_are_what_was_asked_for(make_store: MakeStore):
    """And anything else than the two is refused, before a file is made."""
    full, normal = await make_store(), await make_store(synchronous="normal")
    for store, expected, durability in [(full, 2, "power"), (normal, 1, "kill")]:
        assert writer(store).execute("PRAGMA synchronous").fetchone() == (expected,)
        assert writer(store).execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store.capabilities.durability == durability
    for other in ("off", "FULL", "extra", ""):
        with pytest.raises(UsageError, match="synchronous must be"):
            SqliteStore("x.db", synchronous=other)


async def test_people_can_read_the_file(make_store: MakeStore, desk: Desk):
    """With nothing but sqlite3 they see ids and statuses in words."""
    [uuid] = creates(1)
    await desk.apply(uuid)
    await desk.create("r", delay=1_000_000)
    other = await make_store(namespace="tenant")
    await Desk(other, ManualClock()).create("r")
    with sqlite3.connect(desk.store.path) as connection:
        found = connection.execute("SELECT namespace, id, status, definition FROM runs").fetchall()
        [(first, _)] = connection.execute(
            "SELECT created_at, due_at FROM runs WHERE due_at IS NOT NULL"
        ).fetchall()
    connection.close()
    assert sorted(found) == [
        ("default", uuid.run_id, "queued", "d"),
        ("default", "r", "waiting", "d"),
        ("tenant", "r", "queued", "d"),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first)


async def test_what_a_finished_run_takes(store: SqliteStore, desk: Desk):
    """Ten steps without arguments, 100 runs at a time: at most 1.2 KB on disk, indexes included.

    A tenth of it is what the change feed has of them, for a week. What the tables take before there
    is anything in them is left out.
    """
    await writer_copied_back(store)
    empty = size_of(store)
    await desk.worker("0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f6a7b", {"checkout": "0123456789abcdef"})
    for _ in range(5):
        new = creates(100, definition="checkout", version="0123456789abcdef")
        await desk.apply(*new)
        claimed = await desk.claim(
            worker_id="0190a0b0-c0d0-7e0f-8a1b-2c3d4e5f6a7b", definitions=("checkout",)
        )
        grants = [grant_of(given) for given in claimed.runs]
        assert len(grants) == 100
        for number in range(10):
            at = await store.now()
            fields = {"started_at": at, "ended_at": at + 800, "site": "shop/checkout.py:123"}
            saves = [save(grant, f"step_{number}", value=b"null", **fields) for grant in grants]
            await desk.apply(*saves[:50])
            await desk.apply(*saves[50:])
        await desk.apply(*[Settle(grant, Completed(b"null")) for grant in grants])
    await writer_copied_back(store)
    assert (size_of(store) - empty) / 500 < 1_200


async def test_a_visit_that_is_not_brief_lengthens_the_log(store: SqliteStore):
    """After eight batches the log has its length, so that no commit waits for it to grow."""
    for _ in range(8):
        await store.apply(creates(1))
    assert size_of(store, "-wal") < 1 << 20
    await store.apply(creates(1))
    assert size_of(store, "-wal") == connecting._LONG_LOG
    for _ in range(20):
        await store.apply(creates(1))
    assert size_of(store, "-wal") == connecting._LONG_LOG


async def test_a_lengthened_log_is_recovered_like_any_other(
    make_store: MakeStore, store: SqliteStore, tmp_path: Path
):
    """What a kill leaves, file and log as they are, holds every run and passes SQLite's check."""
    batches = [creates(3) for _ in range(30)]
    for batch in batches:
        await store.apply(batch)
    (tmp_path / "left").mkdir()
    left = tmp_path / "left" / "perdure.db"
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{store.path}{suffix}", f"{left}{suffix}")
    found = await make_store(left)
    assert writer(found).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    listed = {run.run_id for run in await found.list_runs(RunQuery(limit=1_000))}
    assert listed == {run.run_id for batch in batches for run in batch}


# --- plans -----------------------------------------------------------------------------------

CLAIM_PLANS = {
    "next due": (claims.NEXT_DUE, (1,)),
    "promote": (claims.PROMOTE, (0, 1)),
    "given before": (claims.GIVEN, (1, 1, 1)),
    "lanes": (choosing.LANES, (1, "[1]")),
    "lanes of suspects": (choosing.SUSPECT_LANES, (1, "[1]")),
    "suspects": (choosing.SUSPECTS, (1, 1, 1, 0)),
    "first of one": (choosing.FIRST_OF[1], (1, 1, 1, 0, 0, 1, 9, 9)),
    "running": (choosing.RUNNING, (1, 1)),
    "due with a key": (gates.MARK_DUE, (1, 0)),
    "marked": (gates.MARKED, (1, 0, 9)),
    "outlook": (claims.OUTLOOK, (1,)),
    "next look": (gates.NEXT_LOOK, (1,)),
    "park all of a key": (gates.PARK_ALL, (1, 1, "k")),
    "any parked": (gates.IS_ANY_PARKED, (1, 1, "k")),
    "codes of a key": (gates.CODES, (1, 1, "k")),
    "first of a key": (gates.FIRST, (1, 1, "k", 1, 0, 9)),
    "running of a key": (gates.RUNNING, (1, 1, "k")),
    "holder of a key": (keys.HOLDER, (1, 1, "k")),
    "window": (keys.WINDOW, (1, 1, "k", 0)),
    "close windows": (keys.CLOSE_WINDOWS, (0,)),
    "taken by": (keys.TAKEN_BY, (1, "r", 1, 0)),
    "forget": (keys.FORGET, (0,)),
    "held": (workers.HELD, (1, 1)),
    "controlled": (workers.CONTROLLED, (1, 1)),
    "any paused": (claims.IS_ANY_PAUSED, (1,)),
    "next misfits": (claims.NEXT_MISFITS, (1, 1, 0, "")),
    "paused": (claims.PAUSED, (1, 1, 0, "", "[1]", 9)),
    "versions": (workers.VERSIONS, (1, 1)),
    "any open": (waiting.ANY_OPEN, ()),
    "is open": (waiting.IS_OPEN, (1, 0)),
    "checkpoints": (reads.CHECKPOINTS, (1,)),
    "attempts": (reads.ATTEMPTS, (1,)),
    "audits": (reads.AUDITS, (1,)),
}


@pytest.mark.parametrize("name", CLAIM_PLANS)
async def test_statements_seek(store: SqliteStore, name: str):
    """None reads a whole table or index; numbers from a list and single columns apart."""
    text, parameters = CLAIM_PLANS[name]
    plan = [row[3] for row in writer(store).execute(f"EXPLAIN QUERY PLAN {text}", parameters)]
    scans = [line for line in plan if line.startswith("SCAN")]
    harmless = (
        "SCAN json_each",
        "SCAN lane",
        "SCAN (subquery",
        "SCAN CONSTANT ROW",
        "SCAN wait USING INDEX wait_open",
        "SCAN counted",  # one row
    )
    assert not [line for line in scans if not line.startswith(harmless)], plan


async def test_the_first_of_a_lane_are_not_sorted(store: SqliteStore):
    """The index has them in the order of claiming, so that a claim stops at its limit."""
    plan = [
        row[3]
        for row in writer(store).execute(
            f"EXPLAIN QUERY PLAN {choosing._LANE}", (1, 1, 1, 0, 0, 1, 9)
        )
    ]
    assert len(plan) == 1, "a second line would be the sorting"
    assert "INDEX run_ready (namespace=? AND queue=? AND definition=? AND pin=? AND" in plan[0]


async def test_the_first_of_a_key_are_not_sorted(store: SqliteStore):
    """The same holds behind a gate."""
    text = f"EXPLAIN QUERY PLAN {gates.FIRST}"
    plan = [row[3] for row in writer(store).execute(text, (1, 1, "k", 1, 0, 9))]
    assert len(plan) == 1, "a second line would be the sorting"
    assert "INDEX run_keyed (namespace=? AND queue=? AND limit_key=? AND parked=?" in plan[0]


@pytest.mark.parametrize(
    "query, index",
    [
        (RunQuery(statuses=(Status.FAILED,)), "run_ailing"),
        (RunQuery(statuses=(Status.PAUSED, Status.CANCELLED)), "run_ailing"),
        (RunQuery(statuses=(Status.RUNNING,)), "run_held"),
        (RunQuery(parent_id="r"), "run_child"),
        (RunQuery(caused_by="event:e"), "run_caused"),
        (RunQuery(id_prefix="0199"), "run_id (namespace=? AND id>? AND id<?)"),
        (RunQuery(id_prefix="o", text="x", limit=2), "run_id (namespace=? AND id>? AND id<?)"),
    ],
)
async def test_lists_that_people_look_at_use_an_index(
    store: SqliteStore, query: RunQuery, index: str
):
    """Few failed ones are found among many completed."""
    connection = writer(store)
    found = listing.list_statement(query, 1, Names(connection))
    assert found is not None
    plan = connection.execute(f"EXPLAIN QUERY PLAN {found.text}", found.parameters).fetchall()
    assert any(index in row[3] for row in plan), plan


def count_instructions(store: SqliteStore) -> Callable[[], int]:
    """Count the instructions of SQLite's machine, in tens; return what ends and tells it."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    writer(store).set_progress_handler(step, 10)

    def stop() -> int:
        writer(store).set_progress_handler(None, 0)
        return count

    return stop


async def test_a_claim_costs_the_same_with_a_backlog(store: SqliteStore, desk: Desk):
    """Ready runs, known or not, add nothing."""
    await desk.worker()

    async def cost() -> int:
        stop = count_instructions(store)
        assert len((await desk.claim(5)).runs) == 5
        return stop()

    await desk.apply(*creates(20))
    few = await cost()
    for definition in ("d", "unknown"):
        for _ in range(10):
            await desk.apply(*creates(1_000, definition=definition))
    await desk.apply(*creates(1_000, queue="elsewhere"))
    assert await cost() < few * 1.5


@pytest.mark.parametrize("many", [3_000, pytest.param(99_000, marks=pytest.mark.tier(2))])
@pytest.mark.parametrize("how", ["queued", "suspect", "mismatch", "key"])
async def test_a_claim_costs_the_same_beside_what_is_pinned_elsewhere(
    store: SqliteStore, desk: Desk, how: str, many: int
):
    """Any number of runs that are pinned to a version that nobody has adds nothing."""
    await desk.worker()
    await desk.do(PutQueue("default", Limits(key_concurrency=1_000)))

    async def cost() -> int:
        while (await desk.claim(0)).next_due_at is not None:
            pass  # until no gate is left to be looked at
        stop = count_instructions(store)
        [given] = (await desk.claim(1, suspects=True)).runs
        await desk.settle(grant_of(given))
        return stop()

    key = {"limit_key": "k"} if how == "key" else {}
    await desk.apply(*creates(20))
    await desk.apply(*creates(1, pin="gone", **key), *creates(1, definition="e", pin="gone"))
    few = await cost()
    for start in range(0, many, 1_000):
        await desk.apply(*creates(min(1_000, many - start), pin="gone", **key))
    made = "status = 0, rank = 2" if how == "suspect" else "status = 3, reason = 'mismatch'"
    if how in {"suspect", "mismatch"}:
        writer(store).execute(f"UPDATE run SET {made}, misfits = '[\"9\"]' WHERE pin <> 0")
    assert await cost() < few * 1.5


@pytest.mark.parametrize("full", [3_000, pytest.param(99_000, marks=pytest.mark.tier(2))])
async def test_a_claim_costs_the_same_behind_a_full_key(store: SqliteStore, desk: Desk, full: int):
    """Any number of runs behind a full key, and of keys that are full, adds nothing."""
    await desk.worker()
    await desk.do(PutQueue("default", Limits(key_concurrency=1)))

    async def cost() -> int:
        while (await desk.claim(0)).next_due_at is not None:
            pass  # until no gate is left to be looked at
        stop = count_instructions(store)
        [given] = (await desk.claim(1)).runs
        await desk.settle(grant_of(given))
        return stop()

    await desk.apply(*creates(3, limit_key="full"))
    assert len((await desk.claim(10)).runs) == 1
    await desk.apply(*creates(20))
    few = await cost()
    for start in range(0, full, 1_000):
        await desk.apply(*creates(min(1_000, full - start), limit_key="full"))
    assert await cost() < few * 1.5
    for number in range(100):
        await desk.apply(*creates(2, limit_key=f"full {number}"))
    assert len((await desk.claim(500)).runs) >= 64
    assert await cost() < few * 1.5


async def test_a_fresh_run_is_claimed_without_reading_its_history(store: SqliteStore, desk: Desk):
    """It has none; a resumed one is read in one statement."""
    await desk.worker()
    await desk.create("r")
    seen = statements(store)
    claimed = await desk.claim()
    of_history = ("FROM checkpoint WHERE", "FROM wait")
    assert not [text for text in seen for table in of_history if table in text]
    await desk.apply(save(grant_of(claimed.runs[0])))
    await desk.rescue()
    await desk.worker("v")
    seen.clear()
    [given] = (await desk.claim(worker_id="v")).runs
    assert len(given.checkpoints) == 1
    assert len([text for text in seen if "FROM checkpoint WHERE" in text]) == 1


async def test_a_batch_takes_few_statements(store: SqliteStore, desk: Desk):
    """Each costs up to 5 ms beside a busy thread, so their number does not grow with the batch."""
    store._pace = 1_000.0  # on the loop's thread, a claim of 64 would be given up half-way
    await desk.worker()
    await desk.apply(*creates(128))
    seen = statements(store)
    grants = [grant_of(given) for given in (await desk.claim(64)).runs]
    assert len(seen) <= 16
    seen.clear()
    await desk.apply(*[save(grant) for grant in grants])
    assert len(seen) <= 7
    seen.clear()
    settles = [Settle(grant, DONE) for grant in grants]
    await desk.apply(*settles, Claim("w", fresh_token(), ("d",), ("default",), 64))
    assert len(seen) <= 20


async def test_a_lone_create_is_one_statement(store: SqliteStore, desk: Desk):
    """Once its names are known; what is not plain takes the common way."""
    await desk.create("first")
    seen = statements(store)
    await desk.create("second")
    assert len(seen) == 1
    assert seen[0].startswith("INSERT INTO run ")
    assert (await desk.run("second")).seq == (await desk.run("first")).seq + 1


async def test_windows_and_inputs_that_are_over_go(store: SqliteStore, desk: Desk):
    """With each new one some that have ended, in bounded work; those that have not stay."""
    quiet = {"key_rule": Debounce(), "delay": 1}
    for n in range(40):
        rare = {"key_rule": Throttle(1_000 if n % 2 else 10**12), "unique_key": f"u{n}"}
        await desk.create(f"r{n}", **rare)
        await desk.apply(
            *(CreateRun(f"d{n}.{m}", "e", b"", m, unique_key=f"u{n}", **quiet) for m in range(2))
        )

    def kept() -> list[int]:
        counts = [f"SELECT count(*) FROM {table}" for table in ("throttle", "debounced")]
        return [writer(store).execute(count).fetchone()[0] for count in counts]

    assert kept() == [40, 40]
    desk.clock.advance(REMEMBERED)
    for n, expected in enumerate(([25, 25], [22, 10], [23, 3])):
        await desk.create(f"s{n}", key_rule=Throttle(10**12), unique_key=f"v{n}")
        await desk.do(CreateRun(f"f{n}", "e", b"", n, unique_key="u0", **quiet))
        assert kept() == expected


async def test_a_long_input_that_was_replaced_is_gone(store: SqliteStore, desk: Desk):
    """A short one stands in the row, and nothing is left beside it."""
    long = b"x" * 5_000
    rule = {"unique_key": "u", "key_rule": Debounce()}
    await desk.do(CreateRun("r", "d", long, 1, meta=long, **rule))
    await desk.do(CreateRun("s", "d", b"1", 2, **rule))
    assert writer(store).execute("SELECT count(*) FROM payload").fetchone() == (0,)


# --- what is remembered ----------------------------------------------------------------------


async def test_what_another_store_changed_is_seen(make_store: MakeStore, desk: Desk):
    """Running runs are remembered between batches, as long as nobody else has committed."""
    await desk.worker()
    grant = await desk.start()
    assert await desk.do(save(grant, "a")) == Saved()
    other = await make_store()
    await other.apply([CancelRun("r", "request")])
    assert await desk.do(save(grant, "b")) == Saved(Control.CANCEL)


async def test_a_failed_batch_is_forgotten(desk: Desk):
    """What it decided in memory before it failed did not happen."""
    await desk.worker()
    grant = await desk.start()
    with pytest.raises(NotApplied):
        await desk.apply(Settle(grant, DONE), CreateRun("x", "d", b"", 1 << 64))
    assert await desk.do(save(grant)) == Saved()
    assert await desk.do(Settle(grant, DONE)) == Settled(Status.COMPLETED)


async def test_a_claimed_run_that_is_changed_by_its_user_changes_nothing(desk: Desk):
    """The record that is handed out is a copy."""
    await desk.worker()
    await desk.create("r")
    run = (await desk.claim()).runs[0].run
    grant = grant_of(run)
    run.status = Status.CANCELLED
    run.epoch = 9
    assert await desk.do(save(grant)) == Saved()


# --- threads and other writers ---------------------------------------------------------------


async def test_a_held_file_blocks_no_loop(store: SqliteStore, desk: Desk):
    """While another connection writes, a small batch waits in the thread and the loop runs on."""
    await desk.create("first")
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(desk.create("second"))
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not store._write_thread.pending:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0)
        assert not task.done()
        other.execute("ROLLBACK")
        await task
    other.close()
    assert await store.get("second") is not None


async def test_patience_ends(make_store: MakeStore):
    """The file was held by others all the time: nothing was applied, and that is what is said."""
    store = await make_store(patience=0.05)
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="another process"):
            await Desk(store, ManualClock()).create("r")
        second = SqliteStore(store.path, patience=0.05)
        with pytest.raises(StoreBusy):
            await second.open()
        await second.close()
        other.execute("ROLLBACK")
    other.close()
    await Desk(store, ManualClock()).create("r")


async def test_readers_do_not_wait_for_a_writer(store: SqliteStore, desk: Desk):
    """They see what is committed."""
    await desk.create("r")
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE run SET status = 6")
        assert await desk.status() is Status.QUEUED
        assert (await desk.history()).run.status is Status.QUEUED
        other.execute("ROLLBACK")
    other.close()


async def test_a_cancelled_caller_leaves_a_batch_that_is_applied(store: SqliteStore, desk: Desk):
    """Its transaction runs its course in the thread; the next batch comes after it."""
    store._pace = 1.0  # as on a slow disk: into the thread
    task = asyncio.create_task(desk.create("first"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await desk.create("second")
    assert await store.get("first") is not None


async def test_slow_commits_go_to_the_thread_until_they_are_quick(store: SqliteStore, desk: Desk):
    """The pace is that of the commits, also of those in the thread: so it finds its way back."""
    store._pace = 1_000.0
    await desk.create("a")
    assert store._write_thread.is_started
    assert store._pace < 900
    store._pace = 0.0
    store._write_thread.stop()
    await desk.create("b")
    assert not store._write_thread.is_started


async def test_much_work_in_a_small_batch_goes_to_the_thread(
    store: SqliteStore, desk: Desk, clock: ManualClock
):
    """A claim that finds 30 runs, or as many that are due, is not made while the loop waits."""
    await desk.worker()
    for expected in (30, 0):  # queued now; then none, but as many due
        store._write_thread.stop()
        await desk.apply(*creates(30, delay=0 if expected else 1))
        store._write_thread.stop()
        store._pace = 0.0
        clock.advance(1)
        claimed = await desk.claim(30 if expected else 1)
        assert store._write_thread.is_started
        assert len(claimed.runs) == (expected or 1)
    store._write_thread.stop()
    store._pace = 0.0
    await desk.claim(1)
    assert not store._write_thread.is_started


async def test_closing_leaves_no_thread(make_store: MakeStore):
    """Also where opening failed, or nothing was ever opened."""
    before = threading.active_count()
    store = await make_store()
    await store.history("r")
    store._pace = 1.0
    await store.apply(creates(1))
    await store.close()
    failed = SqliteStore(store.path.parent / "no" / "x.db")
    with pytest.raises(StoreReadOnly):
        await failed.open()
    await failed.close()
    await SqliteStore(store.path).close()
    assert threading.active_count() == before


# --- processes -------------------------------------------------------------------------------

FORK = """
import asyncio, os, sys
from perdure.errors import StoreClosed
from perdure.model.transitions import Created, CreateRun
from perdure.stores.sqlite import SqliteStore

store = SqliteStore(sys.argv[1])

async def create(run_id, store=store):
    return await store.apply([CreateRun(run_id, "d", b"1", 1)]) == [Created(run_id)]

async def parent_before():
    await store.open()
    await create("before")
    store.listen(lambda: None)
    store.hold("w")

async def parent_after():
    print(await create("after"), flush=True)
    await store.close()

async def child():
    for refused in (lambda: create("child"), lambda: store.get("before")):
        try:
            await refused()
        except StoreClosed as error:
            print(error, flush=True)
    own = SqliteStore(sys.argv[1])
    await own.open()
    print(await create("own", own), flush=True)
    print(own.departed(["w"]), flush=True)
    await own.close()

with asyncio.Runner() as runner:
    runner.run(parent_before())
    pid = os.fork()
    if pid == 0:
        asyncio.run(child())
        os._exit(0)
    os.waitpid(pid, 0)
    runner.run(parent_after())
"""

HOLD = """
import asyncio, os, sys
from perdure.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    store.hold("w")
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    os.wait()

asyncio.run(main())
"""

CREATE_ONE = """
import asyncio, sys
from perdure.model.transitions import CreateRun
from perdure.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.apply([CreateRun(sys.argv[2], "d", b"1", 1)])
    await store.close()

asyncio.run(main())
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@posix
def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path):
    """Its parent's store is closed to it, that of the parent goes on and keeps its sign of life."""
    with python(FORK, tmp_path / "perdure.db") as process:
        out, _ = process.communicate(timeout=PATIENCE)
    refused, refused_again, own, departed, parent = out.splitlines()
    assert refused == refused_again
    assert "was opened before this process was forked" in refused
    assert (own, departed, parent) == ("True", "set()", "True")
    assert process.returncode == 0


@posix
async def test_a_forked_child_does_not_keep_a_dead_parent_alive(store: SqliteStore):
    """It closes what it inherited: a lock lives as long as any copy of its descriptor is open."""
    with python(HOLD, store.path) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert store.departed(["w"]) == set()
        process.kill()
        process.wait(timeout=PATIENCE)
        assert store.departed(["w"]) == {"w"}
        process.stdin.close()
        process.stdin = None


def test_an_abandoned_store_is_closed(tmp_path: Path):
    """What the hook of a fork does, looked at in this process."""

    async def main() -> None:
        store = SqliteStore(tmp_path / "perdure.db")
        await store.open()
        store.hold("w")
        connections = list(store._connections)
        store.abandon()
        assert _INHERITED[-2:] == connections
        with pytest.raises(StoreClosed, match="forked"):
            await store.get("r")
        with pytest.raises(StoreClosed, match="forked"):
            store.hold("v")
        await store.close()
        for connection in connections:
            _INHERITED.remove(connection)
            connection.close()

    asyncio.run(main())


async def test_a_sign_taken_twice_is_an_error(make_store: MakeStore, store: SqliteStore):
    """A worker id is one process's; the message names the file."""
    release = store.hold("w")
    other = await make_store()
    with pytest.raises(StoreBusy, match="lives as worker 'w'"):
        other.hold("w")
    release()
    other.hold("w")()


async def test_the_files_of_removed_workers_go(make_store: MakeStore, desk: Desk):
    """Whether they are held while they retire, or rescued after their death."""
    store = desk.store
    place = store._signs._place
    await desk.apply(register("retiring"), register("dead"))
    release = store.hold("retiring")
    store.hold("dead")()
    assert len(files(place)) == 2
    await desk.rescue("dead")
    assert len(files(place)) == 1
    assert store.departed(["dead"]) == set()
    await desk.do(RetireWorker("retiring"))
    release()
    assert files(place) == []


# --- hints -----------------------------------------------------------------------------------


async def heard(store: SqliteStore) -> tuple[asyncio.Event, Callable[[], None]]:
    event = asyncio.Event()
    return event, store.listen(event.set)


@posix
async def test_another_process_is_heard(store: SqliteStore):
    """A run that it creates wakes this loop, long before any poll."""
    event, stop = await heard(store)
    with python(CREATE_ONE, store.path, "r") as process:
        await asyncio.wait_for(event.wait(), PATIENCE)
        process.communicate(timeout=PATIENCE)
    assert await store.get("r") is not None
    stop()
    assert files(store._bell._place) == []


@posix
async def test_the_sockets_of_dead_processes_are_removed(store: SqliteStore, desk: Desk):
    """The first who tries to tell them finds that nobody is there."""
    event, stop = await heard(store)
    place = store._bell._place
    stale = wakeups.bind_datagram_socket(place / "0badcafe-1")
    stale.close()
    store._bell._look_again_at = 0.0
    await desk.create("r")
    assert len(files(place)) == 1, "its own"
    stop()
    assert not event.is_set(), "a store does not hint to itself"


@posix
async def test_a_long_path_gets_its_sockets_elsewhere(make_store: MakeStore, tmp_path: Path):
    """The system takes 107 bytes for a socket's path, of which the file's may use more."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    store = await make_store(deep / "perdure.db")
    event, stop = await heard(store)
    assert store._bell._place.parent != deep
    with python(CREATE_ONE, store.path, "r") as process:
        await asyncio.wait_for(event.wait(), PATIENCE)
        process.communicate(timeout=PATIENCE)
    stop()
    store._bell._place.rmdir()


async def test_where_there_are_no_sockets_a_listener_looks(
    make_store: MakeStore, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
):
    """As on Windows: it asks whether another connection has committed."""
    monkeypatch.setattr(wakeups, "has_local_sockets", lambda: False)
    monkeypatch.setattr(wakeups, "_POLL", 0.01)
    event, stop = await heard(store)
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("INSERT INTO name (text) VALUES ('committed by somebody')")
    other.close()
    await asyncio.wait_for(event.wait(), PATIENCE)
    stop()


# --- whole batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_checkpoints_keep_their_order_across_stores(make_store: MakeStore, seed: int):
    """First recorded, first listed: whichever process wrote, whatever was replaced since."""
    stores = [await make_store(clock=ManualClock()) for _ in range(2)]
    desk = Desk(stores[0], ManualClock())
    await desk.worker()
    grant = await desk.start()
    chance = random.Random(seed)
    order: dict[str, None] = {}
    for tries in range(1, 60):
        path = f"s{chance.randrange(20)}"
        order.setdefault(path)
        outcome = StepOutcome.PENDING if chance.random() < 0.7 else StepOutcome.OK
        saving = save(grant, path, outcome, tries=tries, delay=1, text=chance.choice(["", "x"]))
        [answer] = await chance.choice(stores).apply([saving])
        assert isinstance(answer, Saved)
    recorded = [checkpoint.key.path for checkpoint in (await desk.history()).checkpoints]
    assert recorded == list(order)


async def test_a_large_batch_is_applied_whole(desk: Desk):
    """More rows than one statement takes, of every kind."""
    await desk.worker()
    new = creates(1_234)
    assert await desk.apply(*new) == [Created(create.run_id) for create in new]
    claimed = await desk.claim(1_234)
    assert [given.run.run_id for given in claimed.runs] == [create.run_id for create in new]
    grants = [grant_of(given) for given in claimed.runs]
    saves: list[SaveCheckpoint] = [save(grant) for grant in grants]
    assert await desk.apply(*saves) == [Saved()] * 1_234
    assert await desk.apply(*saves) == [Saved()] * 1_234
    settles = [Settle(grant, DONE) for grant in grants]
    *ended, again = await desk.apply(*settles, Claim("w", fresh_token(), ("d",), ("default",), 10))
    assert ended == [Settled(Status.COMPLETED)] * 1_234
    assert isinstance(again, Claimed)
    assert not again.runs


async def test_a_join_of_many_children_is_fulfilled_once(desk: Desk):
    """The last of 300 ends wakes the parent, and no end before it."""
    await desk.worker()
    parent = await desk.start("parent")
    children = [create.run_id for create in creates(300)]
    await desk.suspend(parent, *[child(run_id) for run_id in children])
    await desk.create(*children)
    grants = [grant_of(given) for given in (await desk.claim(300)).runs]
    await desk.apply(*[Settle(grant, DONE) for grant in grants[:-1]])
    assert await desk.status("parent") is Status.WAITING
    await desk.apply(Settle(grants[-1], DONE))
    assert await desk.status("parent") is Status.QUEUED
    [given] = (await desk.claim()).runs
    assert [ending.run_id for ending in given.endings] == children


def test_ids_of_the_suite_are_packed():
    """The sizes above are those of ids as the library draws them."""
    assert isinstance(codes.pack_id(ids.Ids().run_id()), bytes)


@pytest.mark.parametrize(
    "query",
    [
        RunQuery(),
        RunQuery(before=9),
        RunQuery(definitions=("d",), queue="q"),
        RunQuery(statuses=(Status.QUEUED, Status.FAILED)),
        RunQuery(text="x", tag="y", unique_key="z", reason="error"),
        RunQuery(created_after=1, created_before=2),
    ],
    ids=str,
)
async def test_lists_walk_from_the_newest(store: SqliteStore, query: RunQuery):
    """Runs are looked at in their order until the page is full: none is sorted."""
    await store.apply([CreateRun("r", "d", b"", 1, queue="q")])
    connection = writer(store)
    found = listing.list_statement(query, 1, Names(connection))
    assert found is not None
    plan = connection.execute(f"EXPLAIN QUERY PLAN {found.text}", found.parameters).fetchall()
    lines = [row[3] for row in plan]
    assert lines[0].startswith(("SCAN run", "SEARCH run USING INTEGER PRIMARY KEY")), lines
    assert not [line for line in lines if "TEMP B-TREE" in line], lines


async def test_the_pages_of_an_id_prefix_sort_numbers_only(store: SqliteStore):
    """The range comes from the index alone, and rows are read for the page."""
    connection = writer(store)
    found = listing.list_statement(RunQuery(id_prefix="0"), 1, Names(connection))
    assert found is not None
    plan = connection.execute(f"EXPLAIN QUERY PLAN {found.text}", found.parameters).fetchall()
    lines = [row[3] for row in plan]
    assert "SEARCH run USING INTEGER PRIMARY KEY (rowid=?)" in lines, lines
    ranges = [line for line in lines if "run_id" in line]
    assert len(ranges) == 2
    assert all(line.startswith("SEARCH run USING COVERING INDEX") for line in ranges), lines
    assert not [line for line in lines if line.startswith("SCAN")], lines


async def test_a_plan_names_what_is_missing(make_store: MakeStore, tmp_path: Path):
    """A file that is not there, one that is empty, one that is ready, and one that is no place."""
    path = tmp_path / "new.db"
    assert await SqliteStore(path).plan() == [f"create {path} with schema 2"]
    path.touch()
    assert await SqliteStore(path).plan() == [f"create schema 2 in {path}, which is empty"]
    assert path.stat().st_size == 0
    await make_store(path)
    assert await SqliteStore(path).plan() == []
    with pytest.raises(StoreReadOnly, match="is no directory"):
        await SqliteStore(tmp_path / "nowhere" / "x.db").plan()


# --- the change feed -----------------------------------------------------------------------------


async def feed(store: SqliteStore, after: str | None = None) -> list[Change]:
    """Return all changes that follow on a position."""
    found: list[Change] = []
    while True:
        page = await store.changes(after, 1_000)
        found += page.changes
        after = page.position
        if len(page.changes) < 1_000:
            return found


async def test_a_restored_backup_knows_no_cursor_of_what_it_lost(
    tmp_path: Path, make_store: MakeStore, clock: ManualClock
):
    """Also where as much has happened in it since; those from before the backup are good."""
    path = tmp_path / "perdure.db"
    desk = Desk(await make_store(path, clock=clock), clock)
    await desk.worker()
    grant = await desk.start("a")
    await desk.do(save(grant, "s"))
    kept = [change.position for change in await feed(desk.store)]
    await desk.store.close()
    shutil.copy(path, tmp_path / "backup.db")
    desk = Desk(await make_store(path, clock=clock), clock)
    await desk.do(save(grant, "t"))
    await desk.do(save(grant, "u"))
    await desk.create("b", "c", "d")
    await desk.claim()
    lost = [change.position for change in await feed(desk.store)][len(kept) :]
    await desk.store.close()
    shutil.copy(tmp_path / "backup.db", path)
    clock.advance(1)
    desk = Desk(await make_store(path, clock=clock), clock)

    async def expect(good: list[str], bad: list[str]) -> None:
        for position in good:
            await desk.store.changes(position)
        for position in bad:
            with pytest.raises(CursorExpired):
                await desk.store.changes(position)

    await expect(kept, lost)
    await desk.do(save(grant, "v"))
    await desk.do(save(grant, "w"))
    await desk.do(save(grant, "x"))
    await expect(kept, lost)
    await desk.create("e", "f", "g", "h")
    await expect(kept, lost)
    await desk.claim()
    await expect(kept, lost)


async def test_creates_are_told_after_the_newest_runs_are_removed(desk: Desk):
    """No seq is given twice, or a reader would take a new run for one that it has seen."""
    await desk.worker()
    await desk.create("a", "b", "c")
    await desk.claim()
    end = await desk.store.position()
    connection = writer(desk.store)
    for gone in ("c", "a", "b"):
        connection.execute("DELETE FROM run WHERE id = ?", (gone,))
        assert (await desk.store.changes(end)).changes == ()
    await desk.create("d")
    await desk.create("e")
    assert [change.run_id for change in await feed(desk.store, end)] == ["d", "e"]
    assert [run.run_id for run in await desk.store.list_runs(RunQuery())] == ["e", "d"]
    claims = [change.run_id for change in await feed(desk.store) if change.kind == "claimed"]
    assert claims == ["a", "b", "c"], "what is told of a run does not need it"
    connection.execute("DELETE FROM run WHERE namespace <> 0")
    assert connection.execute("SELECT count(*) FROM run").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


async def test_a_large_batch_is_several_rows(desk: Desk):
    """So that a reader of a few changes does not decode thousands."""
    await desk.worker()
    await desk.apply(*creates(2_500))
    await desk.claim(2_500)
    rows = writer(desk.store).execute("SELECT count(*) FROM feed").fetchone()
    assert rows == (3,)
    whole = await feed(desk.store)
    assert len(whole) == 5_000
    assert len({change.position for change in whole}) == 5_000
    for change in (whole[2_499], whole[2_500], whole[3_499], whole[3_500], whole[4_998]):
        at = whole.index(change)
        page = await desk.store.changes(change.position, 3)
        assert list(page.changes) == whole[at + 1 : at + 4]


async def test_a_lone_create_writes_no_row_of_the_feed(desk: Desk):
    """It is read from the run itself: another page in each commit would be a tenth of its time."""
    await desk.create("a")
    await desk.create("b")
    await desk.apply(*creates(50))
    assert writer(desk.store).execute("SELECT count(*) FROM feed").fetchone() == (0,)
    assert len(await feed(desk.store)) == 52


async def test_a_step_writes_no_row_of_the_feed(desk: Desk):
    """It is read from the checkpoint; only the first after a create says how they stand."""
    await desk.worker()
    await desk.create("a", "b")
    a, b = [grant_of(given) for given in (await desk.claim()).runs]

    def rows() -> int:
        count: int = writer(desk.store).execute("SELECT count(*) FROM feed").fetchone()[0]
        return count

    assert rows() == 1
    for k in range(5):
        await desk.do(save(a, k=k))
    await desk.apply(*[save(grant, k=number) for grant in (a, b) for number in range(5, 9)])
    assert rows() == 1
    await desk.create("c")
    await desk.do(save(a, k=9))
    assert rows() == 2
    await desk.do(save(a, k=10))
    assert rows() == 2
    paths = [(one.run_id, one.step and one.step.k) for one in await feed(desk.store)][4:]
    assert paths == [
        *[("a", k) for k in range(9)],
        *[("b", k) for k in range(5, 9)],
        ("c", None),
        ("a", 9),
        ("a", 10),
    ]


async def test_a_lone_step_is_one_statement_in_its_transaction(desk: Desk):
    """Nothing is asked first, while no other connection writes."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "a"))
    seen = statements(desk.store)
    await desk.do(save(grant, "b"))
    assert [text.split()[0] for text in seen] == ["BEGIN", "PRAGMA", "INSERT", "COMMIT"]


async def test_what_was_kept_of_removed_runs_goes_with_the_feed(desk: Desk):
    """Creates and steps that nobody can read any more leave nothing behind."""
    await desk.worker()
    grant = await desk.start()
    await desk.do(save(grant, "a"))
    await desk.settle(grant)
    whole = await feed(desk.store)
    assert await desk.do(Prune(10, older_than=0)) == Pruned(runs=1)

    def kept() -> int:
        count: int = writer(desk.store).execute("SELECT count(*) FROM feed_removed").fetchone()[0]
        return count

    assert kept() == 2
    assert await feed(desk.store) == whole
    desk.clock.advance(KEPT + 1)
    await desk.end("s")
    assert await desk.do(Prune(10, older_than=KEPT)) == Pruned()
    assert kept() == 0
    with pytest.raises(CursorExpired):
        await desk.store.changes(whole[1].position)


async def test_the_feed_keeps_so_many(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Whatever their age; who is further behind is told so."""
    monkeypatch.setattr(feeding, "MOST", 1_000)
    await desk.worker()
    beginning = await desk.store.position()
    for _ in range(30):
        await desk.apply(*creates(100))
        await desk.claim(100)
    kept = [change for change in await feed(desk.store) if change.kind == "claimed"]
    assert 1_000 <= len(kept) < 1_500
    with pytest.raises(CursorExpired):
        await desk.store.changes(beginning)


async def test_reading_changes_of_one_namespace_passes_over_no_row_of_another(
    make_store: MakeStore, desk: Desk
):
    """Each namespace has its own stretch of the table."""
    for text, parameters in (
        (feeding.FROM, (1 << 40, 2 << 40)),
        (feeding.WITH, (1 << 40, 2 << 40, 1)),
        (feeding.LAST, (1 << 40,)),
        (feeding.CREATES, (0, 9, 1, 100)),
        (feeding.CREATES_BACK, (0, 1, 10)),
        (feeding.STEPS, (0, 9, 1, 100)),
        (feeding.STEPS_BACK, (0, 1, 10)),
        (feeding.NEWEST_TOLD, (0,)),
    ):
        plan = writer(desk.store).execute(f"EXPLAIN QUERY PLAN {text}", parameters).fetchall()
        good = re.compile(
            "SEARCH .* USING (INTEGER PRIMARY KEY .*"
            r"|PRIMARY KEY \(namespace=\? AND kind=\? AND seq>\? AND seq<\?\))"
            r"|MERGE \(UNION ALL\)|LEFT|RIGHT"
        )
        assert [row[3] for row in plan if not good.fullmatch(row[3])] == [], text


async def test_an_upgraded_file_tells_nothing_of_what_was_before(tmp_path: Path):
    """Its runs were created before there was a feed."""
    path = tmp_path / "perdure.db"
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parents[1] / "golden" / "schema_1.sql").read_text())
    connection.execute(f"PRAGMA application_id={connecting.APPLICATION_ID}")
    connection.execute("PRAGMA user_version=1")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    store = SqliteStore(path)
    await store.open()
    try:
        assert await store.list_runs(RunQuery())
        assert await feed(store) == []
        await store.apply(creates(1))
        assert len(await feed(store)) == 1
    finally:
        await store.close()
