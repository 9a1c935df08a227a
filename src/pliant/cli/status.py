# SPDX-License-Identifier: Apache-2.0
"""``pliant status``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from pliant.agent.client import NoAgent, ask
from pliant.cli import output as out
from pliant.cli.context import open_places, output_option

NOT_RUNNING = 1


@click.command()
@output_option("table", "json", "yaml")
@click.pass_context
def status(ctx: click.Context, output: str) -> int:
    """Say how the agent of this host is doing. Exit status 1: it is not running, or cannot do its work."""
    try:
        found = ask(open_places(ctx).socket, "status")
    except NoAgent as error:
        found = {"running": False, "reason": error.message, "remedy": error.remedy}
    out.show(output, plain=lambda: found, names=list, people=lambda: _tell(found))
    return 0 if found["running"] and not found["failure"] else NOT_RUNNING


def _tell(found: Mapping[str, Any]) -> None:
    if not found["running"]:
        out.fields({"agent": f"not running: {found['reason']}", "remedy": found["remedy"]})
        return
    services = found["services"]
    told = {
        "agent": f"running for {_ago(found['started'])}: version {found['version']}, process {found['pid']}",
        "generation": str(found["generation"]),
        "last look": _last(found["lastReconcile"]),
        "drift": _drift(found["drift"]),
        "services": f"{services['known']} known ({services['watched']}), {len(services['attached'])} attached",
        "attached": "\n".join(services["attached"]) or "-",
    }
    if services["refused"]:
        told["refused"] = "\n".join(services["refused"].values())
    if found["failure"]:
        told["failure"] = f"{found['failure']['message']}\n{found['failure']['remedy']}".rstrip()
    out.fields(told)


def _last(look: Mapping[str, Any] | None) -> str:
    if look is None:
        return "none yet"
    steps = "nothing to do" if look["outcome"] == "same" else f"{look['outcome']}, {look['steps']} steps"
    return f"{_ago(look['at'])} ago, {look['cause']}: {steps}, {look['milliseconds']:.1f} ms"


def _drift(drift: Mapping[str, Any]) -> str:
    if drift["checkedAt"] is None:
        return "not looked for yet"
    found = f"{drift['steps']} steps, mended" if drift["steps"] else "none"
    return f"{found}, {_ago(drift['checkedAt'])} ago"


def _ago(at: float) -> str:
    seconds = max(0, int(time.time() - at))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
