"""``perdure completion``: the script that a shell loads to complete commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from perdure.cli._failures import ExitCode


@click.command("completion", short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, /, *, shell: str) -> int:
    r"""Print a script that completes the commands and options of perdure in a shell.

    \b
    bash:  perdure completion bash > ~/.local/share/bash-completion/completions/perdure
    zsh:   perdure completion zsh > "${fpath[1]}/_perdure"
    fish:  perdure completion fish > ~/.config/fish/completions/perdure.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "perdure", "_PERDURE_COMPLETE").source())
    return ExitCode.OK
