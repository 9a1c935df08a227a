# SPDX-License-Identifier: Apache-2.0
"""``pliant explain``."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

import click

from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.cli.context import open_host, output_option
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.policy.explain import Connection, Judged
from pliant.policy.explain import explain as judge
from pliant.policy.services import matching_cgroups

ENDS = re.compile(r"(?P<local>\S+):(?P<local_port>\d+)\s*-\s*(?P<peer>\S+):(?P<remote_port>\d+)")
LAST_PORT = 65535


@click.command()
@click.option(
    "--connection",
    "ends",
    required=True,
    metavar="LOCAL:PORT-PEER:PORT",
    help="The connection, this host's end first: '10.1.0.1:443-10.2.0.9:51514', '[fd00::1]:443-[fd00::2]:51514'.",
)
@click.option(
    "--service", required=True, help="The service whose socket it is: a unit's name or a cgroup's path."
)
@click.option("--role", type=click.Choice(["server", "client"]), default="server", show_default=True)
@output_option("table", "json", "yaml")
@click.pass_context
def explain(ctx: click.Context, ends: str, service: str, role: str, output: str) -> None:
    """Say which policies a connection gets, which it does not, and why.

    The connection need not exist: the answer is worked out from the policies in force.
    """
    with open_host(ctx) as host:
        connection = _connection(host, ends, service, role)
        stored = host.journal.policies(host.journal.current())
        policies = sorted(host.policies().values(), key=lambda policy: -stored[policy.name].number)
        judged = judge(policies, connection)  # among equals the older one wins, which is the last
    if output != "table":
        out.data({"cgroup": connection.cgroup, "policies": [_data(j) for j in judged]}, output)
        return
    out.table(
        ("policy", "priority", "sets", "because"),
        [(j.policy, str(j.priority), _won(j) or "-", _because(j)) for j in judged],
        nothing="no policy is in force: the connection is left to the kernel",
    )
    if judged and not any(j.won for j in judged):
        click.echo("\nno policy sets anything: the connection is left to the kernel")


def _connection(host: Host, ends: str, service: str, role: str) -> Connection:
    parsed = ENDS.fullmatch(ends.strip())
    try:
        if parsed is None:
            raise ValueError
        ip_address(parsed["local"].strip("[]"))
        peer = ip_address(parsed["peer"].strip("[]"))
        ports = int(parsed["local_port"]), int(parsed["remote_port"])
        if max(ports) > LAST_PORT:
            raise ValueError
    except ValueError:
        raise PliantError(
            f"--connection: '{ends}' is not a connection",
            remedy="write this host's end first: 10.1.0.1:443-10.2.0.9:51514",
        ) from None
    paths = sorted(matching_cgroups({service}, host.cgroups()))
    if len(paths) != 1:
        found = f"is any of {', '.join(paths[:5])}" if paths else "is on this host under no such name"
        raise PliantError(
            f"--service: '{service}' {found}", remedy="'pliant get services' lists the cgroups' paths"
        )
    return Connection(paths[0], role, ports[0], peer, ports[1])


def _won(judged: Judged) -> str:
    return ",".join(f"{option}={catalogue()[option].spell(value)}" for option, value in judged.won.items())


def _because(judged: Judged) -> str:
    held_out = judged.holdout_ppm and judged.reason.matches
    return judged.reason.value + (f"; {judged.holdout_ppm / 10_000:g}% are held out" if held_out else "")


def _data(judged: Judged) -> dict[str, Any]:
    return {
        "policy": judged.policy,
        "priority": judged.priority,
        "matches": judged.reason.matches,
        "reason": judged.reason.name.lower().replace("_", "-"),
        "sentence": judged.reason.value,
        "sets": {option: catalogue()[option].spell(value) for option, value in judged.won.items()},
        "holdoutPpm": judged.holdout_ppm,
    }
