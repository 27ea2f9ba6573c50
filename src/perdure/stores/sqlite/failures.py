"""What SQLite's errors mean for a caller: not applied, unknown, corrupt.

The result codes are those of https://www.sqlite.org/rescode.html.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from perdure.errors import (
    NotApplied,
    OutcomeUnknown,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
)

# What sqlite3 raises before a statement runs, for a value that no column can hold.
UNFIT_VALUES = (OverflowError, UnicodeError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, 0 where the error came from elsewhere."""
    code: int = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF


def is_busy(error: BaseException) -> bool:
    """Tell whether another connection holds what this one needs, so that it may try again."""
    busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
    return isinstance(error, sqlite3.Error) and primary_code(error) in busy


def store_error(error: Exception, path: Path, *, at_commit: bool = False) -> StoreError:
    """Return the error to raise instead of one of sqlite3's.

    Args:
        error: what was raised; the transaction is rolled back by now.
        path: of the file.
        at_commit: the commit itself failed: an I/O error then leaves open whether its frames
            reached the disk, so that after a crash they might be found there.
    """
    text = f"{path}: {error}"
    if isinstance(error, UNFIT_VALUES) or not isinstance(error, sqlite3.Error):
        return NotApplied(f"{path} cannot store a value of this batch: {error}")
    match primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return StoreBusy(f"{text}; another process has been writing for too long")
        case sqlite3.SQLITE_FULL:
            return StoreFull(f"{text}; nothing was lost, writing resumes when there is space")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
            return StoreReadOnly(f"{text}; the file and its directory must be writable")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorrupt(f"{text}; it is left as it is: repair it or restore a backup")
        case sqlite3.SQLITE_IOERR if at_commit:
            return OutcomeUnknown(f"{text} while committing; apply the same batch again")
        case sqlite3.SQLITE_TOOBIG | sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_MISMATCH:
            return NotApplied(f"{path} cannot store a value of this batch: {error}")
        case _:
            return NotApplied(text)
