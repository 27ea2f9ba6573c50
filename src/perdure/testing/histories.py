"""Recorded histories as JSON: to keep beside a test, to attach to a report, to replay."""

from __future__ import annotations

from typing import Final

import msgspec

from perdure.errors import InvalidValue
from perdure.model.records import History

FORMAT: Final = 1
"""Rises when an older version could not read it any more."""


class _Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    perdure_history: int
    history: History


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Recording)


def dump_history(history: History) -> str:
    """Return a history as JSON text; the payloads in it are base64, exactly as stored."""
    return _encoder.encode(_Recording(FORMAT, history)).decode()


def load_history(text: str | bytes) -> History:
    """Return the history that :func:`dump_history` made into text.

    Raises:
        InvalidValue: the text is none, or of a format that this version does not know.
    """
    try:
        recording = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"this is no recorded history: {error}") from error
    if recording.perdure_history != FORMAT:
        raise InvalidValue(
            f"this history has format {recording.perdure_history}, this version reads {FORMAT}; "
            "record it again, or use the version that recorded it"
        )
    return recording.history
