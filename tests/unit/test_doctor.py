"""The doctor finds what was damaged on purpose, names it, and leaves a busy store in peace."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure._runtime.doctor import Report, examine
from perdure.codec.failures import encode_error
from perdure.model.leader import TakeLead
from perdure.model.records import History, RunRecord, Status
from perdure.model.streams import WriteStream
from perdure.model.transitions import Failed
from perdure.stores.memory import MemoryData, MemoryStore
from perdure.stores.sqlite import SqliteStore
from perdure.testing.contract.desk import DONE, Desk, ManualClock, child, save, timer


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store with a run in every status; all of it is as it should be."""
    store = SqliteStore(tmp_path / "perdure.db")
    await store.open()
    desk = Desk(store, ManualClock())
    await desk.worker()
    await desk.end("completed", DONE)
    await desk.end("failed", Failed(encode_error(ValueError("boom"))))
    await desk.create("cancelled")
    await desk.cancel("cancelled")
    grant = await desk.start("parent")
    await desk.do(save(grant, "step"))
    await desk.apply(*(WriteStream(grant, "lines", b"", "", k, b"1", 0) for k in range(2)))
    await desk.suspend(grant, child("queued"))
    await desk.suspend(await desk.start("sleeping"), timer(2**60))
    await desk.start("running")
    await desk.create("queued", unique_key="k")
    await desk.create("other", definition="e", unique_key="k")
    yield store
    await store.close()


def damage(store: SqliteStore, *statements: str) -> None:
    """Change the file behind the store's back."""
    connection = sqlite3.connect(store.path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def found(report: Report) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.run_id) for finding in report.findings]


async def test_a_leader_that_is_nobody_is_found(store: SqliteStore):
    """Nobody would take the lead from it, and nothing would ever fire."""
    await store.apply([TakeLead("w", 1)])
    assert (await examine(store)).findings == ()
    damage(store, "UPDATE leader SET worker = (SELECT max(id) FROM name)")
    [finding] = [one for one in (await examine(store)).findings if one.code == "leader"]
    assert "leads in term 1, and it is not registered" in finding.message


async def test_a_healthy_store_has_no_findings(store: SqliteStore):
    """Every run was looked at."""
    report = await examine(store)
    assert report.findings == ()
    assert report.runs == 8


async def test_an_empty_store_is_healthy():
    """There is nothing to look at."""
    store = MemoryStore(data=MemoryData())
    await store.open()
    assert await examine(store) == Report(0, ())


DAMAGES = {
    "UPDATE run SET claimed_at = NULL WHERE id = 'running'": ("claim-times", "running"),
    "DELETE FROM worker": ("lost-holder", "running"),
    "UPDATE run SET grant_token = 0 WHERE id = 'running'": ("no-grant", "running"),
    "UPDATE run SET finished_at = NULL WHERE id = 'completed'": ("finish-time", "completed"),
    "UPDATE run SET due_at = 1 WHERE id = 'queued'": ("due-time", "queued"),
    "UPDATE run SET control = 1 WHERE id = 'parent'": ("control-word", "parent"),
    "UPDATE run SET attaches = 1 WHERE id = 'completed'": ("attached-left", "completed"),
    "UPDATE run SET rank = 0 WHERE id = 'queued'": ("rank", "queued"),
    "UPDATE run SET waiting_for = NULL WHERE id = 'parent'": ("waiting-for", "parent"),
    "UPDATE run SET result = NULL WHERE id = 'completed'": ("outcome", "completed"),
    "UPDATE run SET error = NULL WHERE id = 'failed'": ("outcome", "failed"),
    "UPDATE run SET reason = 'x' WHERE id = 'cancelled'": ("outcome", "cancelled"),
    "UPDATE checkpoint SET epoch = 9": ("step-epoch", "parent"),
    "UPDATE checkpoint SET due_at = 1": ("step-due", "parent"),
    "INSERT INTO attempt (run, number, epoch, ended_at, outcome)"
    " SELECT seq, 7, 1, 0, 'failed' FROM run WHERE id = 'failed'": ("attempt", "failed"),
    "INSERT INTO wait SELECT seq, 0, namespace, 0, 'x', 1, 0, 1, NULL FROM run"
    " WHERE id = 'failed'": (
        "waits-kept",
        "failed",
    ),
    "DELETE FROM wait": ("never-woken", "parent"),
    "DELETE FROM entry WHERE number = 2": ("stream", "parent"),
    "UPDATE stream SET entries = 3": ("stream", "parent"),
    "UPDATE entry SET generation = 1": ("stream-generation", "parent"),
    "UPDATE wait SET key = 'completed' WHERE kind = 2": ("join-missed", "parent"),
}


