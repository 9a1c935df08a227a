# SPDX-License-Identifier: Apache-2.0
"""How interfaces run a fast path, a row a case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pliant.fastpath.compatibility import LARGEST_MTU, choose, fitting
from pliant.fastpath.modules import Bridge, Overlay, Route
from pliant.observe.fastpath import Mode
from pliant.observe.network import Facts, Interface, XdpFeatures
from pliant.policy.fastpath import Asked

ROUTE = Route(4, "02:00:00:00:00:01")
HARDWARE = Interface(2, "eth0", bus="pci")
VETH = Interface(2, "pod0", kind="veth", link=3)
ABLE = XdpFeatures(2, native=True, redirects=True, takes_redirected=True, takes_fragments=False)


@pytest.mark.parametrize(
    ("asked", "at", "features", "other_end", "mode", "codes"),
    [
        ("auto", HARDWARE, {}, {}, Mode.NATIVE, []),
        ("auto", HARDWARE, {"native": False}, {}, None, ["no-native-xdp"]),
        ("auto", HARDWARE, {"redirects": False}, {}, None, ["no-native-xdp"]),
        ("native", HARDWARE, {"native": False}, {}, None, ["no-native-xdp"]),
        ("generic", HARDWARE, {"native": False}, {}, Mode.GENERIC, []),
        ("native", replace(HARDWARE, mtu=9000), {}, {}, None, ["large-mtu"]),
        ("generic", replace(HARDWARE, mtu=9000), {}, {}, Mode.GENERIC, []),
        ("native", VETH, {}, {"mtu": LARGEST_MTU}, Mode.NATIVE, []),
        ("native", VETH, {}, {"mtu": LARGEST_MTU + 1}, None, ["large-mtu"]),
        ("native", VETH, {}, {"tx_queues": 4}, None, ["queues"]),
        ("native", replace(VETH, rx_queues=4), {}, {"tx_queues": 4}, Mode.NATIVE, []),
        ("native", replace(VETH, link_namespace=1), {}, {}, Mode.NATIVE, []),
    ],
)
def test_an_interface_gets_what_is_asked_for_or_nothing(
    asked: Asked, at: Interface, features: Any, other_end: Any, mode: Mode | None, codes: list[str]
) -> None:
    peer = Interface(3, "peer0", kind="veth", link=2, **other_end)
    facts = Facts(interfaces=(at, peer), xdp_features=(replace(ABLE, **features),))
    choice = choose(asked, facts, at, [ROUTE])
    assert choice.mode == mode
    assert [reason.code for reason in choice.reasons] == codes


def test_a_veth_keeps_its_offload_unless_native_is_asked_for_by_name() -> None:
    facts = Facts(interfaces=(VETH,), xdp_features=(ABLE,))
    choice = choose("auto", facts, VETH, [ROUTE])
    assert choice.mode not in (Mode.NATIVE, Mode.GENERIC)
    assert "offload-lost" in [reason.code for reason in choice.reasons]


def test_pods_are_accelerated_at_tc_which_takes_nothing_from_their_bulk() -> None:
    facts = Facts(interfaces=(VETH,), xdp_features=(ABLE,))
    bridge, pods = Bridge(9, "02:00:00:00:00:09", 30000), Overlay(9, None)
    choice = choose("auto", facts, VETH, [bridge, pods])
    assert choice.mode is Mode.TC
    assert fitting(Mode.TC, [bridge, pods]) == (pods,)
    assert fitting(Mode.NATIVE, [bridge, pods]) == (bridge,)
    assert [reason.code for reason in choice.reasons] == ["offload-lost"]
    assert choose("native", facts, VETH, [bridge, pods]).mode is Mode.NATIVE
    assert [r.code for r in choose("native", facts, VETH, [pods]).reasons] == ["no-such-mode"]
    assert [r.code for r in choose("tc", facts, VETH, [bridge]).reasons] == ["no-such-mode"]


def test_a_kernel_that_cannot_say_what_a_driver_can_do_is_tried() -> None:
    facts = Facts(interfaces=(HARDWARE,), xdp_features=None)
    assert choose("auto", facts, HARDWARE, [ROUTE]).mode is Mode.NATIVE


def test_a_kernel_that_lacks_something_is_told_and_another_mode_is_not_chosen_instead() -> None:
    facts = Facts(interfaces=(HARDWARE,), xdp_features=(ABLE,))
    bridge, pods = Bridge(9, "02:00:00:00:00:09", 30000), Overlay(9, None)
    told = {"bridge_xdp": "no bridge", "overlay_tc": "no pods"}

    def lacking(name: str) -> str:
        return told.get(name, "")

    for asked in ("native", "generic", "auto"):
        choice = choose(asked, facts, HARDWARE, [bridge], lacking)
        assert choice.mode is None
        assert [(r.code, r.sentence) for r in choice.reasons] == [("kernel-lacks", "no bridge")]
        assert choose(asked, facts, HARDWARE, [ROUTE], lacking).mode is not None
    both = choose("auto", facts, HARDWARE, [bridge, pods], lacking)
    assert [(r.module, r.sentence) for r in both.reasons] == [("native", "no bridge"), ("tc", "no pods")]
