# SPDX-License-Identifier: Apache-2.0
"""``pliant fastpath status``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pliant.cli import output as out
from pliant.cli.context import open_host, open_places, output_option

if TYPE_CHECKING:
    from pliant.agent.fastpath import InterfaceStatus
    from pliant.fastpath.counters import Key
    from pliant.kernel.packet_counts import Counted

NOT_ALL = 1


@click.command()
@output_option("table", "json", "yaml")
@click.pass_context
def status(ctx: click.Context, output: str) -> int:
    """Say which interfaces have a fast path, what it has done, and why others have none.

    Exits with 0 when every interface that is asked for by name runs what it should, and at least one of those asked for
    does; 1 when not, or when the fast path is not on.
    """
    from pliant.agent.fastpath import interface_statuses
    from pliant.fastpath.counters import read_counters

    with open_host(ctx) as host:
        agent = _agent(ctx)
        host.fastpath.take_over(agent["fastpath"]["refused"] if agent else ())
        wishes = host.compile().desired.fastpath
        arrangements = host.fastpath.arrangements(wishes)
        found = interface_statuses(host.fastpath, wishes, arrangements)
        counters = read_counters(host.fastpath.pins, host.fastpath.found())
    if output == "table":
        _tell(found)
        if wishes and agent is None:
            click.echo("\nno agent runs: changes of the network are not followed", err=True)
    else:
        out.data([document(one, counters) for one in found], output)
    return 0 if _is_well(found) else NOT_ALL


def _agent(ctx: click.Context) -> dict[str, Any] | None:
    """What the agent says of itself; None where none runs."""
    from pliant.agent.client import NoAgent, ask

    try:
        told: dict[str, Any] = ask(open_places(ctx).socket, "status")
    except NoAgent:
        return None
    return told if "fastpath" in told else None  # one of an earlier version knows of none


def _is_well(found: Sequence[InterfaceStatus]) -> bool:
    named = [one for one in found if one.arranged.wish and one.arranged.wish.names(one.name)]
    return (
        any(one.state == "accelerated" for one in found)
        and all(one.state == "accelerated" for one in named)
        and not any(one.state == "pending" for one in found)
    )


def document(status: InterfaceStatus, counters: Mapping[Key, Counted]) -> dict[str, Any]:
    """What has come of the fast path on an interface, as plain data."""
    arranged = status.arranged
    packets, octets = status.accelerated
    return {
        "interface": status.name,
        "index": arranged.way.index,
        "kind": arranged.way.kind,
        "state": status.state,
        "policy": arranged.wish.policy if arranged.wish else None,
        "asked": arranged.wish.mode if arranged.wish else None,
        "mode": arranged.mode,
        "modules": [module.name for module in arranged.modules],
        "accelerated": {"packets": packets, "bytes": octets},
        "dropped": status.dropped,
        "toKernel": dict(status.passed),
        "counters": [
            {
                "module": key.module,
                "verdict": key.verdict,
                "reason": key.reason or None,
                "packets": one.packets,
                "bytes": one.bytes,
            }
            for key, one in counters.items()
            if key.interface == status.name
        ],
        "reasons": [
            {"code": r.code, "module": r.module, "sentence": r.sentence, "look": r.look}
            for r in arranged.reasons
        ],
    }


def _tell(found: Sequence[InterfaceStatus]) -> None:
    out.table(
        ("interface", "state", "mode", "modules", "accelerated", "to the kernel", "not accelerated, since"),
        [row for one in found for row in _rows(one)],
        nothing="there is no interface but loopback",
    )


def _rows(one: InterfaceStatus) -> list[tuple[str, ...]]:
    from pliant.cli.fastpath import sentences

    arranged = one.arranged
    first = (
        one.name,
        one.state,
        str(arranged.mode or "-"),
        ", ".join(module.name for module in arranged.modules) or "-",
        f"{one.accelerated[0]:,}" + (f", {one.dropped:,} dropped" if one.dropped else ""),
    )
    passed = [f"{count:,} {reason}" for reason, count in one.passed.items()] or ["0"]
    reasons = (sentences(arranged.reasons) if arranged.wish else []) or ["-"]
    return [
        (
            *(first if not number else ("",) * len(first)),
            passed[number] if number < len(passed) else "",
            reasons[number] if number < len(reasons) else "",
        )
        for number in range(max(len(passed), len(reasons)))
    ]
