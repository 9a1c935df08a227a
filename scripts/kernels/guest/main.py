# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest: tries everything, and writes an event a line to standard output."""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import fastpath_trial
import scenarios
from command import in_child
from feature_trial import FeatureTrial
from instruction_counts import tell_counts
from pliant import __version__
from pliant.errors import PliantError
from pliant.fastpath import abilities
from pliant.kernel import probes
from pliant.kernel.libbpf import libbpf
from pliant.kernel.objects import load
from stage import Stage

events = os.fdopen(os.dup(1), "w", buffering=1)  # nothing else may write between the events
os.dup2(2, 1)


def tell(event: str, **content: Any) -> None:
    """Write one event."""
    events.write(json.dumps({"event": event, **content}) + "\n")


def main() -> None:
    """Try it all, in the order in which one thing needs the other."""
    kernel = os.uname()
    tell(
        "hello",
        release=kernel.release,
        version=kernel.version,
        python=platform.python_version(),
        pliant=__version__,
        libbpf=f"{libbpf().libbpf_major_version()}.{libbpf().libbpf_minor_version()}",
    )
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
    if "pliant.instructions" in words:
        tell_counts(tell, int(words["pliant.instructions"]))
        return
    for name in probes.names():
        tell("probe", name=name, **outcome(partial(answer, probes.probe, name)))
    for name in abilities.names():
        tell("probe", name=name, **outcome(partial(answer, abilities.ability, name)))
    for path in sorted(shipped_objects()):
        tell("object", name=path.name.removesuffix(".bpf.o"), **load_object(path))
    if "pliant.quick" not in words:
        on_stage(set(filter(None, words.get("pliant.only", "").split(","))))
    for path in Path("/var/log/pliant").glob("*.log"):
        tell("log", name=path.name, text=path.read_text(errors="replace"))


def on_stage(only: set[str]) -> None:
    """Try the features and the scenarios, or those of a set."""
    trial = FeatureTrial()
    told = (
        ("feature", trial.of_features()),
        ("scenario", trial.of_all()),
        ("scenario", fastpath_trial.of_the_fastpath()),
        ("scenario", scenarios.of_the_core()),
    )
    with Stage() as stage:
        for kind, attempts in told:
            for name, sentence, attempt in attempts:
                if not only or name in only:
                    tell(kind, name=name, sentence=sentence, **outcome(partial(attempt, stage)))


def outcome(attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an attempt found; one that ends in an exception says so."""
    try:
        return attempt()
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, PliantError):
            what = f"{error.message}; {error.remedy}"
        return {"state": "failed", "said": what, "trace": traceback.format_exc()}


def answer(ask: Callable[[str], probes.Probe], name: str) -> dict[str, Any]:
    """What one probe answers."""
    found = ask(name)
    return {"sentence": found.sentence, "state": found.support.state.value, "said": found.support.reason}


def shipped_objects() -> list[Path]:
    """Every object in the installed package, wherever it lies."""
    return list(Path(str(resources.files("pliant"))).rglob("*.bpf.o"))


def load_object(path: Path) -> dict[str, Any]:
    """Load an object in a process of its own; when it is refused, each of its programs alone."""
    found = try_to_load(path, None)
    if found["state"] == "loads":
        return found
    programs = functions(path)
    if len(programs) > 1:
        found["programs"] = [try_to_load(path, name) | {"name": name} for name in programs]
    return found


def try_to_load(path: Path, program: str | None) -> dict[str, Any]:
    """Load an object, or one program of it, and take it out of the kernel again."""

    def attempt() -> dict[str, Any]:
        chosen = None if program is None else [program]
        try:
            with load(path, feature=path.name.removesuffix(".bpf.o"), autoload=chosen) as loaded:
                return {
                    "state": "loads",
                    "said": "",
                    "programs": [loads(name) for name in sorted(loaded.programs)],
                }
        except PliantError as error:
            return {"state": "refused", "said": error.message, "remedy": error.remedy}

    return in_child(attempt)


def loads(program: str) -> dict[str, Any]:
    """The answer for a program that the kernel took."""
    return {"name": program, "state": "loads", "said": ""}


def functions(path: Path) -> list[str]:
    """The programs of an object: what libbpf says it has when it is asked for one that is not there."""
    try:
        load(path, feature="object", autoload=["no such program"]).close()
    except PliantError as error:
        listed = error.message.rpartition("it has: ")[2]
        return [] if listed == "none" else listed.split(", ")
    return []


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        tell("broken", trace=traceback.format_exc())
        sys.exit(1)
