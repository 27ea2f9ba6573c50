"""How a test kit fails a test: each way has a name, and all of them are assertion errors.

AssertionError
└── KitFailure
    ├── Hung                 nothing moves, and nothing that the kit can do will change that
    ├── WorkLeft             the test ended with runs that had not
    ├── Swallowed            a body went on after it was told to leave
    ├── Orphaned             a run ended without asking for steps that it had recorded
    ├── UnusedFake           a step was replaced that nothing called
    └── NotCrashSafe         crashed at some boundary, a workflow came to another end
"""

from __future__ import annotations


class KitFailure(AssertionError):
    """Base of what a test kit found wrong with the code under test."""


class Hung(KitFailure):
    """A body, or the test itself, waits for something that neither work nor time brings."""


class WorkLeft(KitFailure):
    """Runs have not ended at the end of the test, and it had not said that they would not."""


class Swallowed(KitFailure):
    """A body returned, raised or stayed after it was told to leave its worker."""


class Orphaned(KitFailure):
    """A run completed although its code did not ask for steps that were recorded."""


class UnusedFake(KitFailure):
    """A step with a computed name was to be replaced, and no step of that name was called."""


class NotCrashSafe(KitFailure):
    """Killed at a boundary and continued, a workflow did not come to its undisturbed end."""
