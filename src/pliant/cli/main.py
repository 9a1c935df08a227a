# SPDX-License-Identifier: Apache-2.0
"""The ``pliant`` command: its subcommands, loaded when they are used, and how it fails."""

from __future__ import annotations

import importlib
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from pliant import __version__
from pliant.errors import PliantError

COMMANDS = {
    "agent": ("pliant.cli.agent:agent", "Keep this host as its policies ask for."),
    "apply": ("pliant.cli.apply:apply", "Put policies in force on this host."),
    "audit": ("pliant.cli.audit:audit", "Show and check the record of every change."),
    "bench": ("pliant.bench.command:bench", "Measure what Pliant costs and how fast it is."),
    "capture": ("pliant.cli.capture:capture", "Show packets, accelerated ones included."),
    "completion": ("pliant.cli.completion:completion", "Print a shell completion script."),
    "delete": ("pliant.cli.delete:delete", "Take policies away."),
    "demo": ("pliant.demo.command:demo", "Show the main job on real traffic, before and after."),
    "describe": ("pliant.cli.describe:describe", "Show everything about one policy."),
    "diff": ("pliant.cli.diff:diff", "Show what apply would change."),
    "doctor": ("pliant.cli.doctor:doctor", "Check what this host can do, and whether all is well."),
    "effect": ("pliant.cli.effect:effect", "Say what policies are worth: treated against held out."),
    "events": ("pliant.cli.events:events", "Show what happened on this host."),
    "explain": ("pliant.cli.explain:explain", "Say what a connection or a packet gets, and why."),
    "fastpath": (
        "pliant.cli.fastpath:fastpath",
        "Speed up what the kernel is configured to do with packets.",
    ),
    "get": ("pliant.cli.get:get", "List policies, services, features, controls, sysctls or connections."),
    "history": ("pliant.cli.history:history", "List the generations of this host, or the steps of one."),
    "off": ("pliant.cli.off:off", "Take everything of Pliant off this host, or switch off some of it."),
    "on": ("pliant.cli.on:on", "Put in force again what off has taken off."),
    "repair": ("pliant.cli.repair:repair", "Make the kernel what the policies in force ask for."),
    "rollback": ("pliant.cli.rollback:rollback", "Go back to an earlier generation."),
    "schema": ("pliant.cli.schema:schema", "Print the JSON Schema of policy files."),
    "status": ("pliant.cli.status:status", "Say how the agent of this host is doing."),
    "top": ("pliant.cli.top:top", "Watch policies, services, connections and arms, live."),
}

INTERRUPTED = 130
TERMINATED = 143


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run: ``--help`` needs only their names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their summaries, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _directory(name: str, variable: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(name, envvar=variable, type=click.Path(path_type=Path), metavar="DIR", help=text)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pliant", message="%(prog)s %(version)s")
@_directory("--state", "PLIANT_STATE", "Where the journal is kept.  [default: /var/lib/pliant]")
@_directory("--pins", "PLIANT_PINS", "Where programs and maps are pinned.  [default: /sys/fs/bpf/pliant]")
@_directory("--cgroup-root", "PLIANT_CGROUP_ROOT", "The cgroup v2 hierarchy.  [default: where it is mounted]")
@click.option(
    "--socket",
    envvar="PLIANT_SOCKET",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the agent listens.  [default: /run/pliant/agent.sock]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another pliant that is changing this host.",
)
@click.pass_context
def cli(
    ctx: click.Context,
    state: Path | None,
    pins: Path | None,
    cgroup_root: Path | None,
    socket: Path | None,
    timeout: float,
) -> None:
    """Programmable Linux host networking: policies in, eBPF out, every change measured and reversible."""
    ctx.obj = {
        "state": state, "pins": pins, "cgroup_root": cgroup_root, "socket": socket, "timeout": timeout
    }  # fmt: skip


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)


def main() -> None:
    """Run the command; problems become a sentence on standard error and an exit status.

    0: done; 1: ``diff`` found differences, ``doctor`` something degraded, ``audit verify`` a flaw, ``status`` and
    ``fastpath status`` that not all is well; 2: an error,
    nothing was changed or what was changed has been taken back; 130 and 143: interrupted, likewise.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.exit(cli.main(prog_name="pliant", standalone_mode=False) or 0)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code if error.exit_code != 1 else 2)
    except PliantError as error:
        _complain(error)
        sys.exit(error.exit_status)
    except sqlite3.Error as error:
        remedy = (
            "see that the state directory's disk is writable and not full; the next change settles this one"
        )
        _complain(PliantError(f"the journal cannot be used: {error}", remedy=remedy))
        sys.exit(PliantError.exit_status)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted; nothing is half done\n")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _complain(error: PliantError) -> None:
    label = click.style("error:", fg="red", bold=True)
    click.echo(f"{label} {error.message}", err=True)
    if error.remedy:
        click.echo(f"  {click.style('remedy:', bold=True)} {error.remedy}", err=True)
