# SPDX-License-Identifier: Apache-2.0
"""What is tried of each feature of the build: its example in force for both ends of connections, open ones and new."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from command import Unwilling, pliant_command
from pliant.features import features
from pliant.features.feature import Feature, Reach
from pliant.lab import SocketState
from scenarios import Found, Scenario
from stage import Difference, Stage, differences

MOVING = frozenset({"snd_cwnd", "snd_ssthresh", "rto_us", "rcvbuf", "sndbuf"})
"""What the kernel moves by itself, once a connection has been used."""


def of_features() -> Iterator[Scenario]:
    """One scenario for each feature of this build."""
    for name, feature in features().items():
        yield name, feature.option.summary, partial(try_feature, feature)


def try_feature(feature: Feature, stage: Stage) -> Found:
    """Put the feature's example in force for both ends, connect, and see what was counted and what sockets say."""
    value, is_live = feature.option.example, feature.reach is Reach.LIVE
    plain = connected(stage)  # the last of them stays open
    spec = {"applyTo": "live"} if is_live else {}
    policies = [stage.policy(role, {feature.name: value}, **spec) for role in ("client", "server")]
    try:
        with stage.in_force(*policies):
            opened = outcomes_of(feature)
            tuned = connected(stage)
            counted = outcomes_of(feature)
    except Unwilling as refusal:
        refused = {"state": "refused", "said": complaint(feature, str(refusal))}
        return {"value": value, **refused, **({"live": refused} if is_live else {})}
    seen = {end: differences(plain[end], tuned[end]) for end in plain}
    found = {"value": value, "counted": counted, "socket": seen, **judged(counted, seen)}
    if is_live:
        found["live"] = judged_open(opened, not_restored(stage, plain, seen))
    return found


def complaint(feature: Feature, refusal: str) -> str:
    """What a refusal says of the value, without the names of the policies."""
    said = refusal.partition(f"spec.tune.{feature.name}: ")[2]
    return said.partition(" policy '")[0].partition(" remedy:")[0] or refusal


def outcomes_of(feature: Feature) -> dict[str, int]:
    """How often its program has done what."""
    [told] = pliant_command("get", "features", feature.name, "-o", "json").data()
    counted: dict[str, int] = told["outcomes"]
    return counted


def connected(stage: Stage) -> dict[str, SocketState]:
    """Make a connection over each IP version, and return the states of their ends: "server, IPv4"."""
    found = {}
    for version, address in (("IPv4", stage.server_host.address), ("IPv6", stage.server_host.address6)):
        for role, state in stage.connect(address).items():
            found[f"{role}, {version}"] = state
        stage.exchange()
    return found


def not_restored(stage: Stage, plain: dict[str, SocketState], seen: dict[str, Difference]) -> list[str]:
    """What the open connection still has of the settings that were seen to be made, after all was taken back."""
    left = []
    for role, now in stage.now().items():
        end = f"{role}, IPv6"
        still = differences(plain[end], now)
        left += [f"{name} of the {role}" for name in still if name in seen[end] and name not in MOVING]
    return left


def judged(outcomes: dict[str, int], seen: dict[str, Difference]) -> Found:
    """What the counters and the sockets say of a feature."""
    refused, applied = outcomes.get("refused", 0), outcomes.get("applied", 0)
    if refused and not applied:
        return {"state": "refused", "said": f"the kernel refused the setting on all {refused} sockets"}
    if refused:
        plain = "; ".join(end for end, changed in seen.items() if not changed)
        where = (
            f"; unchanged: {plain} (an IPv4 connection of an IPv6 socket)" if plain == "server, IPv4" else ""
        )
        said = f"set on {applied} sockets, refused by the kernel on {refused}{where}"
        return {"state": "partly", "said": said}
    if applied or (not outcomes and any(seen.values())):
        return {"state": "works", "said": ""}
    if outcomes.get("unchanged", 0):
        return {"state": "works", "said": "the sockets had that setting already"}
    return {"state": "idle", "said": "in force, but these connections gave it nothing to do"}


def judged_open(outcomes: dict[str, int], left: list[str]) -> Found:
    """What was done on the connection that was open when the policies came, and whether it was taken back."""
    if left:
        return {"state": "failed", "said": f"not given back: {', '.join(left)}"}
    refused, applied = outcomes.get("refused", 0), outcomes.get("applied", 0)
    if refused:
        return {
            "state": "partly" if applied else "refused",
            "said": f"refused by the kernel on {refused} sockets",
        }
    if applied == 2:
        return {"state": "works", "said": ""}
    if outcomes.get("unchanged", 0):
        return {"state": "refused", "said": "what a socket had before cannot be read on this kernel"}
    return {"state": "failed", "said": f"set on {applied} of 2 open sockets"}
