# SPDX-License-Identifier: Apache-2.0
"""What is tried on every kernel, through the command line: each feature of the build, then the product as a whole.

Each scenario returns ``state`` (works, refused, idle, failed), and in ``said`` what a person should know of it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from agent_process import running_agent
from command import Unwilling, killed_after, pliant_command, wait_until
from pliant.cli.main import COMMANDS
from pliant.features import features
from pliant.features.feature import Feature, Reach
from pliant.kernel.cgroup_query import attached
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.links import AttachType
from pliant.lab import SocketState
from stage import Difference, Stage, differences, pinned

Found = dict[str, Any]
Scenario = tuple[str, str, Callable[[Stage], Found]]
WINDOW = 33


def of_features() -> Iterator[Scenario]:
    """One scenario for each feature of this build."""
    for name, feature in features().items():
        yield name, feature.option.summary, partial(try_feature, feature)


def of_the_core() -> Iterator[Scenario]:
    """The functions below, told by their docstrings."""
    for name, function in list(globals().items()):
        if name.startswith("core_"):
            yield name.removeprefix("core_"), (function.__doc__ or "").strip(), function


def try_feature(feature: Feature, stage: Stage) -> Found:
    """Put the feature's example in force for both ends, connect, and see what was counted and what sockets say."""
    value = feature.option.example
    plain = connected(stage)
    shared = {"applyTo": "live"} if feature.reach is Reach.LIVE_ONLY else {}
    try:
        with stage.in_force(
            *(stage.policy(role, {feature.name: value}, **shared) for role in ("client", "server"))
        ):
            tuned = connected(stage)
            [counted] = pliant_command("get", "features", feature.name, "-o", "json").data()
    except Unwilling as refusal:
        return {"state": "refused", "said": str(refusal), "value": value}
    seen = {end: differences(plain[end], tuned[end]) for end in plain}
    outcomes = counted["outcomes"]
    return {"value": value, "counted": outcomes, "socket": seen, **judged(outcomes, seen)}


def connected(stage: Stage) -> dict[str, SocketState]:
    """Make a connection over each IP version, and return the states of their ends: "server, IPv4"."""
    found = {}
    for version, address in (("IPv4", stage.server_host.address), ("IPv6", stage.server_host.address6)):
        for role, state in stage.connect(address).items():
            found[f"{role}, {version}"] = state
        stage.exchange()
    return found


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
        return {
            "state": "partly",
            "said": f"set on {applied} sockets, refused by the kernel on {refused}{where}",
        }
    if applied or (not outcomes and any(seen.values())):
        return {"state": "works", "said": ""}
    if outcomes.get("unchanged", 0):
        return {"state": "works", "said": "the sockets had that setting already"}
    return {"state": "idle", "said": "in force, but these connections gave it nothing to do"}


def works(said: str = "") -> Found:
    """A scenario that went as it should."""
    return {"state": "works", "said": said}


def other_congestion_control() -> str:
    """One that is not the default."""
    default = open("/proc/sys/net/ipv4/tcp_congestion_control").read().strip()  # noqa: SIM115
    return next(name for name in ("reno", "cubic") if name != default and name in congestion_controls())


def expect(condition: bool, what: str) -> None:
    """Fail with a sentence when something is not as it must be."""
    if not condition:
        raise AssertionError(what)


def expect_agreement() -> None:
    """The doctor finds nothing broken or degraded, and that kernel and journal agree."""
    findings = {found["name"]: found for found in pliant_command("doctor", "-o", "json", may=(0, 1)).data()}
    bad = [found["sentence"] for found in findings.values() if found["level"] in ("degraded", "broken")]
    expect(not bad, "; ".join(bad))
    expect("agreement" in findings, "the doctor does not say that kernel and journal agree")


