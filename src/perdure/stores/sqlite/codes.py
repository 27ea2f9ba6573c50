"""How single values of records stand in the file: small numbers, packed ids, JSON lists.

The numbers are part of the file format and are listed in schema.sql; they may never change.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from perdure.model.changes import ChangeKind
from perdure.model.records import (
    Control,
    ParentClose,
    Rank,
    Status,
    StepKind,
    StepOutcome,
    Undoing,
    WaitKind,
)

StoredId: TypeAlias = bytes | str

STATUSES: Final = {
    0: Status.QUEUED,
    1: Status.RUNNING,
    2: Status.WAITING,
    3: Status.PAUSED,
    4: Status.COMPLETED,
    5: Status.FAILED,
    6: Status.CANCELLED,
}
RANKS: Final = {0: Rank.RESUMED, 1: Rank.FRESH, 2: Rank.SUSPECT}
CONTROLS: Final = {
    0: Control.NONE,
    1: Control.CANCEL,
    2: Control.PAUSE,
    3: Control.RESTART,
    4: Control.COMPENSATE,
}
PARENT_CLOSES: Final = {0: ParentClose.ABANDON, 1: ParentClose.CANCEL, 2: ParentClose.WAIT}
UNDOINGS: Final = {0: Undoing.NONE, 1: Undoing.CANCEL, 2: Undoing.COMPENSATE, 3: Undoing.FAILURE}
WAIT_KINDS: Final = {
    0: WaitKind.DELAY,
    1: WaitKind.RETRY,
    2: WaitKind.CHILD,
    3: WaitKind.SLEEP,
    4: WaitKind.EVENT,
}
STEP_KINDS: Final = {
    0: StepKind.STEP,
    1: StepKind.ENQUEUE,
    2: StepKind.CHILD,
    3: StepKind.SLEEP,
    4: StepKind.WAIT_FOR_EVENT,
    5: StepKind.PUBLISH,
    6: StepKind.SEND_EVENT,
    9: StepKind.PATCH,
    10: StepKind.ORIGIN,
}
STEP_OUTCOMES: Final = {
    0: StepOutcome.OK,
    1: StepOutcome.ERROR,
    2: StepOutcome.TIMEOUT,
    3: StepOutcome.PENDING,
    4: StepOutcome.CANCELLED,
}
CHANGE_KINDS: Final = {
    0: ChangeKind.CREATED,
    1: ChangeKind.CLAIMED,
    2: ChangeKind.SUSPENDED,
    3: ChangeKind.RETRY_SCHEDULED,
    4: ChangeKind.WOKEN,
    5: ChangeKind.RELEASED,
    6: ChangeKind.RESCUED,
    7: ChangeKind.PAUSED,
    8: ChangeKind.RESUMED,
    9: ChangeKind.RETRIED,
    10: ChangeKind.COMPLETED,
    11: ChangeKind.FAILED,
    12: ChangeKind.CANCELLED,
    13: ChangeKind.STEP,
    14: ChangeKind.RESTARTED,
    15: ChangeKind.UNDOING,
    16: ChangeKind.CONTINUED,
    17: ChangeKind.PROGRESS,
}

STATUS_CODES: Final = {status: code for code, status in STATUSES.items()}
PARENT_CLOSE_CODES: Final = {policy: code for code, policy in PARENT_CLOSES.items()}
UNDOING_CODES: Final = {undoing: code for code, undoing in UNDOINGS.items()}
CONTROL_CODES: Final = {control: code for code, control in CONTROLS.items()}
WAIT_KIND_CODES: Final = {kind: code for code, kind in WAIT_KINDS.items()}
STEP_KIND_CODES: Final = {kind: code for code, kind in STEP_KINDS.items()}
STEP_OUTCOME_CODES: Final = {outcome: code for code, outcome in STEP_OUTCOMES.items()}
CHANGE_KIND_CODES: Final = {kind: code for code, kind in CHANGE_KINDS.items()}

_encoder = msgspec.json.Encoder()
_texts = msgspec.json.Decoder(tuple[str, ...])
_mapping = msgspec.json.Decoder(dict[str, str])
_pairs = msgspec.json.Decoder(tuple[tuple[str, str], ...])


def pack_id(text: str) -> StoredId:
    """Return a canonical UUID as its 16 bytes, any other id as it is."""
    if len(text) != 36 or text[8] != "-" or text[13] != "-" or text[18] != "-" or text[23] != "-":
        return text
    try:
        packed = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        return text
    # fromhex skips blanks and takes capitals: what does not come back as it was stays a text.
    return packed if len(packed) == 16 and text.lower() == text else text


def unpack_id(stored: StoredId) -> str:
    """Return what :func:`pack_id` was given."""
    if type(stored) is str:
        return stored
    digits = stored.hex()  # type: ignore[union-attr]  # not narrowed by `type(…) is`, which is quick
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def pack_texts(texts: tuple[str, ...]) -> str | None:
    """Return texts as a JSON list; None for none."""
    return _encoder.encode(texts).decode() if texts else None


def unpack_texts(stored: str | None) -> tuple[str, ...]:
    """Return what :func:`pack_texts` was given."""
    return _texts.decode(stored) if stored else ()


def pack_pairs(pairs: tuple[tuple[str, str], ...]) -> str | None:
    """Return pairs of texts as a JSON list of lists; None for none."""
    return _encoder.encode(pairs).decode() if pairs else None


def unpack_pairs(stored: str | None) -> tuple[tuple[str, str], ...]:
    """Return what :func:`pack_pairs` was given."""
    return _pairs.decode(stored) if stored else ()


def pack_mapping(mapping: dict[str, str]) -> str:
    """Return texts by text as a JSON object."""
    return _encoder.encode(mapping).decode()


def unpack_mapping(stored: str) -> dict[str, str]:
    """Return what :func:`pack_mapping` was given."""
    return _mapping.decode(stored)
