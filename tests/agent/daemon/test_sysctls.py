# SPDX-License-Identifier: Apache-2.0
"""The agent and the command line, on sysctls of a lab host's network namespace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.daemon.conftest import await_

if TYPE_CHECKING:
    from tests.agent.daemon.conftest import Ground

pytestmark = pytest.mark.root

ECN = "net.ipv4.tcp_ecn"
POLICY = """
apiVersion: pliant/v1
kind: SysctlPolicy
metadata: {name: ecn, owner: web-infra}
spec:
  sysctls: {net.ipv4.tcp_ecn: 1}
"""


def test_agent_keeps_a_sysctl_until_somebody_else_sets_it_and_says_so(ground: Ground, tmp_path: Path) -> None:
    lab, file = ground.lab, tmp_path / "ecn.yaml"
    file.write_text(POLICY)
    with lab.inside(), ground.agent("--check-every", "0.2"):
        assert ground.command("apply", "-f", str(file)).returncode == 0
        assert lab.sysctl(ECN) == "1"
        lab.sysctl(ECN, "2")  # what it was before: that is drift
        await_(lambda: lab.sysctl(ECN) == "1")
        lab.sysctl(ECN, "0")
        await_(lambda: ground.events("sysctl-foreign"))
        [event] = ground.events("sysctl-foreign")
        assert "to 0, where policy 'ecn' asks for 1: it is left alone" in event.sentence
        [listed] = json.loads(ground.command("get", "sysctls", "-o", "json").stdout)
        assert (listed["sysctl"], listed["state"], listed["owner"]) == (ECN, "foreign", "web-infra")
        assert (listed["wanted"], listed["found"], listed["before"]) == ("1", "0", "2")
        assert ground.ask("get", kind="sysctls") == [listed]
        assert "foreign" in ground.command("get", "sysctls", ECN).stdout
        assert "net.ipv4.tcp_ecn=1" in ground.command("get").stdout
        assert "of this host" in ground.command("describe", "ecn").stdout
        assert ground.command("delete", "ecn").returncode == 0
        assert lab.sysctl(ECN) == "0"
        assert ground.command("get", "sysctls").stderr == "no policy sets a sysctl\n"
        lab.sysctl(ECN, "2")
