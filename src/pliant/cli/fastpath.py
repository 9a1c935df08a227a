# SPDX-License-Identifier: Apache-2.0
"""``pliant fastpath``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pliant.cli import output as out
from pliant.cli.context import output_option
from pliant.cli.fastpath_status import status
from pliant.cli.fastpath_switch import complete_interface, off, on
from pliant.errors import PliantError

if TYPE_CHECKING:
    from pliant.fastpath.reasons import Reason
    from pliant.fastpath.topology import Port, Topology


@click.group()
def fastpath() -> None:
    """Do what the kernel is configured to do with packets, sooner, where that is the same."""


for command in (on, off, status):
    fastpath.add_command(command)


@fastpath.command()
@click.option(
    "--dev",
    "devices",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_interface,
    help="Only this interface. Can be given more than once.  [default: all]",
)
@click.option(
    "--netns", metavar="NAME", help="Another network namespace: its name in /run/netns, or its file."
)
@output_option("table", "json", "dot", "svg")
def topology(devices: tuple[str, ...], netns: str | None, output: str) -> None:
    """Show the way of a packet from each interface, and what of it can be accelerated, or why not.

    Everything is read from the kernel, nothing is changed. As dot or SVG: a picture, with what can be accelerated in
    green.
    """
    from pliant.fastpath import picture

    found = _topology(devices, netns)
    if output == "json":
        out.data(found.data(), output)
    elif output == "dot":
        click.echo(picture.dot(found.graph), nl=False)
    elif output == "svg":
        click.echo(picture.svg(found.graph), nl=False)
    else:
        _table(found)


def _topology(devices: Sequence[str], netns: str | None) -> Topology:
    from pliant.fastpath.topology import topology as work_out
    from pliant.kernel.namespaces import named_namespace
    from pliant.observe.network_reader import read_facts

    facts = read_facts(named_namespace(netns).path if netns else None)
    for name in devices:
        if facts.interface(name) is None:
            there = ", ".join(sorted(i.name for i in facts.interfaces))
            raise PliantError(f"there is no interface {name}", remedy=f"name one of: {there}")
    return work_out(facts, only=devices)


def _table(found: Topology) -> None:
    out.table(
        ("interface", "kind", "accelerates", "takes redirected", "not accelerated, since"),
        [row for port in found.ports for row in _rows(port)],
        nothing="there is no interface but loopback",
    )


def _rows(port: Port) -> list[tuple[str, ...]]:
    names = ", ".join(module.name for module in port.modules) or "-"
    against = sentences(port.reasons) + sentences(port.send_reasons)
    first = (port.name, port.kind or "-", names, "yes" if port.sends else "no")
    return [
        (*(first if not number else ("",) * 4), sentence) for number, sentence in enumerate(against or ["-"])
    ]


def sentences(reasons: Sequence[Reason]) -> list[str]:
    """Each fact once, with the modules it stands in the way of."""
    by_fact: dict[str, list[str]] = {}
    for reason in reasons:
        by_fact.setdefault(reason.sentence, []).append(reason.module)
    return [f"{', '.join(dict.fromkeys(modules))}: {fact}" for fact, modules in by_fact.items()]
