"""Progress: how far a run says it is. One value, the last one, beside the run's other columns.

It is no record of anything: nothing is replayed from it, and what a run says is written at most a
few times a second. It stands until the run says something else, also after its end, and goes on to
stand when the run is restarted or continues as new; a fork begins without any.
"""

from __future__ import annotations

import msgspec

from perdure.model.records import Grant


class SetProgress(msgspec.Struct, frozen=True, gc=False):
    """Keep how far a run says it is, in the place of what it said before.

    Key: the value: where that is kept already, nothing changes; also where the claim was settled
    since, as long as the run was not claimed again.
    Guard: the grant is current and the run ``running``.
    The change feed tells that it was said, with the kind ``progress``, and a hint is given.
    Answers: Saved · Fenced.

    Args:
        grant: of the run.
        value: encoded; small, because it stands in the run's row.
    """

    grant: Grant
    value: bytes