@pytest.mark.parametrize("statement", DAMAGES)
async def test_planted_damage_is_found(store: SqliteStore, statement: str):
    """One thing is wrong in the file; it is named, with its run and a sentence, and little else."""
    damage(store, statement)
    report = await examine(store)
    assert DAMAGES[statement] in found(report)
    assert len(report.findings) <= 2
    assert all(finding.message for finding in report.findings)


async def test_an_error_that_cannot_be_read(store: SqliteStore):
    """Of a run, an attempt or a step: bodies and people are told what is in it."""
    damage(store, "UPDATE run SET error = CAST('{}' AS BLOB) WHERE id = 'failed'")
    assert ("error-damaged", "failed") in found(await examine(store))


async def test_two_unfinished_runs_of_one_key(store: SqliteStore):
    """Of the two the older is named, with the newer; a key of another definition is another key."""
    damage(store, "DROP INDEX run_unique", "UPDATE run SET unique_key = 'k' WHERE id = 'parent'")
    [finding] = (await examine(store)).findings
    assert (finding.code, finding.run_id) == ("unique-key", "parent")
    assert "'queued'" in finding.message


async def test_what_cannot_be_read_is_a_finding(store: SqliteStore):
    """A status that does not exist: the runs before it are looked at, and the place is named."""
    damage(store, "UPDATE run SET status = 9 WHERE id = 'failed'")
    report = await examine(store)
    assert found(report) == [("unreadable", None)]
    assert report.runs == 6
    [finding] = report.findings
    assert "created before number 3 cannot be listed" in finding.message


async def test_the_stores_own_check_is_asked(store: SqliteStore):
    """An index that does not fit its table is found by SQLite."""
    damage(
        store,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_master SET sql = 'CREATE INDEX attempt_run ON attempt (number)'"
        " WHERE name = 'attempt_run'",
    )
    damage(
        store,
        "INSERT INTO attempt (run, number, epoch, ended_at, outcome)"
        " SELECT seq, 1, 1, 0, 'failed' FROM run WHERE id = 'failed'",
    )
    damage(
        store,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_master SET sql = 'CREATE INDEX attempt_run ON attempt (run)'"
        " WHERE name = 'attempt_run'",
    )
    again = SqliteStore(store.path)
    await again.open()
    assert ("damage", None) in found(await examine(again))
    await again.close()


class Moving(MemoryStore):
    """A store in which something happens between two reads of the doctor."""

    between: Callable[[], Any] | None = None

    async def get(self, run_id: str) -> RunRecord | None:
        """Return the run, after something has happened."""
        if self.between is not None:
            await self.between()
        return await super().get(run_id)


async def test_what_happens_meanwhile_is_no_finding():
    """A run that ends between two reads of it is not damaged."""
    store = Moving(data=MemoryData())
    await store.open()
    desk = Desk(store, ManualClock())
    await desk.worker()
    grant = await desk.start("r")

    async def end() -> None:
        store.between = None
        await desk.settle(grant)

    store.between = end
    assert await examine(store) == Report(1, ())
    assert await desk.status("r") is Status.COMPLETED


async def test_a_run_that_is_gone_meanwhile_is_no_finding():
    """Retention may end while the doctor is at work."""

    class Forgetful(MemoryStore):
        async def history(self, run_id: str) -> History | None:
            return None

    store = Forgetful(data=MemoryData())
    await store.open()
    await Desk(store, ManualClock()).create("r")
    assert await examine(store) == Report(1, ())
