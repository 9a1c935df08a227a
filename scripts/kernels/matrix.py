# SPDX-License-Identifier: Apache-2.0
"""The page that says what each kernel supports, made from the results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kernels.result import Entry, Result

MARKS = {
    "supported": "yes",
    "loads": "yes",
    "works": "yes",
    "unsupported": "no",
    "refused": "no",
    "partly": "partly",
    "unknown": "not known",
    "idle": "–",
    "failed": "**fails**",
}
NOT_TRIED = "not tried"

INTRODUCTION = """# What each kernel supports

`make test-kernels` boots stock Debian kernels in an emulator, with the built wheel in an otherwise plain user space,
and asks them: every probe of `pliant doctor`, the load of every object in the wheel, each feature on real connections
between two network namespaces, and the product as a whole, through the command line. The answers are kept under
[results/kernels](results/kernels), one file a kernel; this page is made from them.

*no* is an answer, not a defect: the sentence a person gets is below the table. What must hold on every kernel is that
nothing ends without a sentence, and that the scenarios at the end work.
"""


def load_results(directory: Path) -> list[Result]:
    """The results kept in a directory, the oldest kernel first."""
    return sorted((Result.read(path) for path in directory.glob("*.json")), key=_age)


def _age(result: Result) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", result.kernel["release"])[:2]], result.name


def page(results: Sequence[Result]) -> str:
    """The whole page; a sentence instead of tables when there are no results."""
    if not results:
        return f"{INTRODUCTION}\nNo kernel has been tried yet: run `make test-kernels`.\n"
    parts = [INTRODUCTION, _kernels(results)]
    parts += [
        "## Abilities of the kernel\n",
        _section(results, lambda r: r.probes, "ability", sentences=True),
    ]
    parts += [
        "## Objects\n",
        "Each loaded alone, from the wheel.\n",
        _section(results, lambda r: r.objects, "object"),
    ]
    parts += ["## Features\n", _FEATURES, _section(results, lambda r: r.features, "feature")]
    parts += ["## Scenarios\n", _section(results, lambda r: r.scenarios, "scenario", sentences=True)]
    return "\n".join(parts)


_FEATURES = (
    "Each feature's example value in force for a server's and a client's service; *yes* when the program counted that "
    "it set the option, or a socket was seen to have it; *–* when these connections gave it nothing to do.\n"
)


def _kernels(results: Sequence[Result]) -> str:
    rows = [
        [
            result.name,
            f"`{result.kernel['release']}`",
            f"{result.kernel['suite']}, {result.kernel['package_version']}",
            result.pliant.get("commit", ""),
            result.date[:10],
        ]
        for result in results
    ]
    return _table(["kernel", "release", "Debian", "commit tried", "on"], rows)


def _section(
    results: Sequence[Result], entries: Callable[[Result], list[Entry]], noun: str, *, sentences: bool = False
) -> str:
    by_kernel = [{entry["name"]: entry for entry in entries(result)} for result in results]
    names = list(dict.fromkeys(name for found in by_kernel for name in found))
    names.sort() if noun in ("object", "feature") else None
    rows = []
    for name in names:
        told = next((found[name].get("sentence", "") for found in reversed(by_kernel) if name in found), "")
        cells = [MARKS[found[name]["state"]] if name in found else NOT_TRIED for found in by_kernel]
        rows.append([f"`{name}`", *cells, *([_cell(told)] if sentences else [])])
    head = [noun, *(result.name for result in results), *(["what it is"] if sentences else [])]
    return "\n".join([_table(head, rows), *_notes(results, by_kernel, names)])


def _notes(
    results: Sequence[Result], by_kernel: Sequence[dict[str, Entry]], names: Iterable[str]
) -> list[str]:
    notes: list[str] = []
    for name in names:
        said: dict[str, list[str]] = {}
        for result, found in zip(results, by_kernel, strict=True):
            if name in found and found[name].get("said") and found[name]["state"] not in ("works", "loads"):
                said.setdefault(_plain(found[name]["said"]), []).append(result.name)
        notes += [f"- `{name}` on {', '.join(kernels)}: {sentence}" for sentence, kernels in said.items()]
    return [*notes, ""] if notes else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _plain(sentence: str) -> str:
    return _cell(re.sub(r" \(full log: \S+\)", "", sentence))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
