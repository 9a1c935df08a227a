# SPDX-License-Identifier: Apache-2.0
"""``pliant audit``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from pliant.cli import output as out
from pliant.cli.context import open_host, output_option
from pliant.errors import PliantError
from pliant.store.audit import AlteredRecord, AuditLog, parse, read_lines
from pliant.store.audit_check import verify as check

AGO = re.compile(r"(\d+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.group()
def audit() -> None:
    """Show and check the record of every change: who, what, why, the plan, and what came of it."""


@audit.command()
@click.option("-n", "count", type=click.IntRange(min=1), help="Only this many, the newest.")
@click.option(
    "--since", metavar="TIME", help="Only those since then: 30m, 2h, 7d, 2026-11-20, 2026-11-20T14:00."
)
@output_option("table", "json")
@click.pass_context
def show(ctx: click.Context, count: int | None, since: str | None, output: str) -> None:
    """List the changes of this host, newest last. As JSON: every record as it was written.

    Lines that are no records are left out; 'pliant audit verify' names them.
    """
    with open_host(ctx) as host:
        records = list(_records(AuditLog(host.places.state)))
    changes = _changes(records)
    if since:
        start = _time(since)
        changes = [change for change in changes if _when(change[0]) >= start]
    changes = changes[-count:] if count else changes
    if output == "json":
        out.data(sorted((r for change in changes for r in change), key=lambda r: r["seq"]), output)
        return
    out.table(
        ("record", "when", "by", "verb", "result", "generation", "policies", "reason"),
        [_row(change) for change in changes],
        nothing="nothing was recorded yet",
    )


@audit.command()
@click.option(
    "--head",
    "expected",
    metavar="HASH",
    help="The hash of a record that was noted elsewhere: it must be in the log.",
)
@output_option("table", "json")
@click.pass_context
def verify(ctx: click.Context, expected: str | None, output: str) -> None:
    """Check that no record was altered, taken out, moved or cut off.

    Exits with 0 when all is as it was written, 1 with the first line that is not and what is wrong with it, 2 when the
    log or the journal cannot be read.
    """
    with open_host(ctx) as host:
        log, unreadable, kept = AuditLog(host.places.state), None, None
        try:
            kept = host.journal.audit_head
        except PliantError as error:
            unreadable = error
        verdict = check(log.segments(), kept, expected.lower() if expected else None)
    flaw = verdict.flaw
    if unreadable and (flaw is None or flaw.line == 0):
        raise PliantError(
            f"the {verdict.records} records that are there belong together, but whether any were cut off at the end "
            f"cannot be told: {unreadable.message}",
            remedy=unreadable.remedy,
        )
    if output == "json":
        found = flaw and {"fault": flaw.fault.value, "line": flaw.line, "sentence": flaw.sentence}
        file = str(flaw.file) if flaw and flaw.file else None
        head = {"seq": verdict.head.seq, "hash": verdict.head.hash}
        out.data(
            {"sound": not flaw, "records": verdict.records, "head": head, "flaw": found, "file": file}, output
        )
    elif flaw:
        click.echo(str(flaw))
        click.echo(f"the {verdict.records} records before it are as they were written")
    else:
        click.echo(
            f"{verdict.records} records, none altered, missing or moved; the last is {verdict.head.hash}"
        )
    ctx.exit(1 if flaw else 0)


@audit.command()
@output_option("table", "json")
@click.pass_context
def head(ctx: click.Context, output: str) -> None:
    """Print the hash of the newest record, to be kept on another machine.

    'pliant audit verify --head HASH' then finds out, however much time has passed, whether somebody who could write
    everything here has written the log anew.
    """
    with open_host(ctx) as host:
        found = host.journal.audit_head
    if found is None:
        raise PliantError("nothing was recorded yet")
    if output == "json":
        out.data({"seq": found.seq, "hash": found.hash}, output)
    else:
        click.echo(found.hash)


def _records(log: AuditLog) -> Iterator[Mapping[str, Any]]:
    for path in log.segments():
        for line in read_lines(path):
            with contextlib.suppress(AlteredRecord):
                yield parse(line).body


def _changes(records: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The records of each change: that before it, and that after it if there is one."""
    changes: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        changes.setdefault(record.get("of", record["seq"]), []).append(record)
    return list(changes.values())


def _row(change: list[Mapping[str, Any]]) -> tuple[str, ...]:
    first, last = change[0], change[-1]
    who = first.get("who", {})
    by = who.get("sudo_user") or who.get("login") or who.get("user") or first.get("actor", "")
    result = last.get("result", "not ended") if first["event"] != "note" else "noted"
    policies = [f"{p['name']} {p['result']}" for p in first.get("policies", [])]
    listed = ", ".join(policies[:3]) + (f" and {len(policies) - 3} more" if len(policies) > 3 else "")
    when = _when(first).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    generation = str(first.get("generation") or "-")
    return (
        str(first["seq"]),
        when,
        by,
        first.get("verb", ""),
        result,
        generation,
        listed,
        first.get("reason", ""),
    )


def _when(record: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(record["time"])


def _time(text: str) -> datetime:
    ago = AGO.fullmatch(text.strip())
    if ago:
        return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except ValueError:
        raise PliantError(
            f"--since: '{text}' is no time", remedy="write 30m, 2h, 7d, 2026-11-20 or 2026-11-20T14:00"
        ) from None
