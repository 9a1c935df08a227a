# SPDX-License-Identifier: Apache-2.0
"""``pliant fastpath``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pliant.cli import output as out
from pliant.cli.context import open_host, output_option
from pliant.cli.fastpath_counters import counters
from pliant.cli.fastpath_status import status
from pliant.cli.fastpath_switch import complete_interface, off, on
from pliant.errors import PliantError

if TYPE_CHECKING:
    from pliant.fastpath.compatibility import Choice
    from pliant.fastpath.reasons import Reason
    from pliant.fastpath.topology import Port, Topology


@click.group()
def fastpath() -> None:
    """Do what the kernel is configured to do with packets, sooner, where that is the same."""


for command in (on, off, status, counters):
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
@click.pass_context
def topology(ctx: click.Context, devices: tuple[str, ...], netns: str | None, output: str) -> None:
    """Show the way of a packet from each interface, and what of it can be accelerated, or why not.

    Everything is read from the kernel, nothing is changed. As dot or SVG: a picture, with what can be accelerated in
    green. The mode is that which an interface would have by itself, if none is asked for.
    """
    from pliant.fastpath import picture

    found = _topology(ctx, devices, netns)
    if output == "json":
        out.data(_data(found), output)
    elif output == "dot":
        click.echo(picture.dot(found.graph), nl=False)
    elif output == "svg":
        click.echo(picture.svg(found.graph), nl=False)
    else:
        _table(found)


def _topology(ctx: click.Context, devices: Sequence[str], netns: str | None) -> Topology:
    from pliant.fastpath.topology import topology as work_out
    from pliant.kernel.namespaces import named_namespace
    from pliant.observe.network_reader import read_facts

    facts = read_facts(named_namespace(netns).path if netns else None)
    for name in devices:
        if facts.interface(name) is None:
            there = ", ".join(sorted(i.name for i in facts.interfaces))
            raise PliantError(f"there is no interface {name}", remedy=f"name one of: {there}")
    if netns is not None:
        return work_out(facts, only=devices)
    with open_host(ctx) as host:
        counts = host.compile().desired.fastpath.counts
        return work_out(facts, own=host.fastpath.own(facts), only=devices, counts=counts)


def _choice(found: Topology, port: Port) -> Choice:
    """How an interface would run what it can have."""
    from pliant.fastpath.abilities import lacking
    from pliant.fastpath.compatibility import Choice, choose

    at = found.facts.interface(port.index)
    return choose("auto", found.facts, at, port.modules, lacking) if at and port.modules else Choice(None)


def _data(found: Topology) -> dict[str, Any]:
    data = found.data()
    for port, shown in zip(found.ports, data["interfaces"], strict=True):
        choice = _choice(found, port)
        shown["mode"] = choice.mode
        shown["modeReasons"] = [asdict(reason) for reason in choice.reasons]
    return data


def _table(found: Topology) -> None:
    out.table(
        ("interface", "kind", "accelerates", "mode", "takes redirected", "not accelerated, since"),
        [row for port in found.ports for row in _rows(port, _choice(found, port))],
        nothing="there is no interface but loopback",
    )


def _rows(port: Port, choice: Choice) -> list[tuple[str, ...]]:
    names = ", ".join(module.name for module in port.modules) or "-"
    against = sentences(port.reasons) + sentences(port.send_reasons) + sentences(choice.reasons)
    first = (port.name, port.kind or "-", names, str(choice.mode or "-"), "yes" if port.sends else "no")
    return [
        (*(first if not number else ("",) * 5), sentence) for number, sentence in enumerate(against or ["-"])
    ]


def sentences(reasons: Sequence[Reason]) -> list[str]:
    """Each fact once, with the modules it stands in the way of."""
    by_fact: dict[str, list[str]] = {}
    for reason in reasons:
        by_fact.setdefault(reason.sentence, []).append(reason.module)
    return [f"{', '.join(dict.fromkeys(modules))}: {fact}" for fact, modules in by_fact.items()]
