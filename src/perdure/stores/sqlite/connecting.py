"""Opening the file: is it ours, whole and not too new; creating the schema; settings.

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
from perdure.errors import SchemaTooNew, StoreCorrupt, StoreReadOnly
from perdure.stores.sqlite.failures import store_error

APPLICATION_ID: Final = 0x50657264  # "Perd"
SCHEMA_VERSION: Final = 1
SYNCHRONOUS: Final = {"normal": 1, "full": 2}

_HEADER = b"SQLite format 3\0"
_CACHE_KIB = 2_000  # of pages in memory a connection: an idle worker is to stay small
_SCHEMA = resources.files("perdure.stores.sqlite").joinpath("schema.sql")


def connect(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """Return a connection to the file, which :func:`prepare` has seen, with its settings.

    Raises:
        sqlite3.Error: as it comes; busy is up to the caller.
    """
    connection = sqlite3.connect(
        _uri(path, "rw"),
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
        # Debian compiles it in; overwriting freed bytes with zeros writes 10 % more pages.
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("PRAGMA trusted_schema=OFF")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(path: Path) -> None:
    """Create the file or verify that it is ours; then see to the log and the schema.

    Raises:
        StoreCorrupt: it is damaged, or something else than a database of Perdure.
        SchemaTooNew: a newer version of Perdure wrote it.
        StoreReadOnly: it cannot be created or written.
        sqlite3.Error: as it comes; busy is up to the caller.
    """
    if not path.parent.is_dir():
        raise StoreReadOnly(f"cannot create {path}: {path.parent} is no directory; create it first")
    try:
        make_private_file(path)
        found = path.stat()
    except OSError as error:
        raise StoreReadOnly(f"cannot open {path} for writing: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreReadOnly(f"{path} is no regular file")
    if found.st_size:
        _check_bytes(path, found.st_size)
        if _version(path) == SCHEMA_VERSION:
            return
    _create(path)


def _check_bytes(path: Path, size: int) -> None:
    """Look at the header as the file format describes it, without opening a database."""
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(_HEADER):
        raise StoreCorrupt(f"{path} is not a SQLite database; it is left as it is")
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    pages = int.from_bytes(header[28:32], "big")
    pages_are_told = header[24:28] == header[92:96]
    log = Path(f"{path}-wal")
    has_log = log.exists() and log.stat().st_size > 0  # pages may still be in there
    if len(header) < 100 or (pages_are_told and not has_log and size < pages * page_size):
        raise StoreCorrupt(
            f"{path} has {size} bytes and should have {pages * page_size}: it was cut off;"
            " it is left as it is: restore a backup"
        )


def _version(path: Path) -> int:
    """Return the version of the file's schema, 0 for an empty database."""
    connection = sqlite3.connect(_uri(path, "ro"), uri=True, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master").fetchall()
        }
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise store_error(error, path) from error
    finally:
        connection.close()
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreCorrupt(
            f"{path} is the database of another application (application_id {application},"
            f" {len(tables)} tables and indexes); it is left as it is: choose another path"
        )
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema {version} and this version of Perdure knows {SCHEMA_VERSION};"
            " upgrade Perdure"
        )
    if version and not {"run", "checkpoint", "name"} <= tables:
        raise StoreCorrupt(f"{path} has lost tables; it is left as it is: restore a backup")
    return int(version)


def _create(path: Path) -> None:
    connection = sqlite3.connect(_uri(path, "rw"), uri=True, timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:  # nobody was quicker
            for statement in _statements(_SCHEMA.read_text("utf-8")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _statements(script: str) -> list[str]:
    """Cut a script at the semicolons that end its lines; executescript would commit first."""
    bare = "\n".join(line.partition("--")[0].rstrip() for line in script.splitlines())
    return [statement for statement in bare.split(";\n") if statement.strip()]


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
