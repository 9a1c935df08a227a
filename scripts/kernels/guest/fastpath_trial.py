# SPDX-License-Identifier: Apache-2.0
"""What is tried of the fast path: hosts that forward datagrams, each in another way.

What the kernel cannot do has to be refused with a sentence, and the packets then arrive all the same.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from command import Unwilling, pliant_command
from fastpath_ground import EXCHANGES, Ground, dropping, filtered, overlaid, routed, switched, translated
from pliant.fastpath.abilities import lacking
from pliant.fastpath.capture import Capture, Tally
from pliant.fastpath.counters import ACCELERATED, DROPPED
from pliant.fastpath.objects import BRIDGING, PODS, ROUTING, shipped_object, tables_layout
from pliant.kernel.links import LinkType, all_links
from pliant.kernel.objects import load
from pliant.kernel.templates import template_of
from pliant.lab import Lab
from pliant.observe.fastpath import FastpathPins, Mode
from scenarios import Found, Scenario, expect, works
from stage import PINS, Stage, pinned

LEAST_RATIO = 0.75
"""Of the packets: the first ones, and one of each station and neighbour a second, are the kernel's."""
PATIENCE_S = 60.0

Status = dict[str, dict[str, Any]]


def of_the_fastpath() -> Iterator[Scenario]:
    """One scenario for each way of forwarding."""
    for name, ground, ability, sentence in (
        ("route", routed, "fastpath_route", "Packets of IPv4 and IPv6 take the fast path of a router"),
        ("filter", filtered, "fastpath_filter", "The same where nftables has rules"),
        ("nat", translated, "fastpath_connections", "The same where nftables masquerades"),
        ("bridge", switched, "fastpath_bridge", "Frames take the fast path of a bridge"),
        ("overlay", overlaid, "fastpath_overlay", "Packets take the fast path from pod to pod across nodes"),
    ):
        said = f"{sentence}, and the kernel's way again after it."
        yield f"fastpath_{name}", said, partial(_try, ground, ability)
    for mode in (Mode.NATIVE, Mode.GENERIC):
        said = f"A capture sees what is accelerated and what is dropped in {mode} mode, and nothing is left of it."
        yield f"fastpath_capture_{mode}", said, partial(_capture, mode)
    yield "fastpath_again", "A program that is loaded again, without libbpf, is the same.", _load_again


def _load_again(stage: Stage) -> Found:
    del stage
    done = []
    for name in (ROUTING, BRIDGING, PODS):
        if lacking(name):
            continue
        path = shipped_object(name)
        template = template_of(path, name, {})
        with load(path, feature=name) as first, template.load({}, {}) as again:
            expect(first.programs[name].tag == again.programs[name].tag, f"{name} has become another program")
        done.append(f"{name}, which calls a module" if template.modules else name)
    if not done:
        return {"state": "refused", "said": lacking(ROUTING)}
    return works("; ".join(done))


def _capture(mode: Mode, stage: Stage) -> Found:
    del stage
    if not _is_able("fastpath_filter"):
        return {"state": "refused", "said": "nothing is accelerated or dropped where there are rules"}
    with Lab("capture") as lab:
        ground, send = dropping(lab)
        ground.exchange()
        with ground.host.inside():
            pliant_command("fastpath", "on", "--mode", mode.value)
            try:
                with Capture(FastpathPins(PINS, tables_layout()), ground.names) as capture:
                    ground.exchange()
                    send()
                    verdicts, tally = _seen(capture)
                    limits = "; ".join(capture.limits)
            finally:
                pliant_command("fastpath", "off")
    left = [link for link in all_links() if link.type in (LinkType.TRACING, LinkType.RAW_TRACEPOINT)]
    expect(not left, f"still attached: {left}")
    expect(tally.lost == 0, f"packets are lost: {tally}, {limits}")
    expect(tally.dropped >= _sent(ground) / 2, f"too few are dropped: {tally}, {verdicts}")
    expect(
        verdicts[DROPPED] == tally.dropped - tally.unseen,
        f"not all dropped ones are told: {tally}, {verdicts}",
    )
    expect(
        tally.seen == verdicts[DROPPED] + verdicts[ACCELERATED], f"they do not add up: {tally}, {verdicts}"
    )
    if not limits:
        expect(tally.unseen == 0, f"some of the dropped ones were not seen: {tally}")
        expect(verdicts[ACCELERATED] >= _sent(ground), f"too few are accelerated: {verdicts}")
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    return works(f"{said}; {limits}" if limits else said)


