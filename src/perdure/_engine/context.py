"""What a call may say about one run, and what a body is handed about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.codec import Schema, schema
from perdure.context import Context
from perdure.errors import DefinitionError, InvalidValue, UsageError, shown
from perdure.model.records import RunRecord
from perdure.retry import Backoff, RetryPolicy

PLAIN_META = dict[str, Any]
"""What meta is where an app says nothing of it: a mapping of names to plain values."""

_EMPTY = b"{}"


class MetaSchema:
    """What the calls of an app may give as meta, and what its bodies are handed of it.

    Args:
        annotation: a TypedDict, dataclass, pydantic model or msgspec struct, or ``PLAIN_META``.

    Raises:
        DefinitionError: it is none of them.
    """

    def __init__(self, annotation: Any = PLAIN_META) -> None:
        self._plain = annotation == PLAIN_META
        if not (self._plain or (isinstance(annotation, type) and _has_fields(annotation))):
            raise DefinitionError(
                "an app's meta is declared by a TypedDict, a dataclass, a pydantic model or a "
                f"msgspec struct, got {shown(annotation)}"
            )
        self._schema: Schema[Any] = schema(annotation)
        self._name: str = getattr(annotation, "__name__", repr(annotation))

    def encode(self, given: object) -> bytes | None:
        """Return what a call gave as bytes; None where it gave nothing, and may.

        Raises:
            InvalidValue: it does not fit.
            UsageError: the app has no schema for it, and it is no mapping.
        """
        if given is None:
            self.decode(None)
            return None
        if not self._plain:
            return self._schema.encode(given, verb="meta got")
        if not isinstance(given, Mapping):
            raise UsageError(
                f"meta is a mapping of names to values, got {shown(given)}; App(meta=…) takes a "
                "class for it"
            )
        return self._schema.encode({**given}, verb="meta got")

    def decode(self, data: bytes | None) -> Any:
        """Return what a body is handed.

        Raises:
            InvalidValue: what is stored does not fit, or the call gave nothing and must.
        """
        if data is not None:
            return self._schema.decode(data)
        if self._plain:
            return {}
        try:
            return self._schema.decode(_EMPTY)
        except InvalidValue as error:
            raise InvalidValue(
                f"a call without meta, where this app's {self._name} requires a value at "
                f"{error.path}; write options(meta={self._name}(…))",
                path=error.path,
            ) from error

    def seen(self, given: object) -> Any:
        """Return what a body is handed of what a call gave, without storing it.

        Raises:
            InvalidValue, UsageError: as :meth:`encode`.
        """
        return self.decode(self.encode(given))


def _has_fields(cls: Any) -> bool:
    marks = ("__total__", "__dataclass_fields__", "__struct_fields__", "__pydantic_validator__")
    return any(hasattr(cls, mark) for mark in marks)


class CallOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call overrides for its run alone; stored with it."""

    max_attempts: int | None = None
    backoff: Backoff | None = None
    timeout: float | None = None

    def policy(self, policy: RetryPolicy) -> RetryPolicy:
        """Return the definition's policy as this call wants it."""
        if self.max_attempts is not None:
            policy = msgspec.structs.replace(policy, max_attempts=self.max_attempts)
        if self.backoff is not None:
            policy = msgspec.structs.replace(policy, backoff=self.backoff)
        return policy


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CallOptions)
_none = CallOptions()


def encode_options(options: CallOptions) -> bytes | None:
    """Return what is stored; None where nothing is overridden."""
    return None if options == _none else _encoder.encode(options)


def call_options(run: RunRecord) -> CallOptions:
    """Return what the call that made this run overrode."""
    return _none if run.options is None else _decoder.decode(run.options)


def make_context(run: RunRecord, services: Any, meta: Any) -> Context[Any, Any]:
    """Return what a body that asks for its context is handed."""
    return Context(services, meta, run.run_id, run.attempt)
