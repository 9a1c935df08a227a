# SPDX-License-Identifier: Apache-2.0
"""``python -m pliant.soak``: everything happens to one host, under load, for half an hour."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import click

from pliant.bench import Result
from pliant.bench.command import RESULTS
from pliant.errors import PliantError
from pliant.policy.units import UnitError, parse_duration


def seconds(ctx: click.Context, option: click.Parameter, text: str) -> float:
    """Read a duration as policies spell it."""
    try:
        return parse_duration(text) / 1e6
    except UnitError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--duration", callback=seconds, default="30m", show_default=True, help="How long.")
@click.option("--seed", type=int, help="Draw the same events again as the run that told this seed.")
@click.option(
    "--save",
    "directory",
    is_flag=False,
    flag_value=RESULTS,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="[DIR]",
    help=f"Also write what was counted to DIR/soak.json; {RESULTS} when DIR is left out.",
)
@click.option("-v", "--verbose", is_flag=True, help="Tell every event as it happens.")
def soak(duration: float, seed: int | None, directory: Path | None, verbose: bool) -> None:
    """Have everything happen to one host at random, under load, and check throughout what must hold.

    It works in a network namespace, private mounts and cgroups of its own. Exit status 1: something did not hold;
    the seed and all that happened are printed.
    """
    from pliant.lab import isolate
    from pliant.soak.campaign import soak as run

    mounts = isolate()
    chosen = seed if seed is not None else random.SystemRandom().randrange(1 << 32)
    click.echo(f"seed {chosen}, {duration:g} s, until about {time.strftime('%H:%M', _later(duration))}")
    record = run(mounts, chosen, duration, click.echo if verbose else lambda line: None)
    if record.broken:
        if not verbose:
            click.echo("\n".join(record.happened))
        click.echo(f"seed {chosen}: after {record.seconds:.1f} s: {record.broken}", err=True)
        sys.exit(1)
    result = Result.of("soak", 1, record.samples)
    for measure in result.results:
        click.echo(f"{measure.metric:18} {measure.median:>12,g} {measure.unit}")
    for name, count in sorted(record.counts.items()):
        click.echo(f"  {count:6,} times  {name}")
    if directory:
        click.echo(f"saved in {result.save(directory)}")


def _later(seconds: float) -> time.struct_time:
    return time.localtime(time.time() + seconds)


def main() -> None:
    """Run the command; errors are one sentence and a remedy, and end with the error's status."""
    try:
        soak(prog_name="python -m pliant.soak")
    except PliantError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"remedy: {error.remedy}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
