"""Every default in one table; the documentation prints it and a test reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

WORKFLOW_MAX_ATTEMPTS: Final = 1
JOB_MAX_ATTEMPTS: Final = 3
STEP_MAX_ATTEMPTS: Final = 3
STEP_TIMEOUT: Final = "1h"
JOB_TIMEOUT: Final = "1h"

CONCURRENCY: Final = 100
"""Runs that one worker executes at once."""
STEP_THREADS: Final = 32
"""Threads of one process for functions written with ``def``."""
QUEUE: Final = "default"
PRIORITY: Final = 0

LEASE: Final = "15s"
HEARTBEAT: Final = "5s"
POLL: Final = "1s"
"""Between polls of an idle worker, jittered down by up to a tenth."""
GRACE: Final = "25s"
"""What a graceful stop gives the bodies that are executing."""
CRASH_CAP: Final = 10
"""Claims in a row that may die without a new checkpoint."""

RETENTION: Final = "30d"
"""For which an ended run is kept."""
DECLINED_RETENTION: Final = "1d"
"""For which a run is kept that did not want the event that started it."""
EVENT_RETENTION: Final = "30d"
"""For which a published event is kept."""
CHANGES_KEPT: Final = "7d"
"""How long a change can be read."""
MOST_CHANGES: Final = 1_000_000
"""Of each namespace's changes the newest so many are kept, if they are not older than that."""

ON_PARENT_CLOSE: Final = "abandon"
"""What becomes of a run when its parent ends."""

PAYLOAD_LIMIT: Final = 1 << 20
"""Bytes of one encoded input, meta, result or error."""

PROGRESS_LIMIT: Final = 1 << 10
"""Bytes of what a run says of its progress: it stands in the row of the run."""

OF_DEFINITIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "workflow": {
        "max_attempts": WORKFLOW_MAX_ATTEMPTS,
        "timeout": None,
        "queue": QUEUE,
        "priority": PRIORITY,
        "retention": RETENTION,
    },
    "job": {
        "max_attempts": JOB_MAX_ATTEMPTS,
        "timeout": JOB_TIMEOUT,
        "queue": QUEUE,
        "priority": PRIORITY,
        "retention": RETENTION,
    },
}
"""What holds of a definition where neither it nor its app says otherwise, by its kind."""
