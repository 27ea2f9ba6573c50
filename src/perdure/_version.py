"""The version, alone: the build reads it here, so that importing the package reads no metadata."""

__version__ = "0.1.0.dev0"