def core_command(stage: Stage) -> Found:
    """The installed command starts, as a program of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "pliant", "--version"], capture_output=True, text=True, check=True
    )
    return works(done.stdout.strip())


def core_doctor(stage: Stage) -> Found:
    """The doctor says what this kernel lacks, each in a sentence, and that policies can be put in force."""
    done = pliant_command("doctor", "-o", "json", may=(0, 1, 2))
    findings = done.data()
    expect(all(found["sentence"] for found in findings), "a finding has no sentence")
    broken = [f"{found['sentence']} {found['remedy']}" for found in findings if found["level"] == "broken"]
    expect(not broken, "; ".join(broken))
    absent = [found["name"] for found in findings if found["level"] == "absent"]
    return works(f"does without: {', '.join(absent)}" if absent else "nothing is missing")


def core_tuned(stage: Stage) -> Found:
    """A policy tunes the sockets of its service in a network namespace, IPv4 and IPv6, and no others."""
    chosen = other_congestion_control()
    plain = stage.connect()
    with stage.in_force(stage.policy("server", {"initial_cwnd": WINDOW, "congestion_control": chosen})):
        for address in (stage.server_host.address, stage.server_host.address6):
            found = stage.connect(address)
            given = (found["server"].snd_cwnd, found["server"].congestion_control)
            expect(given == (WINDOW, chosen), f"the server's socket to {address} has {given}")
            expect(found["client"].snd_cwnd == plain["client"].snd_cwnd, "the client's socket was tuned, too")
        [status] = pliant_command("get", "policies", "-o", "json").data()
        expect(status["status"]["state"] == "active", f"the policy is {status['status']['state']}")
        expect(status["status"]["treated"] == 2, f"{status['status']['treated']} connections counted, 2 made")
        expect_agreement()
    was = plain["server"]
    return works(f"initial window {was.snd_cwnd} to {WINDOW}, {was.congestion_control} to {chosen}")


def core_loopback(stage: Stage) -> Found:
    """The same over loopback, for the connecting socket."""
    with stage.in_force(stage.policy("local", {"initial_cwnd": WINDOW})):
        found = stage.connect_over_loopback()
        expect(found["local"].snd_cwnd == WINDOW, f"the window is {found['local'].snd_cwnd}")
        expect(found["server"].snd_cwnd != WINDOW, "the server's socket was tuned, too")
    return works()


def core_pins(stage: Stage) -> Found:
    """What is in force stays in force without a process of ours, and the next one takes it over as it is."""
    policy = stage.policy("server", {"initial_cwnd": WINDOW})
    with stage.in_force(policy):
        pins = pinned()
        expect(any("/links/" in f"/{pin}" for pin in pins), f"no link is pinned: {pins}")
        expect(stage.connect()["server"].snd_cwnd == WINDOW, "a connection was not tuned")
        again = pliant_command("apply", "-f", "-", "-o", "json", given=policy).data()
        expect(again["plan"] == [], f"applying the same again takes {len(again['plan'])} steps")
        expect(pinned() == pins, "applying the same again changed the pins")
        expect_agreement()
    return works(f"{len(pins)} pins")


def core_kill(stage: Stage) -> Found:
    """An apply that is killed is settled by the next command, and the kernel is then as the journal says."""
    policy = stage.policy("server", {"initial_cwnd": WINDOW})
    started = time.monotonic()
    with stage.in_force(policy):
        whole_s = time.monotonic() - started
    killed = 0
    for part in (0.4, 0.6, 0.8):
        killed += killed_after(part * whole_s, "apply", "-f", "-", given=policy)
        pliant_command("repair", "-o", "json")
        expect_agreement()
        tuned = bool(pliant_command("get", "policies", "-o", "json").data())
        expect(
            (stage.connect()["server"].snd_cwnd == WINDOW) == tuned,
            f"in force: {tuned}, but the socket differs",
        )
        pliant_command("rollback", "0", "-o", "json")
    return works(f"killed {killed} times of 3")


def core_rollback(stage: Stage) -> Found:
    """Rollback takes everything back: new connections are plain, open ones go on, and nothing is left in the kernel."""
    plain = stage.connect()
    with stage.in_force(stage.policy("server", {"initial_cwnd": WINDOW})):
        expect(stage.connect()["server"].snd_cwnd == WINDOW, "the connection was not tuned")
    stage.exchange()
    left = pinned()
    expect(not left, f"still pinned: {', '.join(left)}")
    again = stage.connect()
    changed = {role: differences(plain[role], again[role]) for role in plain}
    expect(not any(changed.values()), f"a new connection still differs: {changed}")
    expect_agreement()
    return works()


def core_live(stage: Stage) -> Found:
    """applyTo: live tunes open connections, and rollback gives each what it had."""
    chosen = other_congestion_control()
    before = stage.connect()["server"]
    try:
        with stage.in_force(stage.policy("server", {"congestion_control": chosen}, applyTo="live")):
            during = stage.now()["server"]
            expect(during.congestion_control == chosen, f"the open socket has {during.congestion_control}")
    except Unwilling as refusal:
        return {"state": "refused", "said": str(refusal)}
    after = stage.now()["server"]
    expect(after.congestion_control == before.congestion_control, f"left with {after.congestion_control}")
    names = [name for name, feature in features().items() if feature.reach is Reach.LIVE]
    return works(f"live features of this build: {', '.join(names)}")


def core_off(stage: Stage) -> Found:
    """pliant off takes everything off the data path, and pliant on brings it back."""
    if "off" not in COMMANDS:
        return {"state": "idle", "said": "this build has no such command"}
    with stage.in_force(stage.policy("server", {"initial_cwnd": WINDOW})):
        pliant_command("off")
        expect(stage.connect()["server"].snd_cwnd != WINDOW, "a connection was tuned while off")
        pliant_command("on")
        expect(stage.connect()["server"].snd_cwnd == WINDOW, "a connection was not tuned after on")
    return works()


def core_agent(stage: Stage) -> Found:
    """The agent tunes a service that appears, and what it did outlives its kill -9."""
    if "agent" not in COMMANDS:
        return {"state": "idle", "said": "this build has no agent"}
    policy = stage.policy("late", {"initial_cwnd": WINDOW})
    stage.remove_service("late")
    pliant_command("apply", "-f", "-", "--allow-waiting", "-o", "json", given=policy)
    try:
        with running_agent() as agent:
            stage.service("late")
            wait_until(
                lambda: state_of("late") == "active", "the agent attaches to the service that appeared"
            )
            with stage.late_client() as client:
                expect(stage.window_of(client) == WINDOW, "a connection was not tuned")
                agent.kill()
                agent.wait()
                expect(
                    stage.window_of(client) == WINDOW, "a connection was not tuned after the agent was killed"
                )
        with running_agent():
            expect_agreement()
    finally:
        pliant_command("rollback", "0", "-o", "json")
    return works()


def state_of(policy: str) -> str:
    """Whether a policy is active, waiting or missing."""
    [found] = pliant_command("get", "policies", policy, "-o", "json").data()
    return str(found["status"]["state"])


def core_nothing_left(stage: Stage) -> Found:
    """After all this no pin is left, and no program is attached to the services' control groups."""
    expect(not pinned(), f"still pinned: {pinned()}")
    for group in (path for path in stage.lab.cgroup.rglob("*") if path.is_dir()):
        programs = attached(group, AttachType.CGROUP_SOCK_OPS)
        expect(not programs, f"{len(programs)} programs are still attached to {group}")
    return works()
