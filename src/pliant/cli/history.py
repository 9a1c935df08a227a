# SPDX-License-Identifier: Apache-2.0
"""``pliant history``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.cli.context import open_host, output_option
from pliant.errors import PliantError
from pliant.store.generations import Generation


@click.command()
@click.argument("generation", type=click.IntRange(min=1), required=False)
@output_option()
@click.pass_context
def history(ctx: click.Context, generation: int | None, output: str) -> None:
    """List the generations of this host, newest last; with GENERATION, the steps it took."""
    with open_host(ctx) as host:
        if generation is None:
            _tell_generations(host, output)
        else:
            _tell_steps(host, generation, output)


def _tell_generations(host: Host, output: str) -> None:
    generations = host.journal.generations()
    current = host.journal.current()
    out.show(
        output,
        plain=lambda: [_plain(g) | {"inForce": g.number == current} for g in generations],
        names=lambda: [f"generation/{g.number}" for g in generations],
        people=lambda: out.table(
            ("generation", "when", "verb", "state", "by", "steps", "reason"),
            [
                (
                    str(g.number),
                    time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(g.started)),
                    g.verb,
                    "in force" if g.number == current else g.state.value,
                    g.actor,
                    str(g.steps),
                    g.reason,
                )
                for g in generations
            ],
            nothing="nothing was applied yet",
        ),
    )


def _tell_steps(host: Host, number: int, output: str) -> None:
    found = host.journal.generation(number)
    if found is None:
        raise PliantError(f"there is no generation {number}", remedy="'pliant history' lists those there are")
    steps = host.journal.steps(number)
    out.show(
        output,
        plain=lambda: _plain(found) | {"taken": [asdict(step) for step in steps]},
        names=lambda: [f"step/{step.position}" for step in steps],
        people=lambda: out.table(
            ("step", "what", "why", "state"),
            [
                (str(s.position + 1), ("undo: " if s.undo else "") + s.sentence, s.reason, s.state)
                for s in steps
            ],
            nothing="it took no step",
        ),
    )


def _plain(generation: Generation) -> dict[str, Any]:
    return asdict(generation) | {"state": generation.state.value}
