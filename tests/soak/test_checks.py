# SPDX-License-Identifier: Apache-2.0
"""What a soak holds a host to: each thing that is wrong is seen."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pliant.kernel.maps import Map
from pliant.kernel.programs import Program
from pliant.lab import Lab, PrivateMounts
from pliant.soak import builds
from pliant.soak.campaign import Campaign, Record
from pliant.soak.ground import Broken, Ground, Seen
from pliant.soak.policies import UNTOUCHED, Written, given_by, version_of

if TYPE_CHECKING:
    from tests.conftest import Eventually

pytestmark = pytest.mark.root

STABLE, STABLE_LIVE = "stable.service", "stable-live.service"


@pytest.fixture(scope="module")
def campaign(mounts: PrivateMounts) -> Iterator[Campaign]:
    """A soak in which nothing has happened yet."""
    with Lab("soaked") as lab:
        ground = Ground(lab.host("host"), mounts, [builds.CHECKOUT / "src"])
        with contextlib.closing(ground):
            campaign = Campaign(ground, Record(1), lambda line: None)
            campaign.begin()
            ground.stop_agent(kill=True)
            yield campaign
            campaign.end()


def links(campaign: Campaign, service: str) -> list[Path]:
    number = (campaign.ground.root / service).stat().st_ino
    return list(campaign.ground.places.pins.glob(f"*/links/*-{number}"))


def test_connections_of_a_stable_policy_that_are_not_tuned_are_seen(
    campaign: Campaign, eventually: Eventually
) -> None:
    def is_seen() -> bool:
        try:
            campaign.checks.given()
        except Broken as broken:
            return "new connections of stable.service have" in str(broken) and "window=10" in str(broken)
        return False

    [link] = links(campaign, STABLE)
    link.unlink()
    eventually(is_seen)  # the kernel detaches when it comes to it
    with pytest.raises(Broken, match=r"does not settle: .*differs from the journal"):
        campaign.checks.agreement(seconds=0)
    campaign.checks.is_off = True
    campaign.ground.must("repair")
    campaign.checks.connections()
    campaign.checks.is_off = False
    campaign.checks.settled()


def test_open_connection_of_a_live_policy_that_loses_it_is_seen(campaign: Campaign) -> None:
    service = campaign.ground.services[STABLE_LIVE]
    seen = service.ask()
    assert set(seen.held) == {given_by(34, live=True)}
    with pytest.raises(Broken, match=r"open connections of stable-live.service"):
        campaign.checks.of(service, Seen(1, {}, seen.held | {UNTOUCHED: 1}, []))


def test_half_of_a_policy_and_a_failure_are_seen(campaign: Campaign) -> None:
    service = campaign.ground.services[STABLE]
    half = given_by(7)._replace(dscp=8)
    assert version_of(half) is None
    campaign.checks.is_off = True
    with pytest.raises(Broken, match="half of a policy"):
        campaign.checks.of(service, Seen(1, {half: 1}, service.held, []))
    with pytest.raises(Broken, match="failed: lost"):
        campaign.checks.of(service, Seen(1, {}, service.held, ["lost"]))
    with pytest.raises(Broken, match="though no policy is for open ones"):
        campaign.checks.of(service, Seen(1, {}, {half: 1}, []))
    campaign.checks.is_off = False


def test_reset_is_seen(campaign: Campaign) -> None:
    with campaign.ground.lab_host.inside():
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with listener, accepted:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(Broken, match="established connections were reset"):
            campaign.checks.connections()
    campaign.checks.forgive()
    campaign.checks.connections()


def test_program_map_and_link_that_outlive_their_pins_are_seen(campaign: Campaign) -> None:
    checks, ground = campaign.checks, campaign.ground
    done = ground.apply(Written("more", "/more.service", 3, live=True, priority=7))
    assert done["status"] == 0
    checks.note_pins()
    [program] = ground.places.pins.glob("*/initial_cwnd/program_*")
    [table] = ground.places.pins.glob("*/initial_cwnd/settings")
    with Program.pinned(program) as held, Map.pinned(table) as settings:
        ground.must("off", "--policy", "stable")
        with pytest.raises(Broken, match=f"has not ended: .*{held.id}") as told:
            checks.left_over(seconds=0.1)
        assert str(settings.id) in str(told.value)
    checks.is_off = True
    ground.must("on", "--policy", "stable")
    checks.connections()
    checks.is_off = False
    checks.settled()


def test_versions_are_told_by_all_three_values() -> None:
    assert version_of(UNTOUCHED) == 0
    assert [version_of(given_by(number)) for number in (1, 63)] == [1, 63]
    assert version_of(given_by(5), live=True) is None
    assert version_of(given_by(5, live=True), live=True) == 5
