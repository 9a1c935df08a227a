# SPDX-License-Identifier: Apache-2.0
"""An agent killed, started again, upgraded to a build of another layout and downgraded, while connections are made."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pliant.agent.host import Host
from pliant.features.layout import shipped_layout
from tests.agent.daemon.conftest import Ground, await_
from tests.conftest import MakePolicy
from tests.upgrade.conftest import Loaded, Report, begun, counters

pytestmark = pytest.mark.root

WINDOW, RATE, DSCP = 40, 100_000_000, 7
GIVEN, LEFT_ALONE = (WINDOW, RATE, DSCP), (10, 0xFFFFFFFF, 0)
MOST_OF_A_PROCESS = 5000  # connections; of each it has both ends


@pytest.mark.parametrize("kept", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_connections_are_tuned_and_counted_once_through_kills_upgrade_and_downgrade(
    ground: Ground, make_policy: MakePolicy, other_installation: Path, loaded: Loaded, kept: int
) -> None:
    live = {"pacing_rate": f"{RATE * 8 // 10**6}Mbit", "dscp": DSCP}
    for name in ("all", "half"):
        (ground.root / f"{name}.service").mkdir()
    ground.apply(
        make_policy("window", "all.service", {"initial_cwnd": WINDOW}),
        make_policy("live", "all.service", live, apply_to="live"),
        make_policy("half", "half.service", {"initial_cwnd": WINDOW} | live, holdout="50%"),
    )
    agents = Agents(ground, other_installation)
    with contextlib.ExitStack() as stack:
        shares = [MOST_OF_A_PROCESS] * (kept // MOST_OF_A_PROCESS) or [kept]
        every = [stack.enter_context(loaded("all.service", share)) for share in shares]
        half = stack.enter_context(loaded("half.service", 1))
        stack.enter_context(agents)
        agents.start("this")
        agents.start("this")
        agents.start_and_kill_within_the_change("other")
        agents.start("other")
        agents.start("other")
        agents.start_and_kill_within_the_change("this")
        agents.start("this")
        whole, divided = sum((each.report() for each in every), Report()), half.report()
        found, by_arm = counted(ground), measured(ground, "half")
        ground.clear()
        given_back = sum((each.report() for each in every), Report())
    ends, arms = whole.made[GIVEN], (divided.made[GIVEN], divided.made[LEFT_ALONE])
    assert whole.made == {GIVEN: ends}
    assert divided.made.keys() == {GIVEN, LEFT_ALONE}
    assert whole.kept == {GIVEN[1:]: 2 * kept}
    assert (whole.resets, divided.resets) == ({}, {})
    assert found == {"window": (ends, 0), "live": (ends, 0), "half": arms}
    assert by_arm == dict(enumerate(arms))
    assert given_back.kept == {LEFT_ALONE[1:]: 2 * kept}  # from before the upgrade
    for name in ("all", "half"):
        ground.remove(f"{name}.service")


class Agents:
    """One agent after the other, of this build and of another; each is killed before the next starts."""

    def __init__(self, ground: Ground, other: Path) -> None:
        self.ground = ground
        self._running = contextlib.ExitStack()
        self._paths = {"this": ground.environment.get("PYTHONPATH"), "other": str(other)}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(self, build: str) -> None:
        """Kill the one that runs, have the next take over, and connections be made under it."""
        self._running.close()
        self._choose(build)
        self._running.enter_context(self.ground.agent())
        [layout] = self.ground.places.pins.glob("*/scope")
        assert (layout.parent.name == shipped_layout().digest) == (build == "this")
        before = self._judged()
        await_(lambda: self._judged() > before + 200)

    def start_and_kill_within_the_change(self, build: str) -> None:
        """Kill the one that runs, and the next as soon as something of it is loaded."""
        self._running.close()
        self._choose(build)
        process = self.ground.start("agent")
        await_(lambda: len(list(self.ground.places.pins.glob("*/scope/rules"))) == 2)
        process.kill()
        process.communicate()

    def _choose(self, build: str) -> None:
        path = self._paths[build]
        if path:
            self.ground.environment["PYTHONPATH"] = path
        else:
            self.ground.environment.pop("PYTHONPATH", None)

    def _judged(self) -> int:
        return sum(sum(arms) for arms in counters(self.ground.places.pins).values())


def counted(ground: Ground) -> dict[str, tuple[int, int]]:
    """The ends of connections that each policy has treated and held out, by the counters."""
    found = counters(ground.places.pins)
    return {name: found[number] for name, number in numbers(ground).items()}


def measured(ground: Ground, name: str) -> dict[int, int]:
    """The ends of connections in each arm of a policy, by what is recorded for its effects."""
    number = numbers(ground)[name]
    return {arm: count for (policy, arm), count in begun(ground.places.pins).items() if policy == number}


def numbers(ground: Ground) -> dict[str, int]:
    """The number of each policy in force."""
    with Host(ground.places) as host:
        journal = host.journal
        return {name: policy.number for name, policy in journal.policies(journal.current()).items()}
