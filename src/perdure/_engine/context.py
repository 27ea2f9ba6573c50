"""What a call may say about one run, and what a body is handed about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from perdure.codec import schema
from perdure.context import Context
from perdure.model.records import RunRecord
from perdure.retry import RetryPolicy

meta_schema = schema(dict[str, Any])
"""Meta is a mapping of names to values; it gets a schema of its own with typed meta."""


class CallOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call overrides for its run alone; stored with it."""

    max_attempts: int | None = None

    def policy(self, policy: RetryPolicy) -> RetryPolicy:
        """Return the definition's policy as this call wants it."""
        if self.max_attempts is None:
            return policy
        return replace(policy, max_attempts=self.max_attempts)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CallOptions)
_none = CallOptions()


def encode_options(options: CallOptions) -> bytes | None:
    """Return what is stored; None where nothing is overridden."""
    return None if options == _none else _encoder.encode(options)


def call_options(run: RunRecord) -> CallOptions:
    """Return what the call that made this run overrode."""
    return _none if run.options is None else _decoder.decode(run.options)


def make_context(run: RunRecord, services: Any) -> Context[Any]:
    """Return what a body that asks for its context is handed."""
    meta: dict[str, Any] = {} if run.meta is None else meta_schema.decode(run.meta)
    return Context(services=services, meta=meta, run_id=run.run_id, attempt=run.attempt)
