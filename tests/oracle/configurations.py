# SPDX-License-Identifier: Apache-2.0
"""Random configurations of a router, as strategies of Hypothesis, and the addresses that matter in them."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from tests.oracle.case import Change
from tests.oracle.router import NEXT_HOPS, PORTS, port_name

ports = st.integers(0, PORTS - 1)
_TABLES = ("", "", " table 100", " table 101")


class Family(NamedTuple):
    """What the two IP versions have in common, with the addresses of each; ``{}`` stands for a port."""

    option: str
    own: str
    length: int
    others: tuple[str, ...]
    """Hosts on a port's link."""
    prefixes: tuple[str, ...]
    beyond: tuple[str, ...]
    """Destinations that routes may or may not lead to."""
    strange: tuple[str, ...]
    metrics: tuple[str, ...]


FOUR = Family(
    option="-4",
    own="10.0.{}.1",
    length=24,
    others=("10.0.{}.2", "10.0.{}.3", "10.0.{}.4"),
    prefixes=(
        "default",
        "10.16.0.0/12",
        "10.17.0.0/16",
        "10.17.1.0/24",
        "10.17.1.9/32",
        "192.168.0.0/16",
        "10.0.0.0/14",
    ),
    beyond=("10.16.5.5", "10.17.0.1", "10.17.1.8", "10.17.1.9", "192.168.3.3", "203.0.113.7", "10.0.9.9"),
    strange=(
        *(
            "0.0.0.0",
            "127.0.0.1",
            "10.0.0.255",
            "10.0.1.255",
            "10.0.1.0",
            "255.255.255.255",
            "224.0.0.1",
            "239.1.2.3",
        ),
        *("240.0.0.1", "169.254.1.1", "0.0.0.1"),
    ),
    metrics=("", "", "", " mtu 600", " mtu lock 900", " mtu 1400", " metric 7", " tos 0x10", " advmss 500"),
)
SIX = Family(
    option="-6",
    own="2001:db8:{}::1",
    length=64,
    others=("2001:db8:{}::2", "2001:db8:{}::3", "2001:db8:{}::4"),
    prefixes=(
        *("default", "2001:db8:10::/44", "2001:db8:11::/48", "2001:db8:11:1::/64", "2001:db8:11:1::9/128"),
        *("fd00::/8", "2001:db8::/32"),
    ),
    beyond=(
        *("2001:db8:10::5", "2001:db8:11::1", "2001:db8:11:1::8", "2001:db8:11:1::9", "fd00::33", "2600::7"),
        "2001:db8:9::9",
    ),
    strange=(
        *(
            "::",
            "::1",
            "::ffff:10.0.0.2",
            "ff02::1",
            "ff05::2",
            "fe80::2",
            "fe80::1",
            "2001:db8:1::",
            "fec0::1",
        ),
        *("::10.0.0.2", "ff01::1", "64:ff9b::1", "100::1"),
    ),
    metrics=("", "", "", " mtu 1300", " mtu lock 1400", " metric 7", " hoplimit 9", " pref high"),
)
FAMILIES = (FOUR, SIX)
_KNOWN = (*("permanent", "reachable", "stale") * 5, "noarp", "failed", "none")


def _neighbour(family: Family, address: str, port: int, state: str, last: int) -> str:
    if state == "none":
        return f"{family.option} neigh del {address} dev {port_name(port)}"
    station = f"lladdr 02:00:00:00:{16 + port:02x}:{last:02x}" if state != "failed" else ""
    return f"{family.option} neigh replace {address} {station} dev {port_name(port)} nud {state}"


@st.composite
def _neighbours(draw: st.DrawFn, family: Family) -> str:
    port, which = draw(ports), draw(st.integers(0, 2))
    state = draw(st.sampled_from(_KNOWN))
    return _neighbour(family, family.others[which].format(port), port, state, draw(st.integers(1, 3)))


@st.composite
def _way(draw: st.DrawFn, family: Family) -> str:
    port = draw(ports)
    if draw(st.integers(0, 7)) == 7:
        return f" dev {port_name(port)}"
    gateway = draw(st.sampled_from(family.others)).format(port)
    if family is FOUR and draw(st.integers(0, 9)) == 9:
        return f" via inet6 {SIX.others[0].format(port)} dev {port_name(port)}"
    return f" via {gateway} dev {port_name(port)}"


