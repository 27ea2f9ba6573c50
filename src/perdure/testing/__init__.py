"""The test kit: virtual time, fakes, crashes at every boundary, replay of histories."""

from perdure.testing.clock import VirtualClock, virtual_ports
from perdure.testing.crashing import Crashes, crash_everywhere
from perdure.testing.effects import Effects
from perdure.testing.failures import (
    Hung,
    KitFailure,
    NotCrashSafe,
    Orphaned,
    Swallowed,
    UnusedFake,
    WorkLeft,
)
from perdure.testing.fakes import Fake
from perdure.testing.histories import dump_history, load_history
from perdure.testing.kit import Enqueued, Kit
from perdure.testing.replaying import Replay, replay

__all__ = [
    "Crashes",
    "Effects",
    "Enqueued",
    "Fake",
    "Hung",
    "Kit",
    "KitFailure",
    "NotCrashSafe",
    "Orphaned",
    "Replay",
    "Swallowed",
    "UnusedFake",
    "VirtualClock",
    "WorkLeft",
    "crash_everywhere",
    "dump_history",
    "load_history",
    "replay",
    "virtual_ports",
]
