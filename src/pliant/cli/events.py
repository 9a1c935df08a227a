# SPDX-License-Identifier: Apache-2.0
"""``pliant events``."""

from __future__ import annotations

import json
import os
import re
import select
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from pliant.agent.client import ask, follow_events
from pliant.cli.context import open_host, open_places, output_option

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LOOK_AGAIN_MS = 1000  # where the journal is not there yet, nothing tells of it
DEFAULT_LIMIT = 50
MOST = 1000


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """The time in seconds since the epoch."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([smhd])", value)
    if found:
        return time.time() - int(found[1]) * UNITS_S[found[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is neither a duration (30s, 10m, 2h, 1d) nor a time (2026-03-01 10:00)"
        ) from None


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Go on with those to come, until interrupted.")
@click.option(
    "--since", callback=_since, metavar="WHEN", help="From then on: 30s, 10m, 2h, 1d ago, or a time."
)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="The newest so many.",
)
@output_option("table", "json")
@click.pass_context
def events(ctx: click.Context, watch: bool, since: float | None, limit: int, output: str) -> None:
    """Show what happened on this host, oldest first: changes, services that came and went, what the agent did.

    With -o json each event is an object in a line of its own.
    """
    found = _from_journal(ctx, watch, since, limit) if os.geteuid() == 0 else _asked(ctx, watch, since, limit)
    for event in found:
        if output == "json":
            click.echo(json.dumps(event, ensure_ascii=False))
        else:
            _tell(event)


def _tell(event: Mapping[str, Any]) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    click.echo(f"{when}  {click.style(event['kind'].ljust(18), bold=True)}  {event['sentence']}")


def _from_journal(
    ctx: click.Context, watch: bool, since: float | None, limit: int
) -> Iterator[Mapping[str, Any]]:
    """Root reads the journal, whether an agent runs or not."""
    with open_host(ctx) as host:
        events = host.journal.events
        found = events.newest(limit) if since is None else events.after(0, since=since, limit=MOST)
        yield from (event.to_document() for event in found)
        last = found[-1].id if found else 0
        if not watch:
            return
        from pliant.agent.daemon.state_watch import StateWatch

        while not host.places.state.is_dir():
            select.select([], [], [], LOOK_AGAIN_MS / 1000)
        changes = StateWatch(host.places.state)
        while True:
            if host.journal.is_stand_in:
                host.close()
            for event in host.journal.events.after(last):
                last = event.id
                yield event.to_document()
            select.select([changes], [], [], LOOK_AGAIN_MS / 1000)
            changes.take()


def _asked(ctx: click.Context, watch: bool, since: float | None, limit: int) -> Iterable[Mapping[str, Any]]:
    """Others ask the agent."""
    path = open_places(ctx).socket
    params: dict[str, Any] = {"limit": limit} if since is None else {"since": since, "limit": MOST}
    if watch:
        return follow_events(path, **params)
    found: list[Mapping[str, Any]] = ask(path, "events", **params)
    return found
