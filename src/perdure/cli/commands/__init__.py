"""One module a command; each has a ``command``. The table of them is in ``perdure.cli._main``."""
