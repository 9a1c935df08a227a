# SPDX-License-Identifier: Apache-2.0
"""What is tried on every kernel, through the command line: the product as a whole.

Each scenario returns ``state`` (works, refused, idle, failed), and in ``said`` what a person should know of it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from agent_process import running_agent
from command import Unwilling, killed_after, pliant_command, wait_until
from pliant.cli.main import COMMANDS
from pliant.features.controls import OPTION, shipped_controls
from pliant.kernel.cgroup_query import attached
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.links import AttachType
from pliant.observe.effects import Metric
from stage import Stage, differences, pinned

Found = dict[str, Any]
Scenario = tuple[str, str, Callable[[Stage], Found]]
WINDOW = 33


def of_the_core() -> Iterator[Scenario]:
    """The functions below, told by their docstrings."""
    for name, function in list(globals().items()):
        if name.startswith("core_"):
            yield name.removeprefix("core_"), (function.__doc__ or "").strip(), function


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
    return works()


def core_syn(stage: Stage) -> Found:
    """A server's policy is found when a SYN comes in, and what it says goes into the answer."""
    with stage.in_force(stage.policy("server", {"initial_rwnd": 20})):
        for address in (stage.server_host.address, stage.server_host.address6):
            stage.connect(address)
        [found] = pliant_command("get", "features", "initial_rwnd", "-o", "json").data()
    if not found["outcomes"].get("applied"):
        return {"state": "refused", "said": "this kernel does not say whose listener a SYN comes in to"}
    return works()


def core_control(stage: Stage) -> Found:
    """A congestion control that Pliant brings is registered for a policy, and unregistered after it."""
    name = min(shipped_controls())
    before = congestion_controls()
    try:
        with stage.in_force(stage.policy("server", {OPTION: name})):
            found = stage.connect()["server"].congestion_control
            expect(found == name, f"the server's socket has {found}")
            stage.exchange()
            expect_agreement()
    except Unwilling as refusal:
        return {"state": "refused", "said": str(refusal)}
    stage.exchange()  # the open connection goes on
    stage.disconnect()
    expect(congestion_controls() == before, f"registered now: {congestion_controls() - before}")
    return works(
        f"{name}, and the others of this build: {', '.join(sorted(set(shipped_controls()) - {name}))}"
    )


def core_effect(stage: Stage) -> Found:
    """Connections of a policy with a holdout are divided between its arms, and what became of them is recorded."""
    made = 12
    with stage.in_force(stage.policy("client", {"initial_cwnd": WINDOW}, holdout="50%")):
        for _ in range(made):
            stage.connect()
            stage.exchange(2000)
        stage.disconnect()

        def arms() -> list[dict[str, Any]]:
            [found] = pliant_command("effect", "-o", "json").data()
            return list(found["arms"].values())

        wait_until(lambda: all(map(is_recorded, arms())), "each connection's completion time is recorded")
        counts = [arm["connections"] for arm in arms()]
    expect(sum(counts) == made, f"{counts} connections counted, {made} made")
    return works()


def is_recorded(arm: dict[str, Any]) -> bool:
    """Whether every connection of an arm has ended, and left its completion time."""
    return bool(arm["histograms"][Metric.COMPLETION_TIME.label]["count"] == arm["connections"])


def core_explain(stage: Stage) -> Found:
    """An open connection is found, and explained from what the kernel shows of it."""
    with stage.in_force(stage.policy("server", {"initial_cwnd": WINDOW, OPTION: other_congestion_control()})):
        mine = stage.connect()["server"]
        ends = f"{stage.server_host.address}:{mine.local_port}-{stage.client_host.address}:{mine.remote_port}"
        told = pliant_command("explain", "--connection", ends, "-o", "json").output
        expect(OPTION in told and '"server"' in told, f"explained as {told[:300]}")
    return works()


def core_audit(stage: Stage) -> Found:
    """The record of all these changes is whole."""
    return works(pliant_command("audit", "verify").output.partition(",")[0])


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
        for hook in (AttachType.CGROUP_SOCK_OPS, AttachType.CGROUP_INET_EGRESS):
            programs = attached(group, hook)
            expect(not programs, f"{len(programs)} programs are still attached to {group}")
    return works()