_REFUSALS = ("blackhole", "unreachable", "prohibit", "throw", "local", "broadcast", "multicast")


@st.composite
def _routes(draw: st.DrawFn, family: Family) -> str:
    prefix, table = draw(st.sampled_from(family.prefixes)), draw(st.sampled_from(_TABLES))
    kind = draw(st.integers(0, 16))
    start = f"{family.option} route replace "
    if kind == 14:
        refusal = draw(st.sampled_from(_REFUSALS[: 7 if family is FOUR else 5]))
        # Some of these would go to the local table unless told otherwise.
        return f"{start}{refusal} {prefix}{' dev lo' if refusal in _REFUSALS[4:] else ''}{table or ' table main'}"
    if 10 <= kind < 14:
        ways = draw(st.lists(_way(family), min_size=2, max_size=3, unique=True))
        hops = "".join(f" nexthop{way} weight {draw(st.integers(1, 3))}" for way in ways)
        return f"{start}{prefix}{table}{hops}"
    metric = draw(st.sampled_from(family.metrics))
    if kind >= 15:
        return f"{start}{prefix}{table}{metric} nhid {draw(st.sampled_from(NEXT_HOPS[family.option]))}"
    return f"{start}{prefix}{draw(_way(family))}{table}{metric}"


@st.composite
def _hops(draw: st.DrawFn, family: Family) -> str:
    """A next hop of its own right, which routes refer to."""
    one, other, group = NEXT_HOPS[family.option]
    number = draw(st.sampled_from((one, other, group)))
    start = f"{family.option} nexthop replace id {number}"
    if number == group:
        return f"{start} group {one},{draw(st.integers(1, 3))}/{other},{draw(st.integers(1, 3))}"
    way = draw(_way(family))
    return f"{start} blackhole" if draw(st.integers(0, 9)) == 9 else start + way


_TABLES_OF_RULES = ("lookup 100", "lookup 100", "lookup 101", "lookup main suppress_prefixlength 0")


@st.composite
def _rules(draw: st.DrawFn, family: Family) -> str:
    chosen = st.sampled_from(
        (
            f"iif {port_name(draw(ports))}",
            f"from {draw(st.sampled_from(family.prefixes[1:]))}",
            f"to {draw(st.sampled_from(family.prefixes[1:]))}",
            "tos 0x10",
            f"ipproto {draw(st.sampled_from(('udp', 'tcp', 'icmp' if family is FOUR else 'ipv6-icmp')))}",
            f"ipproto udp dport {draw(st.sampled_from(('53', '1000-2000')))}",
            "sport 1234",
            f"not from {draw(st.sampled_from(family.prefixes[1:]))}",
            f"from {family.own.format(draw(ports))}/{family.length}",
            "fwmark 1",
        )
    )
    selector = " ".join(draw(st.lists(chosen, min_size=1, max_size=2, unique=True)))
    action = draw(st.sampled_from((*_TABLES_OF_RULES * 4, "blackhole", "prohibit", "unreachable")))
    preference = draw(st.integers(1, 40))
    if "iif" in selector and selector.count("iif") > 1:
        selector = selector.split(" iif")[0]
    return f"{family.option} rule add {selector} pref {preference} {action}"


@st.composite
def _settings(draw: st.DrawFn) -> tuple[str, str]:
    port = port_name(draw(ports))
    bits, levels, mostly = st.sampled_from("01"), st.sampled_from("012"), st.sampled_from("1110")
    name, values = draw(
        st.sampled_from(
            (
                *[(f"net.ipv4.conf.{port}.rp_filter", levels), ("net.ipv4.conf.all.rp_filter", levels)] * 3,
                *[("net.ipv4.fib_multipath_hash_policy", bits), ("net.ipv6.fib_multipath_hash_policy", bits)]
                * 2,
                ("net.ipv4.fib_multipath_use_neigh", bits),
                ("net.ipv4.ip_forward", mostly),
                ("net.ipv6.conf.all.forwarding", mostly),
                (f"net.ipv4.conf.{port}.forwarding", mostly),
                (f"net.ipv6.conf.{port}.forwarding", mostly),
                (f"net.ipv6.conf.{port}.disable_ipv6", st.sampled_from("0001")),
                (f"net.ipv4.conf.{port}.send_redirects", bits),
                ("net.ipv4.conf.all.send_redirects", bits),
                (f"net.ipv4.conf.{port}.accept_local", bits),
                (f"net.ipv4.conf.{port}.route_localnet", bits),
                ("net.ipv4.ip_forward_use_pmtu", bits),
            )
        )
    )
    return name, draw(values)


