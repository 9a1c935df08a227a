# SPDX-License-Identifier: Apache-2.0
"""Boots stock Debian kernels with the built wheel and writes down what each supports: ``make test-kernels``."""

from __future__ import annotations

import argparse
import datetime
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from kernels import machine
from kernels.failure import Failure, run
from kernels.matrix import MARKS, load_results, page
from kernels.packages import mirror
from kernels.preparation import ROOT, WORK, alone, boot_of, emulator, fetch, say, user_space
from kernels.result import Result

RESULTS = ROOT / "docs" / "results" / "kernels"
PAGE = ROOT / "docs" / "kernels.md"
KERNELS = (
    "bookworm/cloud-amd64",
    "bookworm/amd64",
    "trixie/cloud-amd64",
    "trixie/amd64",
    "trixie-backports/cloud-amd64",
)
"""Suites and flavours: the oldest kernel that is supported, the one of the present stable release, and the newest."""


def main() -> int:
    """Boot them one after the other; 0 when nothing failed on any."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has it ignored
    try:
        with alone():
            return _test(arguments)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; no machine is left running", file=sys.stderr)
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="test-kernels", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="SUITE/FLAVOUR", help=f"default: {' '.join(KERNELS)}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results are written")
    parser.add_argument(
        "--quick", action="store_true", help="probes and objects only; the results are not kept in docs"
    )
    parser.add_argument(
        "--only", default="", metavar="NAME,...", help="these features and scenarios; not kept in docs either"
    )
    parser.add_argument(
        "--silence",
        type=float,
        default=600.0,
        metavar="S",
        help="give a guest up after so long without a word",
    )
    return parser.parse_args()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _test(arguments: argparse.Namespace) -> int:
    site = mirror()
    trial = Trial(site, user_space(site), emulator(site), arguments.silence, _words(arguments))
    directory = WORK / "quick" if arguments.quick or arguments.only else arguments.results
    done: list[Result] = []
    problems: list[str] = []
    for name in arguments.kernels or KERNELS:
        try:
            result = trial.of(name)
        except Failure as failure:
            problems.append(f"{name}: {failure}")
            say("FAIL", problems[-1])
            continue
        say("RESULT", str(result.save(directory)))
        done.append(result)
    if directory == RESULTS:
        PAGE.write_text(page(load_results(directory)))
    _summary(done)
    problems += [f"{result.name}: {failure}" for result in done for failure in result.failures()]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(problems))


def _words(arguments: argparse.Namespace) -> str:
    """What the guest is told to leave out, on its kernel's command line."""
    return "pliant.quick" if arguments.quick else f"pliant.only={arguments.only}" if arguments.only else ""


@dataclass
class Trial:
    """What all boots of a run share; ``words`` are for the guest, ``ways`` are the accelerators that it may survive."""

    site: str
    user_space: bytes
    emulator: str
    silence_s: float
    words: str
    ways: list[str] = field(default_factory=lambda: list(machine.accelerators()))

    def of(self, name: str) -> Result:
        """Fetch a kernel and boot it; one that dies before it is done is booted again, and the result says so."""
        kernel = fetch(self.site, name)
        release, boot = kernel.release, boot_of(kernel, self.user_space, self.words)
        for attempt in (1, 2):
            result = Result(
                kernel={
                    "suite": kernel.suite,
                    "package": kernel.package,
                    "package_version": kernel.version,
                },
                machine={"emulator": self.emulator, "boots": attempt},
                pliant={"commit": _commit()},
            )
            try:
                self._follow(boot, release, result)
                break
            except machine.Died as death:
                if attempt == 2:
                    raise
                say("AGAIN", f"{release}: {death}")
        result.date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return result

    def _follow(self, boot: machine.Boot, release: str, result: Result) -> None:
        """Boot with the quickest way there is, and forget each that a guest does not even start with."""
        while True:
            started = time.monotonic()
            say("BOOT", f"{release} ({self.ways[0]})")
            try:
                machine.follow(boot, self.ways[0], self.silence_s, partial(_on_event, result, started))
            except machine.Died as death:
                if death.spoke or len(self.ways) == 1:
                    raise
                say("BOOT", f"{release} does not start with {self.ways.pop(0)}: {death}")
            else:
                result.machine["accelerator"] = self.ways[0]
                return


def _on_event(result: Result, started: float, event: machine.Event) -> None:
    result.add(event)
    kind = event["event"]
    if kind == "broken":
        raise Failure(f"the checks themselves broke in the guest:\n{event['trace']}")
    if kind == "log":
        logs = WORK / "logs" / result.name
        logs.mkdir(parents=True, exist_ok=True)
        (logs / event["name"]).write_text(event["text"])
    elif kind != "hello":
        said = f": {event['said']}" if event.get("said") else ""
        if kind != "probe" or event["state"] == "failed":
            say("", f"{time.monotonic() - started:4.0f} s  {kind} {event['name']}: {event['state']}{said}")
        if event.get("trace"):
            print(event["trace"], file=sys.stderr)


def _commit() -> str:
    head = run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"]).strip()
    changed = subprocess.run(["git", "-C", ROOT, "diff", "--quiet", "HEAD", "--", "src", "bpf"]).returncode
    return head + ("-dirty" if changed else "")


def _summary(results: Sequence[Result]) -> None:
    """How many of each kind are there, a line a kernel."""
    print()
    row = "  {:20} {:>12} {:>12} {:>12} {:>12}"
    print(row.format("kernel", "abilities", "objects", "features", "scenarios"))
    for result in results:
        lists = (result.probes, result.objects, result.features, result.scenarios)
        good = [sum(MARKS[entry["state"]] == "yes" for entry in entries) for entries in lists]
        cells = [f"{count} of {len(entries)}" for count, entries in zip(good, lists, strict=True)]
        print(row.format(result.name, *cells))
    print()


if __name__ == "__main__":
    sys.exit(main())
