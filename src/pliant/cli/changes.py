# SPDX-License-Identifier: Apache-2.0
"""Making a change and telling of it: shared by apply, delete, rollback, repair, off and on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from pliant.agent.change import Applied, Change, Fate
from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.cli.context import actor
from pliant.plan.steps import Step
from pliant.policy.switches import Kind, Switch


def make(
    host: Host,
    work_out: Callable[[], Change],
    *,
    output: str,
    dry_run: bool,
    to_switch_off: bool = False,
) -> None:
    """Work a change out, and carry it out unless it is a dry run; then say what was done."""
    if dry_run:
        change = work_out()
        host.check(change)
        _tell_plan(change, output)
        return
    status = out.Status()
    status.say("looking at the host")
    started = time.monotonic()
    try:
        with host.exclusively(to_switch_off=to_switch_off):
            change = work_out()
            applied = host.carry_out(change, actor=actor(), progress=_progress(status))
    finally:
        status.clear()
    tell_applied(applied, time.monotonic() - started, output)


def _progress(status: out.Status) -> Callable[[int, int, Step], None]:
    return lambda position, total, step: status.say(f"[{position + 1}/{total}] {step.sentence}")


def as_data(change: Change) -> dict[str, Any]:
    """A change as plain data."""
    return {
        "verb": change.verb,
        "reason": change.reason,
        "policies": [{"name": name, "result": fate.value} for name, fate in change.fates.items()],
        "switched": [{"what": str(what), "result": fate.value} for what, fate in change.switched],
        "off": [{"what": str(switch.what), **switch.as_data()} for switch in change.off_after.off],
        "waiting": list(change.waiting),
        "plan": [{"kind": s.kind, "sentence": s.sentence, "reason": s.reason} for s in change.plan],
    }


def _tell_plan(change: Change, output: str) -> None:
    def people() -> None:
        _tell_fates(change, " (dry run)")
        rows = [(str(n), step.sentence, step.reason) for n, step in enumerate(change.plan, 1)]
        out.table(("step", "what", "why"), rows, nothing="no step is needed: the host is as it should be")

    out.show(
        output, plain=lambda: as_data(change) | {"dryRun": True}, names=lambda: _names(change), people=people
    )


def tell_applied(applied: Applied, seconds: float, output: str) -> None:
    """Say what was done by a change that took so many seconds."""
    change = applied.change

    def people() -> None:
        _tell_fates(change, "")
        if change.is_empty:
            click.echo(f"nothing to do: generation {applied.generation} is in force")
            return
        count = len(change.plan)
        steps = "1 step" if count == 1 else f"{count} steps"
        click.echo(f"generation {applied.generation} is in force: {steps}, {seconds * 1000:.0f} ms")

    def plain() -> dict[str, Any]:
        result = {"generation": applied.generation, "durationMs": round(seconds * 1000, 1)}
        return result | as_data(change)

    out.show(output, plain=plain, names=lambda: _names(change), people=people)


def _tell_fates(change: Change, note: str) -> None:
    for name, fate in change.fates.items():
        off = change.off_after.of_policy(name)
        if off and fate not in (Fate.OFF, Fate.DELETED):
            more = f", stays off: {spelled(off)}"
        else:
            more = ", waiting for its service" if name in change.waiting else ""
        click.echo(f"policy/{name} {fate.value}{more}{note}")
    for what, fate in change.switched:
        if what.kind is not Kind.POLICY or what.name not in change.after:
            click.echo(f"{what} {fate.value}{note}")
    if change.verb == "on":
        for switch in change.off_after.off:
            if switch.what.kind is not Kind.POLICY or switch.what.name not in change.after:
                click.echo(f"{switch.what} stays off: {spelled(switch)}")


def spelled(switch: Switch) -> str:
    """Since when something is off, by whom and why, for people."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(switch.at))
    return f"since {since}, by {switch.actor or '?'}" + (
        f", because {switch.reason}" if switch.reason else ""
    )


def _names(change: Change) -> list[str]:
    return [f"policy/{name}" for name in change.fates] + [
        str(what) for what, _ in change.switched if what.kind is Kind.SERVICE
    ]
