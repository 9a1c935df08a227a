# SPDX-License-Identifier: Apache-2.0
"""Taking everything of ours off a host whatever is in the way: a journal that cannot be used, a process that hangs.

Nothing is taken back here when a step fails: what can be taken off is taken off, and what is left is named.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pliant.agent.actuator import Ground, KernelActuator
from pliant.agent.change import Applied
from pliant.agent.host import Host
from pliant.agent.lock import LOCK_NAME, HostBusy
from pliant.agent.off_mark import write_mark
from pliant.agent.origin import Origin
from pliant.agent.places import Places
from pliant.errors import PliantError
from pliant.features.layout import shipped_layout
from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.pins import PinDirectory
from pliant.observe.fastpath import FastpathPins
from pliant.observe.pin_tree import LAYOUT_NAME, PinTree
from pliant.policy.desired import NOTHING
from pliant.policy.switches import HOST, Switch
from pliant.store.audit import AuditLog
from pliant.store.holdings import Holdings

DEATH_S = 2.0
RETRY_S = 0.01
NO_HOLDOUT_KEY = 0  # nothing is loaded here


@dataclass(frozen=True, slots=True)
class Forced:
    """What was done: the change, where it could be made as any other; else what is left and what went wrong.

    ``killed`` is the process that held the host and would not let go.
    """

    applied: Applied | None
    killed: int | None = None
    problems: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def force_off(host: Host, *, reason: str, actor: str) -> Forced:
    """Switch everything off: as any other change if it can be, else without the journal, else without the lock.

    A process that holds the host longer than the host's timeout is killed first: it might go on putting things back
    where this has taken them away. What it was doing is settled by this.
    """
    killed, problems = None, []
    try:
        return Forced(_switch_off(host, reason, actor))
    except HostBusy as error:
        killed = kill_holder(host.places.state)
        problems.append(error.message)
    except (PliantError, OSError, sqlite3.Error) as error:
        problems.append(_sentence(error))
    if killed:
        host.lock_timeout_s = DEATH_S
        try:
            return Forced(_switch_off(host, reason, actor), killed)
        except (PliantError, OSError, sqlite3.Error) as error:
            problems.append(_sentence(error))
    host.close()
    problems += _note(host.places, reason, actor)
    problems += take_everything_off(host.places)
    return Forced(None, killed, tuple(problems), tuple(map(str, left(host.places))))


def _switch_off(host: Host, reason: str, actor: str) -> Applied:
    with host.exclusively(to_switch_off=True):
        return host.carry_out(host.change_to_off(reason=reason, actor=actor), actor=actor)


def kill_holder(state: Path) -> int | None:
    """Kill the process that holds the lock of a state directory and wait for its end; None when there is none."""
    pid = lock_holder(state)
    if pid is None or pid == os.getpid():
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + DEATH_S
    while lock_holder(state) == pid and time.monotonic() < deadline:
        time.sleep(RETRY_S)
    return pid


def lock_holder(state: Path) -> int | None:
    """The process that holds the lock, as the kernel says (proc_locks(5)): what the file says may be out of date."""
    try:
        wanted = (state / LOCK_NAME).stat()
    except OSError:
        return None
    device = f"{os.major(wanted.st_dev):02x}:{os.minor(wanted.st_dev):02x}:{wanted.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1:2] == ["FLOCK"] and words[5] == device:
            return int(words[4])
    return None


def take_everything_off(places: Places) -> list[str]:
    """Detach and unload everything under the pins, of whatever build; what went wrong on the way.

    First as a plan does it, in its order, with open connections given back what they had; then whatever is left.
    """
    problems = []
    try:
        with Host(places) as host:
            root, layout = host.cgroup_root, shipped_layout()
            ground = Ground(host.pins, layout, root, NO_HOLDOUT_KEY, Holdings(places.state))
            actuator = KernelActuator(ground)
            for step in host.plan_towards(NOTHING, host.cgroups()):
                try:
                    actuator.act(step)
                except (PliantError, OSError) as error:
                    problems.append(f"could not {step.sentence}: {_sentence(error)}")
    except (PliantError, OSError) as error:
        problems.append(_sentence(error))
    for pin in FastpathPins(places.pins, "").links():
        with contextlib.suppress(KernelError, OSError), Link.pinned(pin) as link:
            link.detach()
    for directory in left(places):
        tree = PinTree(places.pins, directory.name)
        for pin in tree.link_pins():
            with contextlib.suppress(KernelError, OSError), Link.pinned(pin) as link:
                link.detach()
        with contextlib.suppress(OSError, PliantError):
            PinDirectory(directory).remove_tree()
    with contextlib.suppress(OSError):
        places.pins.rmdir()
    return problems


def left(places: Places) -> list[Path]:
    """The directories of pins that are still there: one for each layout, and the fast path's."""
    with contextlib.suppress(OSError):
        own = FastpathPins(places.pins, "").directory
        return sorted(p for p in places.pins.iterdir() if LAYOUT_NAME.fullmatch(p.name) or p == own)
    return []


def _note(places: Places, reason: str, actor: str) -> Iterator[str]:
    """Record that everything is off where it can be recorded; a sentence for each place where it cannot."""
    try:
        write_mark(places.state, Switch(HOST, reason, actor, time.time()))
    except OSError as error:
        yield (
            f"that everything is off could not be recorded in {places.state} ({_sentence(error)}): an agent, or the "
            "next change, puts the policies back; stop the agent"
        )
    body = {
        "event": "note",
        "host": os.uname().nodename,
        "verb": "off",
        "reason": reason,
        "actor": actor,
        "who": Origin.of_this_process().as_data(),
        "details": {"forced": True},
    }
    try:
        AuditLog(places.state).append(body, None, durable=True)
    except PliantError as error:
        yield error.message


def _sentence(error: BaseException) -> str:
    if isinstance(error, PliantError):
        return error.message
    if isinstance(error, sqlite3.Error):
        return f"the journal cannot be used: {error}"
    return str(getattr(error, "strerror", "") or error).lower()
