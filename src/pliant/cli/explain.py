# SPDX-License-Identifier: Apache-2.0
"""``pliant explain``."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import click

from pliant.agent.connections import Agreement, Judge, OptionState, find_connection
from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.cli.connections import (
    OPTION_HEADS,
    POLICY_HEADS,
    connection_data,
    facts,
    how_found,
    option_row,
    policy_row,
)
from pliant.cli.context import open_host, output_option
from pliant.cli.explain_packets import explain_packets
from pliant.cli.fastpath_switch import complete_interface
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.kernel.namespaces import NetworkNamespace, named_namespace, network_namespaces
from pliant.kernel.sock_diag import Address
from pliant.policy.explain import Connection, Judged, Reason
from pliant.policy.explain import explain as judge
from pliant.policy.services import matching_cgroups

ENDS = re.compile(r"(?P<local>\S+):(?P<local_port>\d+)\s*-\s*(?P<peer>\S+):(?P<remote_port>\d+)")
LAST_PORT = 65535


class Ends(NamedTuple):
    """Both ends of a connection, as they were typed."""

    local: tuple[Address, int]
    peer: tuple[Address, int]


@click.command()
@click.option(
    "--connection",
    "ends",
    metavar="LOCAL:PORT-PEER:PORT",
    help="The connection, this host's end first: '10.1.0.1:443-10.2.0.9:51514', '[fd00::1]:443-[fd00::2]:51514'.",
)
@click.option(
    "--packet",
    metavar="FIELDS",
    help="A packet that comes in: 'in=eth1 src=10.1.0.2 dst=10.2.0.9 proto=tcp dport=443'; further fields: "
    "sport, len, ttl, tos, flags, smac, dmac, mark, ct.",
)
@click.option(
    "--pcap",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Every packet of a capture (pcap or pcapng), summed up.",
)
@click.option(
    "--in",
    "interface",
    metavar="NAME",
    shell_complete=complete_interface,
    help="With --pcap: the interface they come in by.  [default: as the file says]",
)
@click.option(
    "--service",
    help="Answer for a connection of this service, a unit's name or a cgroup's path, whether it is there or not.",
)
@click.option(
    "--role",
    type=click.Choice(["server", "client"]),
    help="The service's role in the connection.  [default: found out; with --service: server]",
)
@click.option(
    "--netns",
    metavar="NAME",
    help="The network namespace that the connection is in: a name in /run/netns, or a file.",
)
@output_option("table", "json", "yaml")
@click.pass_context
def explain(
    ctx: click.Context,
    ends: str | None,
    packet: str | None,
    pcap: Path | None,
    interface: str | None,
    service: str | None,
    role: str | None,
    netns: str | None,
    output: str,
) -> None:
    """Say which policies a connection gets and why, or which way a packet takes through this host and why.

    A connection is looked for in the network namespaces of all processes of this host. With --service it need not
    exist: the answer is then worked out from the policies in force.

    Of a packet it says whether it is accelerated and by which module, its route, the rule of the forward hook that
    decides, and if it is not accelerated, why. Where a fast path runs, its own program is asked.
    """
    if sum(given is not None for given in (ends, packet, pcap)) != 1:
        raise PliantError("what is to be explained?", remedy="give one of --connection, --packet and --pcap")
    if ends is None:
        explain_packets(ctx, packet, pcap, interface, netns, output)
        return
    if service is not None and netns is not None:
        raise PliantError(
            "--netns says where to look, and with --service nothing is looked for",
            remedy="leave one of them out",
        )
    typed = read_ends(ends)
    with open_host(ctx) as host:
        if service is not None:
            _supposed(host, typed, service, role or "server", output)
        else:
            _found(host, typed, role, [named_namespace(netns)] if netns else network_namespaces(), output)


def read_ends(typed: str) -> Ends:
    """Both ends of a connection that somebody has typed. Raises :class:`PliantError`."""
    parsed = ENDS.fullmatch(typed.strip().removeprefix("connection/"))
    try:
        if parsed is None:
            raise ValueError
        addresses = [ip_address(parsed[end].strip("[]")) for end in ("local", "peer")]
        ports = [int(parsed[port]) for port in ("local_port", "remote_port")]
        if max(ports) > LAST_PORT:
            raise ValueError
    except ValueError:
        raise PliantError(
            f"--connection: '{typed}' is not a connection",
            remedy="write this host's end first: 10.1.0.1:443-10.2.0.9:51514",
        ) from None
    return Ends((addresses[0], ports[0]), (addresses[1], ports[1]))


def _supposed(host: Host, ends: Ends, service: str, role: str, output: str) -> None:
    paths = sorted(matching_cgroups({service}, host.cgroups()))
    if len(paths) != 1:
        found = f"is any of {', '.join(paths[:5])}" if paths else "is on this host under no such name"
        raise PliantError(
            f"--service: '{service}' {found}", remedy="'pliant get services' lists the cgroups' paths"
        )
    connection = Connection(paths[0], role, ends.local[1], ends.peer[0], ends.peer[1])
    judged = judge(Judge(host).policies, connection, off=host.switches())
    if output == "table":
        _show_policies(judged, held_out_known=False)
    else:
        out.data({"cgroup": connection.cgroup, "policies": [_data(j) for j in judged]}, output)


def _found(host: Host, ends: Ends, role: str | None, namespaces: list[NetworkNamespace], output: str) -> None:
    judging = Judge(host)
    seen = judging(find_connection(host, ends.local, ends.peer, namespaces, role), whole=True)
    options = judging.options(seen)
    how = "as --role says" if role else how_found(seen)
    if output != "table":
        found = connection_data(seen) | {"roleFound": how, "policies": [_data(j) for j in seen.judged]}
        out.data(found | {"options": [_option_data(state) for state in options]}, output)
        return
    out.fields(facts(seen, how))
    click.echo()
    _show_policies(list(seen.judged), held_out_known=True)
    if options:
        click.echo()
        out.table(OPTION_HEADS, map(option_row, options), nothing="")


def _show_policies(judged: list[Judged], *, held_out_known: bool) -> None:
    out.table(
        POLICY_HEADS,
        [policy_row(j, held_out_known=held_out_known) for j in judged],
        nothing="no policy is in force: the connection is left to the kernel",
    )
    if judged and not any(j.won for j in judged):
        click.echo("\nno policy sets anything: the connection is left to the kernel")


def _data(judged: Judged) -> dict[str, Any]:
    return {
        "policy": judged.policy,
        "priority": judged.priority,
        "matches": judged.reason.matches,
        "reason": judged.reason.name.lower().replace("_", "-"),
        "sentence": judged.reason.value,
        "sets": {option: catalogue()[option].spell(value) for option, value in judged.won.items()},
        "heldOut": judged.reason is Reason.HELD_OUT,
        "holdoutPpm": judged.holdout_ppm,
    }


def _option_data(state: OptionState) -> dict[str, Any]:
    return {
        "option": state.option,
        "policy": state.policy,
        "asked": state.asked,
        "kernel": state.shown,
        "agrees": None if state.agreement is Agreement.HIDDEN else state.agreement is Agreement.SAME,
        "sentence": state.agreement.value,
    }