_mtus = st.sampled_from((1500, 1400, 1280, 1000, 600, 2000))


class Configuration(NamedTuple):
    """Commands of ip(8) and sysctls."""

    commands: tuple[str, ...]
    sysctls: tuple[tuple[str, str], ...]


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """A router whose ports have addresses and, mostly, neighbours; and up to a dozen other things."""
    commands = []
    for port in range(PORTS):
        if draw(st.integers(0, 5)) == 5:
            commands.append(f"-6 link set {port_name(port)} mtu {draw(_mtus)}")
        for family in FAMILIES:
            if draw(st.integers(0, 19)) == 19:
                continue
            nodad = " nodad" if family is SIX else ""
            own = family.own.format(port)
            commands.append(f"{family.option} address add {own}/{family.length} dev {port_name(port)}{nodad}")
            for which in (0, 1):
                state = draw(st.sampled_from(_KNOWN))
                commands.append(_neighbour(family, family.others[which].format(port), port, state, which + 2))
    for family in FAMILIES:
        if draw(st.integers(0, 3)) < 3:
            commands.append(f"{family.option} route replace default{draw(_way(family))}")
        hops = draw(st.lists(_hops(family), max_size=3))
        commands += sorted(hops, key=lambda command: " group " in command)
        commands += draw(st.lists(_routes(family), min_size=2, max_size=7))
        commands += draw(st.lists(_rules(family), max_size=2)) if draw(st.booleans()) else []
    settings = draw(st.lists(_settings(), max_size=3, unique_by=lambda s: s[0]))
    # Forwarding of all resets that of each: as in a file of sysctl(8), the general ones come first.
    settings.sort(key=lambda s: (".all." not in s[0] and "ip_forward" not in s[0], s[0]))
    return Configuration(tuple(commands), tuple(settings))


AGED_MS = 100
"""Milliseconds for which neighbours, MTUs and settings without a generation are believed."""


@st.composite
def _immediate(draw: st.DrawFn, made: Configuration) -> Change:
    family = draw(st.sampled_from(FAMILIES))
    kind = draw(st.integers(0, 7))
    if kind == 7:
        return Change(draw(_hops(family)), 0)
    if kind <= 1:
        return Change(draw(_routes(family)), 0)
    if kind == 2:
        return Change(draw(_rules(family)), 0)
    if kind == 3:
        command = f"address {draw(st.sampled_from(('add', 'del')))} {family.own.format(draw(ports))}/{family.length}"
        return Change(f"{family.option} {command} dev {port_name(draw(ports))}", 0)
    if kind == 4:
        return Change(f"-6 link set {port_name(draw(ports))} {draw(st.sampled_from(('down', 'up')))}", 0)
    there = [c for c in made.commands if " rule add " in c or " route replace " in c]
    if not there:
        return Change(draw(_routes(family)), 0)
    gone = draw(st.sampled_from(there))
    return Change(gone.replace(" rule add ", " rule del ").replace(" route replace ", " route del "), 0)


@st.composite
def _bounded(draw: st.DrawFn) -> Change:
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return Change(draw(_neighbours(draw(st.sampled_from(FAMILIES)))), AGED_MS)
    if kind == 1:
        return Change(f"-6 link set {port_name(draw(ports))} mtu {draw(_mtus)}", AGED_MS)
    name, value = draw(_settings())
    return Change(f"sysctl {name}={value}", AGED_MS)


@st.composite
def changes(draw: st.DrawFn, made: Configuration) -> tuple[Change, ...]:
    """Up to two that the fast path has to follow at once, and then perhaps one with a bound."""
    at_once = draw(st.lists(_immediate(made), max_size=2))
    return (*at_once, *([draw(_bounded())] if draw(st.integers(0, 2)) == 0 else []))
