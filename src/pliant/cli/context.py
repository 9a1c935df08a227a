# SPDX-License-Identifier: Apache-2.0
"""What every command needs: the host that the global options name, who is asking, and shared options."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from pliant.agent.host import Host
from pliant.agent.places import DEFAULT_PINS, DEFAULT_SOCKET, DEFAULT_STATE, Places
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.policy.documents import load_policies_from_paths
from pliant.policy.model import Policy

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def open_host(ctx: click.Context) -> Host:
    """The host, as the global options name it."""
    return Host(open_places(ctx), lock_timeout_s=ctx.find_root().obj["timeout"])


def open_places(ctx: click.Context) -> Places:
    """Where the host's state is, as the global options say."""
    given = ctx.find_root().obj
    return Places(
        given["state"] or DEFAULT_STATE,
        given["pins"] or DEFAULT_PINS,
        given["cgroup_root"],
        given["socket"] or DEFAULT_SOCKET,
    )


def actor() -> str:
    """Who asks: the person behind sudo, or the user; by number where users have no names (in small containers)."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def read_files(paths: Iterable[str]) -> list[Policy]:
    """The policies of files, directories and ``-``; see :func:`load_policies_from_paths`."""
    return load_policies_from_paths(paths, catalogue())


def files_option(*, required: bool) -> Decorator:
    """``-f``: files of policies."""
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        required=required,
        type=click.Path(allow_dash=True),
        help="A file of policies, a directory of such files, or - for standard input. Can be given more than once.",
    )


def output_option(*formats: str, default: str = "table") -> Decorator:
    """``-o``: how to print."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats or ("table", "json", "yaml", "name")),
        default=default,
        show_default=True,
        help="How to print.",
    )


def dry_run_option() -> Decorator:
    """``--dry-run``: print the plan and leave the host alone."""
    return click.option("--dry-run", is_flag=True, help="Print the plan with its reasons; change nothing.")


def reason_option() -> Decorator:
    """``--reason``: kept in the history."""
    return click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")


def complete_policy(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of policies in force; nothing where they cannot be read."""
    try:
        ctx.find_root().obj = ctx.find_root().obj or {
            "state": _path("PLIANT_STATE"), "pins": _path("PLIANT_PINS"),
            "cgroup_root": None, "socket": None, "timeout": 0.0
        }  # fmt: skip
        with open_host(ctx) as host:
            names = host.journal.policies(host.journal.current())
    except PliantError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
