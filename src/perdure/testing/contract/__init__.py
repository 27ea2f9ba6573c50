"""The contract suite: what every store must do, as tests to subclass; needs pytest-asyncio."""

from perdure.testing.contract.suite import Contract

__all__ = ["Contract"]
