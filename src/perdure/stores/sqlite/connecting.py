"""Opening the file: is it ours, whole and not too new; creating and upgrading the schema; settings.

A file that is not ours or is damaged is looked at read-only and left byte for byte as it is.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import quote

from perdure._platform import make_private_file
from perdure.errors import SchemaTooNew, StoreCorrupt, StoreError, StoreReadOnly

APPLICATION_ID: Final = 0x50657264  # "Perd"
SCHEMA_VERSION: Final = 2
SYNCHRONOUS: Final = {"normal": 1, "full": 2}

_OLDEST: Final = (3, 33)  # knows UPDATE FROM
_SMALLEST: Final = 512  # bytes of a database with one page of the smallest size
_LONGEST_LOG: Final = 16 << 20  # bytes that it keeps after a transaction that made it longer
_CHECKPOINT: Final = 1_000  # pages of the log after which it is copied back
_LONG_LOG: Final = 32 + _CHECKPOINT * (24 + 4_096)  # bytes: its header, a header and a page each
_CACHE_KIB = 2_000  # of pages in memory a connection: an idle worker is to stay small
_HERE = resources.files("perdure.stores.sqlite")


def connect(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """Return a connection to the file, which :func:`prepare` has seen, with its settings.

    Raises:
        sqlite3.Error: as it comes; busy is up to the caller.
    """
    connection = sqlite3.connect(
        _uri(path, "mode=rw"),
        uri=True,
        timeout=0,  # waiting is the caller's business: it knows how long
        isolation_level=None,
        check_same_thread=False,
        cached_statements=400,
    )
    try:
        connection.execute(f"PRAGMA synchronous={SYNCHRONOUS[synchronous]}")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        connection.execute("PRAGMA temp_store=MEMORY")
        # The log is copied back by the commit that finds it 1,000 pages long: that takes 1 ms, 12
        # with pages scattered over 50 MiB. Doing it in another thread or from another connection
        # was measured: the log grows to 3 to 6 times that, and the slowest 1 % get slower.
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT}")
        connection.execute(f"PRAGMA journal_size_limit={_LONGEST_LOG}")
        # Debian compiles it in; overwriting freed bytes with zeros writes 10 % more pages.
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("PRAGMA trusted_schema=OFF")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def lengthen_log(connection: sqlite3.Connection, path: Path) -> None:
    """Give the write-ahead log the length that it will have anyway, all at once.

    A commit that makes the log longer waits for the file system's own journal, too: 250 us against
    120 for one that finds room. SQLite takes what follows its last frame for nothing, because its
    checksums do not fit. Whoever holds the write lock is alone with the log, so nobody appends
    meanwhile. A disk without room for it is left as it was.

    Raises:
        sqlite3.Error: others are writing.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        log = os.open(f"{path}-wal", os.O_WRONLY | getattr(os, "O_BINARY", 0))
        try:
            _lengthen(log)
        finally:
            os.close(log)
    except OSError:
        return  # it grows by itself, as ever
    finally:
        connection.execute("COMMIT")


def _lengthen(log: int) -> None:
    size = os.fstat(log).st_size
    try:
        os.lseek(log, size, os.SEEK_SET)
        while (missing := _LONG_LOG - os.fstat(log).st_size) > 0:
            os.write(log, bytes(missing))
        os.fsync(log)
    except OSError:
        os.ftruncate(log, size)
        raise


def prepare(path: Path) -> None:
    """Create the file or verify that it is ours; then see to the log and the schema.

    An older schema is upgraded in one transaction. Upgrades only add, so that processes of the
    version before, which have the file open, go on undisturbed.

    The file is never opened here but by SQLite: closing any descriptor of it gives up the locks
    that other connections of this process hold (POSIX advisory locks;
    https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Raises:
        StoreError: this Python's SQLite is too old.
        StoreCorrupt: it is damaged, or something else than a database of Perdure.
        SchemaTooNew: a newer version of Perdure wrote it.
        StoreReadOnly: it cannot be created or written.
        sqlite3.Error: as it comes; busy is up to the caller.
    """
    _check_place(path)
    try:
        make_private_file(path)
    except OSError as error:
        raise StoreReadOnly(f"cannot open {path} for writing: {error.strerror}") from error
    if not _is_ready(path):
        _bring_up(path)


def plan(path: Path) -> list[str]:
    """Return what :func:`prepare` would create or change, a sentence each; change nothing.

    Raises:
        as :func:`prepare`.
    """
    _check_place(path)
    if not path.exists():
        return [f"create {path} with schema {SCHEMA_VERSION}"]
    if _is_ready(path):
        return []
    version = _version(path)
    if version:
        return [f"upgrade {path} from schema {version} to {SCHEMA_VERSION}"]
    return [f"create schema {SCHEMA_VERSION} in {path}, which is empty"]


