# SPDX-License-Identifier: Apache-2.0
"""The off switch beside an agent that runs, that was killed, and that hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.agent.daemon.conftest import Ground, await_
from tests.conftest import MakePolicy

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def services(ground: Ground) -> Iterator[None]:
    for name in ("web.service", "api.service"):
        (ground.root / name).mkdir()
    yield
    for name in ("web.service", "api.service"):
        ground.remove(name)


def looked(ground: Ground) -> None:
    """Have the agent look at everything, and wait until it has."""
    ground.ask("reconcile")


def test_everything_stays_off_while_the_agent_runs_and_services_come(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("each", "*.service", {"initial_cwnd": 40}))
    with ground.agent():
        assert ground.command("off").returncode == 0
        (ground.root / "new.service").mkdir()
        looked(ground)
        assert not list(ground.places.pins.rglob("*"))
        assert ground.command("on").returncode == 0
        await_(lambda: ground.programs("new.service") == ["scope"])
        ground.remove("new.service")
        await_(lambda: ground.drift() == 0)


def test_everything_stays_off_when_the_agent_is_killed_and_started_again(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("each", "*.service", {"initial_cwnd": 40}))
    with ground.agent() as process:
        process.kill()
        process.wait()
        assert ground.command("off").returncode == 0
    with ground.agent():
        looked(ground)
        assert not list(ground.places.pins.rglob("*"))
    assert ground.command("on").returncode == 0
    assert ground.programs("web.service") == ["scope"]


def test_a_service_and_a_policy_stay_off_while_the_agent_runs(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(
        make_policy("each", "*.service", {"initial_cwnd": 40}),
        make_policy("api", "api.service", {"dscp": "EF"}),
    )
    with ground.agent():
        assert ground.command("off", "--service", "web.service", "--policy", "api").returncode == 0
        (ground.root / "web.service" / "worker").mkdir()
        (ground.root / "new.service").mkdir()
        await_(lambda: ground.programs("new.service") == ["scope"])
        looked(ground)
        assert ground.programs("web.service") == []
        assert ground.programs("api.service") == ["scope"]
        assert ground.drift() == 0
        assert ground.command("on", "--service", "web.service", "--policy", "api").returncode == 0
        await_(lambda: ground.programs("web.service") == ["scope"])
        for name in ("web.service/worker", "new.service"):
            ground.remove(name)
        await_(lambda: ground.drift() == 0)


def test_with_an_agent_that_hangs_off_needs_no_force_unless_it_holds_the_host(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("each", "*.service", {"initial_cwnd": 40}))
    with ground.agent() as process:
        os.kill(process.pid, signal.SIGSTOP)
        done = ground.command("--timeout", "0", "off", "--force")
        assert done.returncode == 0, done.stderr
        assert not list(ground.places.pins.rglob("*"))
        process.kill()
    assert ground.command("on").returncode == 0


def test_what_was_switched_off_by_force_without_a_journal_the_agent_leaves_off(
    ground: Ground, make_policy: MakePolicy
) -> None:
    ground.apply(make_policy("each", "*.service", {"initial_cwnd": 40}))
    with ground.agent():
        log = ground.places.state / "audit.log"
        aside = log.rename(log.with_name("aside"))
        log.symlink_to("/dev/full")
        assert ground.command("off", "--force").returncode == 0
        log.unlink()
        aside.rename(log)
        looked(ground)
        assert not list(ground.places.pins.rglob("*"))
        assert ground.command("on").returncode == 0
        await_(lambda: ground.programs("web.service") == ["scope"])
