# SPDX-License-Identifier: Apache-2.0
"""Printing: tables for people, JSON and YAML for programs, names for shells."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

Rows = Iterable[Sequence[str]]


def table(columns: Sequence[str], rows: Rows, *, nothing: str) -> None:
    """Print rows under upper-case headings as wide as they need to be; ``nothing`` is said when there are none."""
    lines = [tuple(row) for row in rows]
    if not lines:
        click.echo(nothing, err=True)
        return
    heads, *rest = aligned(columns, lines)
    click.echo(click.style(heads, bold=True))
    for line in rest:
        click.echo(line)


def aligned(columns: Sequence[str], rows: Rows) -> list[str]:
    """Rows under upper-case headings, a line each, as wide as they need to be."""
    lines = [tuple(column.upper() for column in columns), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [_line(line, widths) for line in lines]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def data(value: Any, output: str) -> None:
    """Print plain data as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml

    click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100), nl=False)


def show(
    output: str,
    *,
    plain: Callable[[], Any],
    names: Callable[[], Iterable[str]],
    people: Callable[[], None],
) -> None:
    """Print in the format asked for: ``plain`` makes the data, ``names`` the names, ``people`` prints the table."""
    if output in ("json", "yaml"):
        data(plain(), output)
    elif output == "name":
        for name in names():
            click.echo(name)
    else:
        people()


def fields(pairs: Mapping[str, str], indent: int = 0) -> None:
    """Print labelled values, one a line; values of several lines keep their column."""
    width = max((len(label) for label in pairs), default=0) + 3
    for label, value in pairs.items():
        first, *rest = value.split("\n") or [""]
        click.echo(" " * indent + click.style(f"{label}:".ljust(width), bold=True) + first)
        for line in rest:
            click.echo(" " * (indent + width) + line)


class Status:
    """One line on standard error that says what is going on; silent where nobody watches."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Replace the line."""
        if self.live:
            sys.stderr.write(f"\r\x1b[K{text[:100]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        self.say("")
