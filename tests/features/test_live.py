# SPDX-License-Identifier: Apache-2.0
"""Every feature that reaches open connections: they are tuned, and get back what they had before."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pliant.agent.host import Host
from pliant.features import features
from pliant.features.feature import Reach
from pliant.features.layout import shipped_layout
from pliant.kernel.iterators import run_in_namespaces
from pliant.lab import SocketState
from pliant.lab.sockets import SO_MAX_PACING_RATE, TCP_DELACK_MAX_US, TCP_RTO_MAX_MS, TCP_RTO_MIN_US
from tests.features.conftest import MATCHED

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pliant
    from tests.features.conftest import Ends

pytestmark = pytest.mark.root

SOL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
INFINITE_SSTHRESH = 0x7FFFFFFF


def traffic_class(state: SocketState) -> int | None:
    is_ipv6 = state.tclass is not None and not state.remote.startswith("::ffff:")
    return state.tclass if is_ipv6 else state.tos


@dataclass(frozen=True)
class Row:
    """A setting, what is read of a socket that has it, and one of its own that an application makes before."""

    setting: Any
    tuned: Any
    read: Callable[[SocketState], Any]
    own: tuple[tuple[int, int, int | str], ...] = ()
    is_own: Any = None


ROWS = {
    "congestion_control": Row(
        "reno", "reno", lambda s: s.congestion_control, ((TCP, socket.TCP_CONGESTION, "cubic"),), "cubic"
    ),
    "cwnd_clamp": Row(4, 4, lambda s: s.snd_ssthresh, (), INFINITE_SSTHRESH),  # the application has no option
    "delayed_ack_max": Row(
        "20ms", 20_000, lambda s: s.delack_max_us, ((TCP, TCP_DELACK_MAX_US, 100_000),), 100_000
    ),
    "dscp": Row("EF", 46 << 2, traffic_class, ((socket.IPPROTO_IP, socket.IP_TOS, 8 << 2),), 8 << 2),
    "keepalive": Row(
        "30s",
        (True, 30),
        lambda s: (s.keepalive, s.keepidle_s),
        ((TCP, socket.TCP_KEEPIDLE, 99),),
        (False, 99),
    ),
    "max_rto": Row("5s", 5000, lambda s: s.rto_max_ms, ((TCP, TCP_RTO_MAX_MS, 9000),), 9000),
    "min_rto": Row("20ms", 20_000, lambda s: s.rto_min_us, ((TCP, TCP_RTO_MIN_US, 100_000),), 100_000),
    "notsent_lowat": Row(
        "64KiB", 65536, lambda s: s.notsent_lowat, ((TCP, socket.TCP_NOTSENT_LOWAT, 9999),), 9999
    ),
    "pacing_rate": Row(
        "80Mbit", 10_000_000, lambda s: s.max_pacing_rate, ((SOL, SO_MAX_PACING_RATE, 99_000),), 99_000
    ),
    "user_timeout": Row("7s", 7000, lambda s: s.user_timeout_ms, ((TCP, socket.TCP_USER_TIMEOUT, 99),), 99),
}
FAMILIES = ("ipv6", "ipv4", "mapped")  # one will do where the option is TCP's
LIVE = [name for name, feature in features().items() if feature.reach is Reach.LIVE]


@pytest.mark.parametrize(
    ("name", "family"),
    [(name, family) for name in LIVE for family in (FAMILIES if name == "dscp" else FAMILIES[:1])],
)
def test_open_connection_is_tuned_and_gets_back_what_its_application_had_set(
    pliant: Pliant, ends: Ends, make_policy: MakePolicy, name: str, family: str, role: str
) -> None:
    row = ROWS[name]
    other = "client" if role == "server" else "server"
    before = row.read(ends.connect(family, MATCHED[family])[other])
    end = ends.server if role == "server" else ends.client
    for option in options(row, family):
        end.set_option(*option)
    assert row.read(ends.now(family)[role]) == row.is_own

    pliant.apply(make_policy("live", tune={name: row.setting}, apply_to="live", **ends.match(role)))
    now = ends.now(family)
    assert (row.read(now[role]), row.read(now[other])) == (row.tuned, before)
    outcomes = pliant.outcomes(name)
    assert (outcomes.applied, outcomes.refused, outcomes.unchanged) == (1, 0, 0)

    pliant.rollback()
    now = ends.now(family)
    assert (row.read(now[role]), row.read(now[other])) == (row.is_own, before)


@pytest.mark.parametrize("name", LIVE)
def test_connection_made_under_a_live_policy_gets_back_the_hosts_default(
    pliant: Pliant, ends: Ends, make_policy: MakePolicy, name: str, role: str
) -> None:
    row = ROWS[name]
    default = row.read(ends.connect("ipv6", MATCHED["ipv6"])[role])
    pliant.apply(make_policy("live", tune={name: row.setting}, apply_to="live", **ends.match(role)))
    state = ends.connect("ipv6", MATCHED["ipv6"])[role]
    if name != "cwnd_clamp":  # BBR writes an ssthresh of its own as it begins, see test_cwnd_clamp
        assert row.read(state) == row.tuned
    pliant.delete("live")
    assert row.read(ends.now("ipv6")[role]) == default


@pytest.mark.parametrize("name", LIVE)
def test_connection_made_while_open_ones_are_gone_through_stays_tuned(
    pliant: Pliant, ends: Ends, make_policy: MakePolicy, name: str, role: str
) -> None:
    pliant.apply(make_policy("live", tune={name: ROWS[name].setting}, apply_to="live", **ends.match(role)))
    before = ends.connect("ipv6", MATCHED["ipv6"])[role]  # scope's iterator does not come by it
    with Host(pliant.places) as host:
        run_in_namespaces([host.pins.part(name, "open", shipped_layout().builds[name])])
    assert ROWS[name].read(ends.now("ipv6")[role]) == ROWS[name].read(before)
    assert pliant.outcomes(name).restored == 0


def options(row: Row, family: str) -> list[tuple[int, int, int | str]]:
    """What the application sets; the traffic class of IPv6 is another option."""
    tos, tclass = (socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    return [
        (*(tclass if family == "ipv6" and (level, name) == tos else (level, name)), value)
        for level, name, value in row.own
    ]
