# SPDX-License-Identifier: Apache-2.0
"""Whether a host can do what Pliant is for, and whether it is as it should be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from pliant.agent.fastpath import interface_statuses
from pliant.agent.host import Host
from pliant.agent.sysctls import said_of_foreign, sysctl_statuses
from pliant.errors import PliantError
from pliant.fastpath.abilities import abilities
from pliant.features.layout import shipped_layout
from pliant.kernel.btf import Btf
from pliant.kernel.errors import KernelError
from pliant.kernel.pins import PinDirectory
from pliant.kernel.probes import Probe, State, probe_all
from pliant.policy.switches import Kind

REQUIRED = frozenset(
    {
        "privileges",
        "bpf_syscall",
        "btf",
        "libbpf",
        "cgroup_v2",
        "bpffs",
        "sock_ops",
        "socket_storage",
        "lpm_trie",
        "cgroup_link",
        "link_update",
    }
)
"""Probes without which no transport policy can be put in force."""

ASKED_ELSEWHERE = frozenset({"bpffs_mounted"})  # of the pin directory itself, below


class Level(Enum):
    """How a finding bears on the host."""

    OK = "ok"
    ABSENT = "absent"
    DEGRADED = "degraded"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: ``absent`` is a kernel feature this host does without, which costs nothing today."""

    name: str
    level: Level
    sentence: str
    remedy: str = ""


def examine(host: Host) -> list[Finding]:
    """Look at everything, changing nothing; a problem is a finding, never an exception."""
    return [
        *_probes(),
        *_guarded(
            "objects", lambda: f"the BPF objects of this build are there (layout {shipped_layout().digest})"
        ),
        *_guarded("pins", lambda: _pins(host)),
        *_guarded("journal", lambda: _journal(host)),
        *_agreement(host),
    ]


def _probes() -> Iterator[Finding]:
    for probe in _asked():
        if probe.name in ASKED_ELSEWHERE:
            continue
        if probe.support.state is State.SUPPORTED:
            level = Level.OK
        elif probe.name in REQUIRED:
            level = Level.BROKEN
        else:
            level = Level.ABSENT
        yield Finding(probe.name, level, probe.sentence, "" if level is Level.OK else str(probe.support))


def _asked() -> tuple[Probe, ...]:
    held: list[Btf] = []
    with suppress(KernelError):
        held.append(Btf.vmlinux())  # read once while it is held: several ask for them
    return (*probe_all(), *abilities())


def _guarded(name: str, look: Callable[[], str]) -> Iterator[Finding]:
    try:
        yield Finding(name, Level.OK, look())
    except PliantError as error:
        yield Finding(name, Level.BROKEN, error.message, error.remedy)


def _pins(host: Host) -> str:
    PinDirectory(host.places.pins).require()
    return f"programs can be pinned under {host.places.pins}"


def _journal(host: Host) -> str:
    return f"generation {host.journal.current()} is in force according to the journal in {host.places.state}"


def _agreement(host: Host) -> Iterator[Finding]:
    """Whether kernel and journal agree; said only where both can be read."""
    try:
        interrupted = host.journal.interrupted()
        if interrupted:
            yield Finding(
                "interrupted",
                Level.DEGRADED,
                f"generation {interrupted.number} ({interrupted.verb} by {interrupted.actor}) did not finish",
                f"the next command that changes this host settles it to generation {host.settled_to(interrupted)}",
            )
            return
        yield from _switches(host)
        yield from _sysctls(host)
        yield from _fastpath(host)
        drift = host.drift()
        conflicts = host.compile().conflicts
    except PliantError:
        return
    for conflict in conflicts:
        yield Finding(
            "conflict",
            Level.DEGRADED,
            f"{conflict}, on a service that appeared after they were applied; the older one is in force",
            "give one of them a higher spec.priority, or narrow its spec.match",
        )
    if drift:
        listed = "; ".join(step.sentence for step in drift[:3])
        yield Finding(
            "drift",
            Level.DEGRADED,
            f"the kernel differs from the journal by {len(drift)} steps: {listed}",
            "'pliant repair' brings them together",
        )
    else:
        yield Finding("agreement", Level.OK, "the kernel is as the journal says")


def _sysctls(host: Host) -> Iterator[Finding]:
    """The sysctls that are not as policies ask for, and that Pliant leaves so."""
    for status in sysctl_statuses(host) if host.sysctl_policies() else ():
        if status.state == "foreign":
            remedy = (
                f"delete policy '{status.policy}', or apply it anew after that: this is then the value before"
            )
            yield Finding("sysctl", Level.DEGRADED, said_of_foreign(status), remedy)
        elif status.state == "absent":
            sentence = f"there is no sysctl {status.name} {status.place}, which policy '{status.policy}' sets"
            yield Finding("sysctl", Level.DEGRADED, sentence, "take it out of the policy")


def _fastpath(host: Host) -> Iterator[Finding]:
    """How interfaces run the fast path that is asked for, or why they do not."""
    wishes = host.compile().desired.fastpath
    if not wishes:
        return
    for status in interface_statuses(host.fastpath, wishes, host.fastpath.arrangements(wishes)):
        arranged, name = status.arranged, f"fastpath {status.name}"
        if status.state == "accelerated":
            modules = ", ".join(module.name for module in arranged.modules)
            yield Finding(name, Level.OK, f"{status.name} is accelerated ({arranged.mode}): {modules}")
        elif status.state == "waiting" and arranged.wish:
            named = arranged.wish.names(status.name)
            why = "; ".join(dict.fromkeys(reason.sentence for reason in arranged.reasons[:3]))
            level = Level.DEGRADED if named else Level.ABSENT
            remedy = f"see '{arranged.reasons[0].look}'" if arranged.reasons else ""
            yield Finding(name, level, f"{status.name} is not accelerated: {why}", remedy)
        elif status.state == "pending":
            sentence = f"{status.name} does not run the fast path that it should"
            yield Finding(name, Level.DEGRADED, sentence, "'pliant repair' mends it, or an agent that runs")


def _switches(host: Host) -> Iterator[Finding]:
    """What somebody has switched off: nobody should have to wonder why nothing happens."""
    stored = host.journal.policies(host.journal.current())
    for switch in host.switches().off:
        what = switch.what
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(switch.at))
        sentence = f"{what} is off since {since}, by {switch.actor or '?'}"
        if switch.reason:
            sentence += f", because {switch.reason}"
        if what.kind is Kind.POLICY and what.name not in stored:
            sentence += "; there is no such policy now, and one that comes would be off"
        option = "" if what.kind is Kind.HOST else f" --{what.kind.value} {what.name}"
        yield Finding("off", Level.DEGRADED, sentence, f"'pliant on{option}' puts it in force again")
