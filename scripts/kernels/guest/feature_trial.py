# SPDX-License-Identifier: Apache-2.0
"""What is tried of the features of the build: their examples in force for both ends of connections, open ones and new.

All at once, for an emulated processor takes half a minute over each change; one by one where that is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

from command import Unwilling, pliant_command
from pliant.features import features
from pliant.features.feature import Feature, Reach
from pliant.lab import SocketState
from scenarios import Found, Scenario, expect, works
from stage import Difference, Stage, differences

REACHES_OPEN = frozenset({Reach.LIVE, Reach.LIVE_ONLY})
GIVEN_BACK = frozenset(
    {
        *("congestion_control", "max_pacing_rate", "tos", "tclass", "notsent_lowat"),
        *("rto_min_us", "rto_max_ms", "delack_max_us"),
    }
)
"""What a socket shows of the features that reach open connections, and the kernel does not move by itself."""

Features = Mapping[str, Feature]


class FeatureTrial:
    """What was found of each feature, once the first is asked for."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}
        self._seen: dict[str, Difference] = {}
        self._left: list[str] = []
        self._broken: Exception | None = None

    def of_features(self) -> Iterator[Scenario]:
        """One scenario for each feature of this build."""
        for name, feature in features().items():
            yield name, feature.option.summary, partial(self._of, name)

    def of_all(self) -> Iterator[Scenario]:
        """What can be said of all of them only."""
        sentence = "All features at once: what sockets show of them, and what open ones are given back."
        yield "features", sentence, self._together

    def _of(self, name: str, stage: Stage) -> Found:
        self._make_sure(stage)
        return self._found[name]

    def _together(self, stage: Stage) -> Found:
        self._make_sure(stage)
        expect(not self._left, f"not given back: {', '.join(self._left)}")
        for end, difference in self._seen.items():
            expect(bool(difference), f"nothing is seen to differ on the {end} socket")
        names = sorted({name for difference in self._seen.values() for name in difference})
        return works(f"seen to differ: {', '.join(names)}") | {"socket": self._seen}

    def _make_sure(self, stage: Stage) -> None:
        if self._broken:
            raise RuntimeError(f"broke with the first of them: {self._broken}")
        try:
            self._try_all(stage)
        except Exception as error:
            self._broken = error
            raise

    def _try_all(self, stage: Stage) -> None:
        """Try all that are not refused with a sentence; where nobody is named in that, each alone."""
        while chosen := {name: each for name, each in features().items() if name not in self._found}:
            try:
                self._try(chosen, stage)
            except Unwilling as refusal:
                complaints = {name: said for name in chosen if (said := complaint(name, str(refusal)))}
                if not complaints and len(chosen) == 1:
                    complaints = dict.fromkeys(chosen, str(refusal))
                if not complaints:
                    self._try_each(chosen, stage)
                for name, said in complaints.items():
                    self._found[name] = refused(chosen[name], said)

    def _try_each(self, chosen: Features, stage: Stage) -> None:
        for name, feature in chosen.items():
            try:
                self._try({name: feature}, stage)
            except Unwilling as refusal:
                self._found[name] = refused(feature, complaint(name, str(refusal)) or str(refusal))

    def _try(self, chosen: Features, stage: Stage) -> None:
        """Put the examples in force for both ends, and see what was counted and what sockets say."""
        plain = connected(stage)  # the last of them stays open
        with stage.in_force(*policies(chosen, stage)):
            opened = outcomes(chosen)
            tuned = connected(stage)
            counted = outcomes(chosen)
        self._seen |= {end: differences(plain[end], tuned[end]) for end in plain}
        self._left += not_restored(stage, plain, chosen, self._seen)
        for name, feature in chosen.items():
            new = {what: times - opened[name].get(what, 0) for what, times in counted[name].items()}
            found = {"value": feature.option.example, "counted": new, **judged(new)}
            if feature.reach in REACHES_OPEN:
                found["live"] = judged_open(opened[name])
            self._found[name] = found


def refused(feature: Feature, said: str) -> Found:
    """The answer for a feature that a sentence refuses."""
    found = {"state": "refused", "said": said}
    live = {"live": found} if feature.reach in REACHES_OPEN else {}
    return {"value": feature.option.example, **found, **live}


def complaint(name: str, refusal: str) -> str:
    """What a refusal says of a feature's value, without the names of the policies; nothing where it does not."""
    said = refusal.partition(f"spec.tune.{name}: ")[2]
    return said.partition(" policy '")[0].partition(" remedy:")[0]


def policies(chosen: Features, stage: Stage) -> list[str]:
    """The examples of the features as policies, for each end and reach one."""
    made = []
    for reaches, applies_to in ((REACHES_OPEN, "live"), ({Reach.NEW_ONLY}, "new")):
        values = {name: each.option.example for name, each in chosen.items() if each.reach in reaches}
        for role in ("client", "server") if values else ():
            made.append(stage.policy(role, values, name=f"{role}-{applies_to}", applyTo=applies_to))
    return made


def outcomes(names: Collection[str]) -> dict[str, dict[str, int]]:
    """How often the program of each feature has done what."""
    told = pliant_command("get", "features", "-o", "json").data()
    found = {each["feature"]: each["outcomes"] for each in told}
    return {name: found[name] for name in names}


def connected(stage: Stage) -> dict[str, SocketState]:
    """Make a connection over each IP version, and return the states of their ends: "server, IPv4"."""
    found = {}
    for version, address in (("IPv4", stage.server_host.address), ("IPv6", stage.server_host.address6)):
        for role, state in stage.connect(address).items():
            found[f"{role}, {version}"] = state
        stage.exchange()
    return found


def not_restored(
    stage: Stage, plain: dict[str, SocketState], chosen: Features, seen: dict[str, Difference]
) -> list[str]:
    """What the open connection still has of the settings that were seen to be made, after all was taken back."""
    if not any(feature.reach in REACHES_OPEN for feature in chosen.values()):
        return []
    left = []
    for role, now in stage.now().items():
        end = f"{role}, IPv6"
        still = differences(plain[end], now)
        left += [f"{name} of the {role}" for name in still if name in seen[end] and name in GIVEN_BACK]
    return left


def judged(counted: dict[str, int]) -> Found:
    """What the counters say of a feature."""
    said_no, applied = counted.get("refused", 0), counted.get("applied", 0)
    if said_no and not applied:
        return {"state": "refused", "said": f"the kernel refused the setting on all {said_no} sockets"}
    if said_no:
        return {"state": "partly", "said": f"set on {applied} sockets, refused by the kernel on {said_no}"}
    if applied:
        return works()
    if counted.get("unchanged", 0):
        return works("the sockets had that setting already")
    return {"state": "idle", "said": "in force, but these connections gave it nothing to do"}


def judged_open(counted: dict[str, int]) -> Found:
    """What the counters say of the two sockets that were open when the policies came."""
    said_no, applied = counted.get("refused", 0), counted.get("applied", 0)
    if said_no:
        state = "partly" if applied else "refused"
        return {"state": state, "said": f"refused by the kernel on {said_no} of 2 sockets"}
    if applied == 2:
        return works()
    if counted.get("unchanged", 0):
        return {"state": "refused", "said": "what a socket had before cannot be read on this kernel"}
    return {"state": "failed", "said": f"set on {applied} of 2 open sockets"}
