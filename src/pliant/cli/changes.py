# SPDX-License-Identifier: Apache-2.0
"""Making a change and telling of it: shared by apply, delete and rollback."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from pliant.agent.change import Applied, Change
from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.cli.context import actor
from pliant.plan.steps import Step


def make(host: Host, work_out: Callable[[], Change], *, output: str, dry_run: bool) -> None:
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
        with host.exclusively():
            change = work_out()
            applied = host.carry_out(change, actor=actor(), progress=_progress(status))
    finally:
        status.clear()
    _tell_applied(applied, time.monotonic() - started, output)


def _progress(status: out.Status) -> Callable[[int, int, Step], None]:
    return lambda position, total, step: status.say(f"[{position + 1}/{total}] {step.sentence}")


def as_data(change: Change) -> dict[str, Any]:
    """A change as plain data."""
    return {
        "verb": change.verb,
        "reason": change.reason,
        "policies": [{"name": name, "result": fate.value} for name, fate in change.fates.items()],
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


def _tell_applied(applied: Applied, seconds: float, output: str) -> None:
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
        waiting = ", waiting for its service" if name in change.waiting else ""
        click.echo(f"policy/{name} {fate.value}{waiting}{note}")


def _names(change: Change) -> list[str]:
    return [f"policy/{name}" for name in change.fates]
