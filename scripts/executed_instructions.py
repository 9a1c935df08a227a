# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions that a packet takes in each module of the fast path, by emulation: ``make instructions``.

A machine whose clock goes on by a nanosecond with every instruction runs the cases of ``pliant bench modules``. How
long the kernel says that the program ran is how many instructions that were, on any host and however busy it is, those
of the kernel's functions that it calls among them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from kernels import machine
from kernels.failure import Failure
from kernels.packages import mirror
from kernels.preparation import ROOT, alone, boot_of, emulator, fetch, say, user_space
from pliant.bench import machine as here
from pliant.bench.bench import Sample
from pliant.bench.result import Measure, Result

NAME = "executed-instructions"
RECORDED = ROOT / "docs" / "results"
KERNEL = "trixie-backports/cloud-amd64"
MORE_RATIO = 1.03
MORE_LEAST = 3
"""What is counted is rounded to whole instructions, thrice."""


def main() -> int:
    """Count; 0 when nothing needs more than recorded, or when it is recorded anew."""
    arguments = _arguments()
    try:
        with alone():
            found = count(arguments.kernel, arguments.runs, arguments.silence)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    path = arguments.results / f"{NAME}.json"
    recorded = Result.from_document(json.loads(path.read_text())) if path.exists() else None
    _tell(found, recorded)
    if arguments.save:
        say("RESULT", str(found.save(arguments.results)))
        return 0
    complaints = (
        list(grown(found, recorded)) if recorded else [f"nothing is recorded in {path}: --save does it"]
    )
    for complaint in complaints:
        print(f"error: {complaint}", file=sys.stderr)
    return int(bool(complaints))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="instructions", description=__doc__)
    parser.add_argument(
        "kernel", nargs="?", default=KERNEL, metavar="SUITE/FLAVOUR", help=f"default: {KERNEL}"
    )
    parser.add_argument("--runs", type=int, default=3, help="count each case this often")
    parser.add_argument("--save", action="store_true", help="record what is found")
    parser.add_argument("--results", type=Path, default=RECORDED, metavar="DIR", help="where it is recorded")
    parser.add_argument(
        "--silence", type=float, default=600.0, metavar="S", help="give up after so long without a word"
    )
    return parser.parse_args()


def count(name: str, runs: int, silence_s: float) -> Result:
    """Boot a kernel and have it count."""
    site, commit = mirror(), here.commit()  # first: the checkout may change meanwhile
    shared, version, kernel = user_space(site), emulator(site), fetch(site, name)
    boot = boot_of(kernel, shared, f"pliant.instructions={runs}", counts=True)
    say("BOOT", f"{kernel.release} (an instruction is a nanosecond)")
    samples: list[Sample] = []
    machine.follow(boot, "tcg", silence_s, partial(_on_event, samples, time.monotonic()))
    if not samples:
        raise Failure("the guest has counted nothing")
    found = Result.of(NAME, runs, samples, kernel=kernel.release, cpu=f"QEMU {version}, 1 CPU")
    return replace(found, commit=commit)


def _on_event(samples: list[Sample], started: float, event: machine.Event) -> None:
    kind = event["event"]
    if kind == "broken":
        raise Failure(f"counting broke in the guest:\n{event['trace']}")
    if kind == "sample":
        samples.append(Sample(event["metric"], event["unit"], event["value"]))
    elif kind == "progress":
        say("", f"{time.monotonic() - started:4.0f} s  {event['said']}")


def grown(found: Result, recorded: Result) -> Iterator[str]:
    """Yield a sentence for each case that needs more than was recorded, and for one that is no longer counted."""
    now = {measure.metric: measure for measure in found.results}
    other = (
        f" (recorded on {recorded.kernel}, counted on {found.kernel})"
        if recorded.kernel != found.kernel
        else ""
    )
    for before in recorded.results:
        after = now.get(before.metric)
        if after is None:
            yield f"{before.metric} is recorded, and was not counted"
        elif after.median > before.median * MORE_RATIO and after.median - before.median > MORE_LEAST:
            more = 100 * (after.median / before.median - 1)
            yield (
                f"{before.metric} needs {after.median:g} instructions a packet, {before.median:g} are recorded: "
                f"{more:.1f} % more{other}; make it need less, or record it with --save"
            )


def _tell(found: Result, recorded: Result | None) -> None:
    before = {measure.metric: measure for measure in recorded.results} if recorded else {}
    print(f"\n  {'instructions a packet':24} {'median':>8} {'least':>8} {'most':>8} {'recorded':>9}")
    for measure in found.results:
        known = f"{before[measure.metric].median:g}" if measure.metric in before else "-"
        print(f"  {measure.metric:24} {_row(measure)} {known:>9}")
    print(f"\n  {found.origin}")


def _row(measure: Measure) -> str:
    return " ".join(f"{value:8g}" for value in (measure.median, measure.min, measure.max))


if __name__ == "__main__":
    sys.exit(main())
