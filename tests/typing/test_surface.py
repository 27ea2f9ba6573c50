"""The public surface, used once, for mypy and pyright in strict mode; it also runs."""

from perdure._version import __version__


def test_version_is_text() -> None:
    """The version is a plain string."""
    version: str = __version__
    assert version
