# SPDX-License-Identifier: Apache-2.0
"""``pliant bench``: run benchmarks, show and keep what they measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pliant.cli.output import table

if TYPE_CHECKING:
    from pliant.bench import Result

RESULTS = "docs/results"


@click.command()
@click.argument("name", required=False)
@click.option(
    "-o",
    "output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to show the results; json is one object with NAME and a list without.",
)
@click.option("--runs", type=click.IntRange(min=1), help="Measure each thing this often.")
@click.option(
    "--save",
    "directory",
    is_flag=False,
    flag_value=RESULTS,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="[DIR]",
    help=f"Also write each result to DIR/<name>.json; {RESULTS} when DIR is left out.",
)
@click.option("--list", "only_list", is_flag=True, help="List the benchmarks and leave.")
def bench(name: str | None, output: str, runs: int | None, directory: Path | None, only_list: bool) -> None:
    """Measure what Pliant costs on this machine: the benchmark NAME, or all of them.

    Benchmarks work in network namespaces and private mounts of their own and leave nothing behind. Most need root.
    """
    from pliant.bench import benches, run_bench
    from pliant.errors import PliantError

    if only_list:
        show_list(output)
        return
    if name is not None and name not in benches():
        raise PliantError(f"there is no benchmark '{name}'", remedy=f"choose one of {', '.join(benches())}")
    chosen = [name] if name else list(benches())
    for each in chosen:
        benches()[each].require()
    results = []
    for each in chosen:
        result = run_bench(each, runs, lambda message, each=each: click.echo(f"{each}: {message}", err=True))  # type: ignore[misc]
        results.append(result)
        if directory:
            click.echo(f"{each}: wrote {result.save(directory)}", err=True)
        if output == "table":
            show_result(result)
    if output == "json":
        documents = [result.to_document() for result in results]
        click.echo(json.dumps(documents[0] if name else documents, indent=2))


def show_result(result: Result) -> None:
    """Print what one benchmark measured, for people."""
    from pliant.bench.result import shown

    click.echo(f"{result.bench}, {result.runs} runs")
    rows = [(m.metric, *map(shown, (m.median, m.min, m.max)), m.unit) for m in result.results]
    table(("metric", "median", "min", "max", "unit"), rows, nothing="nothing was measured")
    click.echo(f"{result.origin}\n")


def show_list(output: str) -> None:
    """Print the benchmarks there are."""
    from pliant.bench import benches

    if output == "json":
        click.echo(
            json.dumps(
                [
                    {"name": b.name, "summary": b.summary, "runs": b.runs, "needs_root": b.needs_root}
                    for b in benches().values()
                ],
                indent=2,
            )
        )
        return
    width = max(map(len, benches()))
    for b in benches().values():
        click.echo(f"{b.name:<{width}}  {b.summary}")
