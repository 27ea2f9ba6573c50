"""Patches: by which of two codes a run goes, decided once and recorded.

A run that reaches a patch while there are records of it that its body has not asked for yet has
passed this place before the patch was there: it goes by the old code. Any other goes by the new
one. What was decided holds for the run, wherever it comes by that name again, also after later
steps are recorded; so it is recorded itself, in the order in which it was decided and without
being waited for: what is recorded after it finds it, and where a kill loses it, it has lost
everything after it, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure._engine.journal import TAKEN
from perdure.model.records import StepKey, StepKind, StepOutcome
from perdure.model.transitions import SaveCheckpoint

if TYPE_CHECKING:
    from perdure._engine.activation import Activation

NOT_TAKEN: Final = b"false"

FINGERPRINT: Final = b"perdure.patched\0"
"""Sets a patch apart from a step of its name."""


def decide(activation: Activation, name: str, site: str) -> bool:
    """Return whether a run goes by the new code, and record what was not decided before."""
    patches = activation.journal.patches
    decided = patches.get(name)
    if decided is None:
        # One of two threads that come here at once decides for both.
        decided = patches.setdefault(name, not activation.journal.replaying)
        activation.record_soon(_record(activation, name, site, taken=decided), name)
    return decided


def _record(activation: Activation, name: str, site: str, *, taken: bool) -> SaveCheckpoint:
    at = activation.engine.store_now()
    return SaveCheckpoint(
        activation.grant,
        StepKey(b"", name, FINGERPRINT, 0),
        0,
        StepKind.PATCH,
        StepOutcome.OK,
        TAKEN if taken else NOT_TAKEN,
        started_at=at,
        ended_at=at,
        site=site,
    )