def _check_place(path: Path) -> None:
    if sqlite3.sqlite_version_info < _OLDEST:
        raise StoreError(
            f"the SQLite store needs SQLite {'.'.join(map(str, _OLDEST))} or later, and this Python"
            f" has {sqlite3.sqlite_version}"
        )
    if not path.parent.is_dir():
        raise StoreReadOnly(f"cannot create {path}: {path.parent} is no directory; create it first")


def _is_ready(path: Path) -> bool:
    """Tell whether the file has the schema of this version; False for an empty one."""
    try:
        found = path.stat()
    except OSError as error:
        raise StoreReadOnly(f"cannot open {path} for writing: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreReadOnly(f"{path} is no regular file")
    if 0 < found.st_size < _SMALLEST:  # SQLite would take it for empty
        raise StoreCorrupt(f"{path} is not a SQLite database; it is left as it is")
    return found.st_size > 0 and _version(path) == SCHEMA_VERSION


def _version(path: Path) -> int:
    """Return the version of the file's schema, 0 for an empty database; change nothing."""
    log = Path(f"{path}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    # Without a log, nobody is writing and even a read-only connection would make one.
    how = "mode=ro" if has_log else "mode=ro&immutable=1"
    connection = sqlite3.connect(_uri(path, how), uri=True, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN")
        version = _ask(connection, "PRAGMA user_version")
        pages = _ask(connection, "PRAGMA page_count")
        page_size = _ask(connection, "PRAGMA page_size")
        names = _refuse_others(path, connection)
    except sqlite3.DatabaseError:
        if log.exists() and not has_log:
            return _version(path)  # somebody has begun to write meanwhile
        raise
    finally:
        connection.close()
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema {version} and this version of Perdure knows {SCHEMA_VERSION};"
            " upgrade Perdure"
        )
    if version and not names >= _names_of(version):
        lost = ", ".join(sorted(_names_of(version) - names))
        raise StoreCorrupt(f"{path} has lost {lost}; it is left as it is: restore a backup")
    size = path.stat().st_size
    if not has_log and size < pages * page_size:
        raise StoreCorrupt(
            f"{path} has {size} bytes and should have {pages * page_size}: it was cut off;"
            " it is left as it is: restore a backup"
        )
    return version


def _refuse_others(path: Path, connection: sqlite3.Connection) -> set[str]:
    """Return the names of the schema, unless it is that of another application."""
    application = _ask(connection, "PRAGMA application_id")
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master").fetchall()}
    if application != APPLICATION_ID and (application or names):
        raise StoreCorrupt(
            f"{path} is the database of another application (application_id {application},"
            f" {len(names)} tables and indexes); it is left as it is: choose another path"
        )
    return names


def _ask(connection: sqlite3.Connection, question: str) -> int:
    (answer,) = connection.execute(question).fetchone()
    return int(answer)


def _bring_up(path: Path) -> None:
    """Create the schema in an empty file, or upgrade an older one."""
    connection = sqlite3.connect(_uri(path, "mode=rw"), uri=True, timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        version = _ask(connection, "PRAGMA user_version")
        if version == 0:
            _refuse_others(path, connection)
            statements = _SCHEMA
        else:  # nothing is left to do where somebody was quicker
            later = range(version + 1, SCHEMA_VERSION + 1)
            statements = [statement for number in later for statement in _UPGRADES[number]]
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _statements(script: str) -> list[str]:
    """Cut a script at the semicolons that end its lines; executescript would commit first."""
    bare = "\n".join(line.partition("--")[0].rstrip() for line in script.splitlines())
    return [statement.strip() for statement in bare.split(";\n") if statement.strip()]


def _uri(path: Path, how: str) -> str:
    return f"file:{quote(os.fsencode(path.absolute()))}?{how}"


def _created_by(statements: list[str]) -> frozenset[str]:
    """Return the names of the tables, indexes and views that statements create."""
    return frozenset(
        statement.removeprefix("CREATE UNIQUE").removeprefix("CREATE").split()[1]
        for statement in statements
        if statement.startswith("CREATE")
    )


def _names_of(version: int) -> frozenset[str]:
    """Return what a file of a schema has at least: upgrades only add."""
    later = range(version + 1, SCHEMA_VERSION + 1)
    return _created_by(_SCHEMA).difference(*(_created_by(_UPGRADES[number]) for number in later))


_SCHEMA: Final = _statements(_HERE.joinpath("schema.sql").read_text("utf-8"))
_UPGRADES: Final = {
    number: _statements(_HERE.joinpath("upgrades", f"{number}.sql").read_text("utf-8"))
    for number in range(2, SCHEMA_VERSION + 1)
}
