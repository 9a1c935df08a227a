# SPDX-License-Identifier: Apache-2.0
"""``pliant completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  pliant completion bash > /etc/bash_completion.d/pliant
    zsh:   pliant completion zsh > "${fpath[1]}/_pliant"
    fish:  pliant completion fish > ~/.config/fish/completions/pliant.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "pliant", "_PLIANT_COMPLETE").source())
