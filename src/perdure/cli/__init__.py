"""The command line ``perdure``: one module a command, loaded when it is asked for.

What lives here only talks: it reads and changes stores through the app, as everybody else does.
Nothing here is imported by ``import perdure``.
"""

from perdure.cli._main import main

__all__ = ["main"]
