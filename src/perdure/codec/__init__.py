"""The one strict codec: values to bytes and back, argument lists, fingerprints, error records.

A value passes the codec on the first run too (``round_trip``), so what the first run saw and what
a replay sees are equal in value and type. What cannot be represented is refused where it is
produced, with its path. Bytes are JSON in UTF-8; there is no pickle and no fallback.

- ``_refusal``: how "no" travels up with its path.
- ``_untyped``: values without an annotation, builtin extras under a tag.
- ``_shapes``, ``_classes``, ``_unions``, ``_pydantic``: values with an annotation, a class a kind.
- ``_build``: from an annotation to its shape.
- ``_schema``, ``_arguments``, ``_fingerprints``: what the rest of Perdure calls.
- ``failures``: errors as records; it is loaded by what meets one, and no definition does.
"""

from __future__ import annotations

from ._arguments import Arguments
from ._fingerprints import fingerprint
from ._schema import Schema, schema

__all__ = [
    "Arguments",
    "Schema",
    "fingerprint",
    "schema",
]