def _seen(capture: Capture) -> tuple[Counter[str], Tally]:
    """What was seen until nothing more came, by verdict."""
    found: Counter[str] = Counter()
    for batch in capture.packets(PATIENCE_S):
        found.update(one.verdict for one in batch)
        if found and not batch:
            break
    return found, capture.tally()


def _try(prepare: Callable[[Lab], Ground], ability: str, stage: Stage) -> Found:
    del stage
    with Lab("fastpath") as lab:
        ground = prepare(lab)
        ground.exchange()
        with ground.host.inside():
            able = _is_able(ability)
            if not able:
                _expect_refusal(ground)
            pliant_command("fastpath", "on", "--mode", ground.mode)
            try:
                after, counts = _exchanged(ground, ground.names if able else ())
            finally:
                pliant_command("fastpath", "off")
            left = pinned()
        ground.exchange()
    expect(not left, f"still pinned: {', '.join(left)}")
    return _judged(ground, after, counts) if able else _refused(after, ground.names)


def _exchanged(ground: Ground, names: Sequence[str]) -> tuple[Status, dict[str, int]]:
    """Send until most is accelerated that comes in by some interfaces, or for some time; what was, the last time.

    Conntrack takes datagrams for a connection that goes on when they have gone both ways for two seconds.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = _status()
        ground.exchange()
        after = _status()
        counts = {n: after[n]["accelerated"]["packets"] - before[n]["accelerated"]["packets"] for n in names}
        if all(count >= _least(ground) for count in counts.values()) or time.monotonic() > deadline:
            return after, counts


def _sent(ground: Ground) -> int:
    return EXCHANGES * len(ground.addresses)


def _least(ground: Ground) -> float:
    return LEAST_RATIO * _sent(ground)


def _judged(ground: Ground, after: Status, counts: dict[str, int]) -> Found:
    for name, count in counts.items():
        state = after[name]["state"]
        expect(state == "accelerated", f"{name} is {state}: {_reasons(after[name])}")
        expect(count >= _least(ground), f"{count} of {_sent(ground)} packets accelerated: {after[name]}")
    modules = ", ".join(after[ground.names[0]]["modules"])
    said = " and ".join(map(str, counts.values()))
    return works(f"{modules}: {said} of {_sent(ground)} packets each way")


def _refused(after: Status, names: Sequence[str]) -> Found:
    """The kernel cannot: every interface has to say so."""
    said = set()
    for name in names:
        lacks = [reason["sentence"] for reason in after[name]["reasons"] if reason["code"] == "kernel-lacks"]
        expect(after[name]["state"] == "waiting", f"{name} is {after[name]['state']}")
        expect(bool(lacks), f"{name} does not say what the kernel lacks: {_reasons(after[name])}")
        said.update(lacks)
    return {"state": "refused", "said": "; ".join(sorted(said))}


def _expect_refusal(ground: Ground) -> None:
    """What is asked for by name is refused, not left waiting."""
    name = ground.names[0]
    try:
        pliant_command("fastpath", "on", "--mode", ground.mode, "--dev", name)
    except Unwilling as refusal:
        expect("this kernel lacks" in str(refusal), f"refused for another reason: {refusal}")
        return
    raise AssertionError(f"{name} was not refused what the kernel cannot")


def _is_able(ability: str) -> bool:
    found = pliant_command("doctor", "-o", "json", may=(0, 1, 2)).data()
    [one] = [finding for finding in found if finding["name"] == ability]
    expect(one["level"] in ("ok", "absent"), f"doctor says of {ability}: {one}")
    return bool(one["level"] == "ok")


def _status() -> Status:
    told = pliant_command("fastpath", "status", "-o", "json", may=(0, 1)).data()
    return {one["interface"]: one for one in told}


def _reasons(status: dict[str, Any]) -> str:
    return json.dumps(status["reasons"])
