"""Writing what a unit of work has decided so far, in the one order in which it is right."""

from __future__ import annotations

from perdure.stores.sqlite import saving, streams, waiting
from perdure.stores.sqlite.unit import Unit


def flush(unit: Unit) -> None:
    """Write everything: the tables then tell the truth about all that was decided.

    Raises:
        NotNew: a run that was taken for new is not.
    """
    saving.write(unit)
    streams.write(unit)
    unit.write_runs()
    waiting.write(unit)  # looks at the runs' statuses, and may wake some
    unit.write_runs()
