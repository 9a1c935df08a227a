# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pliant.agent.checks import check_hooks, check_host, check_reach, check_services, check_values
from pliant.agent.places import Places
from pliant.errors import PliantError
from pliant.kernel.cgroups import find_root
from pliant.observe.pin_tree import Hook
from pliant.plan.steps import Attach

if TYPE_CHECKING:
    from pliant.kernel.programs import Program
    from pliant.lab import PrivateMounts
    from tests.agent.conftest import Hold
    from tests.conftest import MakePolicy, Pair

pytestmark = pytest.mark.root


def test_pins_outside_a_bpffs_are_refused_with_the_command_that_mounts_one(tmp_path: Path) -> None:
    with pytest.raises(PliantError, match="is not in a bpffs") as refused:
        check_host(Places(pins=tmp_path / "pins"))
    assert "mount -t bpf bpf" in refused.value.remedy


def test_host_with_a_bpffs_is_accepted(mounts: PrivateMounts) -> None:
    check_host(Places(pins=mounts.bpffs / "below" / "it"))


def test_user_without_root_is_refused(mounts: PrivateMounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PliantError, match="needs root"):
        check_host(Places(pins=mounts.bpffs))


def test_every_policy_that_asks_for_what_the_host_lacks_is_named(make_policy: MakePolicy) -> None:
    policies = [
        make_policy("a", "a.service", {"congestion_control": "warp"}),
        make_policy("b", "b.service", {"congestion_control": "cubic"}),
        make_policy("c", "c.service", {"receive_window_max": "1GiB"}),
    ]
    with pytest.raises(PliantError) as refused:
        check_values(policies)
    assert [line.partition(":")[0] for line in refused.value.message.splitlines()] == [
        "policy 'a'",
        "policy 'c'",
    ]
    check_values(policies[1:2])


def test_service_that_is_not_there_is_refused_with_one_of_a_similar_name(make_policy: MakePolicy) -> None:
    cgroups = {"/": 1, "/system.slice": 2, "/system.slice/nginx.service": 3}
    with pytest.raises(PliantError, match=r"policy 'a': no service 'ngnix\.service' on this host") as refused:
        check_services([make_policy("a", "ngnix.service", {"initial_cwnd": 20})], cgroups)
    assert "did you mean 'nginx.service'?" in refused.value.remedy
    for service in ("nginx.service", "/system.slice/nginx.service", "ngin?.service", "/"):
        check_services([make_policy("a", service, {"initial_cwnd": 20})], cgroups)


def test_policy_for_open_connections_is_refused_by_name(make_policy: MakePolicy) -> None:
    new = make_policy("a", "a.service", {"initial_cwnd": 20})
    live = new.model_copy(update={"spec": new.spec.model_copy(update={"applyTo": "live"})})
    check_reach([new])
    with pytest.raises(PliantError, match=r"policy 'a': spec\.applyTo"):
        check_reach([live])


@pytest.mark.parametrize(("flags", "refused"), [(0, True), (1, True), (2, False)])
@pytest.mark.parametrize("where", ["here", "above"])
def test_hook_is_refused_unless_its_program_shares_it(
    pair: Pair, foreign: Program, hold: Hold, flags: int, refused: bool, where: str
) -> None:
    service = pair.server.service("hook.service")
    step = Attach("", Hook("scope", service.stat().st_ino), pair.service(pair.server, "hook.service"))
    check_hooks([step], find_root())
    with hold(foreign, service if where == "here" else pair.server.cgroup, flags):
        if not refused:
            check_hooks([step], find_root())
            return
        with pytest.raises(PliantError, match="somebody_else") as found:
            check_hooks([step], find_root())
        assert "BPF_F_ALLOW_MULTI" in found.value.remedy
