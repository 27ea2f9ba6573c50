"""A process that uses one SQLite store: ``FILE DIRECTORY ROLE OPTIONS``; see processes.py.

Roles: ``create`` creates runs until it is killed, or so many, and prints the id of each that was
acknowledged; ``live`` also claims and settles; ``open`` opens as somebody without rights; ``limit``
is told by the system that its files may not grow.
"""

# ruff: noqa: T201 -- a program that tells its test by printing

import asyncio
import json
import os
import resource
import signal
import sys
from pathlib import Path

from perdure.errors import OutcomeUnknown, StoreError
from perdure.ids import Ids
from perdure.model.records import Grant
from perdure.model.transitions import (
    Claim,
    Claimed,
    Completed,
    Created,
    CreateRun,
    RegisterWorker,
    Settle,
)
from perdure.stores.sqlite import SqliteStore

ids = Ids()


def creates(count: int) -> list[CreateRun]:
    return [CreateRun(ids.run_id(), "d", b'"input"', ids.token()) for _ in range(count)]


async def create(store: SqliteStore, *, batch: int = 10, total: int | None = None) -> None:
    """Create runs from three tasks at once."""
    left = total

    async def one() -> None:
        nonlocal left
        while left is None or left > 0:
            if left is not None:
                left -= batch
            new = creates(batch)
            assert await store.apply(new) == [Created(run.run_id) for run in new]
            print(*[run.run_id for run in new], sep="\n", flush=True)

    await asyncio.gather(one(), one(), one())


async def live(store: SqliteStore, *, total: int) -> None:
    """Create runs and bring them to their end, one batch after the other."""
    worker_id = ids.run_id()
    release = store.hold(worker_id)
    await store.apply([RegisterWorker(worker_id, "host", os.getpid(), {"d": ""}, ("default",), 9)])
    grants: list[Grant] = []
    done = 0
    while done < total:
        settles = [Settle(grant, Completed(b"null")) for grant in grants]
        claim = Claim(worker_id, ids.token(), ("d",), ("default",), 7)
        *_, claimed = await store.apply([*creates(5), *settles, claim])
        assert isinstance(claimed, Claimed)
        assert claimed.known
        done += len(settles)
        grants = [
            Grant(given.run.run_id, given.run.epoch, given.run.grant) for given in claimed.runs
        ]
    release()
    print("done", done, flush=True)


async def limit(store: SqliteStore) -> None:
    """Fail to commit, get room again, and apply the same batch once more."""
    await store.apply(creates(1))
    _limit_files(_size_of_log(store) + 2_000)
    new = creates(200)
    try:
        await store.apply(new)
    except OutcomeUnknown as error:
        print("unknown:", "apply the same batch again" in str(error), flush=True)
    _limit_files(None)
    print("again:", await store.apply(new) == [Created(run.run_id) for run in new], flush=True)


def _size_of_log(store: SqliteStore) -> int:
    return Path(f"{store.path}-wal").stat().st_size


def _limit_files(size: int | None) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if size is None else size, hard)
    )


ROLES = {"create": create, "live": live, "limit": limit}


async def main(directory: Path, role: str, options: dict) -> None:
    store = SqliteStore(Path(options.pop("path", directory / "perdure.db")))
    if role == "open":
        if os.geteuid() == 0:  # nothing is read-only for root
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            await store.open()
        except StoreError as error:
            print(type(error).__name__, error, flush=True)
        await store.close()
        return
    await store.open()
    await ROLES[role](store, **options)
    await store.close()
    print("closed", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
