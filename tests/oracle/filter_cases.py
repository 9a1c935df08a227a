# SPDX-License-Identifier: Apache-2.0
"""Random cases of routers with rules of nftables, as a strategy of Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.oracle.case import Case, Change
from tests.oracle.configurations import (
    FAMILIES,
    FOUR,
    Configuration,
    Family,
    changes,
    configurations,
    ports,
)
from tests.oracle.extent import frame_counts
from tests.oracle.packets import frames
from tests.oracle.router import PORTS, port_name

_FEWEST_FRAMES, _MOST_FRAMES = 20, 28
_VERDICTS = (
    *("accept",) * 5,
    *("drop", "return", "continue", "jump one", "jump two", "goto one"),
    *("counter", "counter drop"),
)
_COUNTERS = (("", ""), ("counter", ""), ("", "counter"), ("counter", "counter"))
"""Before what a rule asks, and after it."""
_PORTS = ("53", "80", "1500", "1000-2000", "{ 53, 80 }", "{ 1-100, 1500 }", "!= 53", ">= 1000")
_CHAINS = ("f", "f", "f", "one", "two")
_SETS = {
    "ports": ("inet_service", "flags interval;", ("53", "80", "1000-1600", "4000")),
    "exact": ("ipv4_addr", "", ("10.0.1.2", "10.17.1.9", "10.16.5.5", "10.0.0.2")),
    "pairs": ("ipv4_addr . inet_service", "", ("10.17.1.9 . 53", "10.17.0.1 . 80", "203.0.113.7 . 1500")),
    "names": ("ifname", "", ("p0", "p1", "p2")),
    "near": ("ipv4_addr", "flags interval;", ("10.0.0.0/15", "10.17.0.0/16", "192.168.3.0-192.168.3.9")),
    "near6": ("ipv6_addr", "flags interval;", ("2001:db8:10::/44", "2001:db8:1::2", "fd00::/8")),
}
_ELEMENTS = tuple((name, element) for name, (_, _, elements) in _SETS.items() for element in elements)


@st.composite
def _addresses(draw: st.DrawFn) -> str:
    family: Family = draw(st.sampled_from((*FAMILIES, FOUR)))
    word = "ip" if family is FOUR else "ip6"
    where = draw(st.sampled_from(("saddr", "daddr")))
    what = draw(
        st.sampled_from(
            (
                *family.prefixes[1:],
                *(f"!= {prefix}" for prefix in family.prefixes[1:3]),
                family.others[0].format(draw(ports)),
                "@near" if family is FOUR else "@near6",
                "!= @exact" if family is FOUR else "!= @near6",
                "@exact" if family is FOUR else "@near6",
            )
        )
    )
    return f"{word} {where} {what}"


@st.composite
def _selectors(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 9))
    if kind <= 2:
        return draw(_addresses())
    if kind <= 5:
        protocol = draw(st.sampled_from(("udp", "tcp")))
        return f"{protocol} {draw(st.sampled_from(('dport', 'sport')))} {draw(st.sampled_from((*_PORTS, '@ports')))}"
    name = port_name(draw(ports))
    return draw(
        st.sampled_from(
            (
                *(
                    f"iifname {name}",
                    f"oifname {name}",
                    f"iifname != {name}",
                    f"iif {name}",
                    "iifname @names",
                ),
                *(
                    'oifname "p*"',
                    f"iifname . oifname {{ {name} . p1, p0 . p2 }}",
                    "ip daddr . udp dport @pairs",
                ),
                *("meta l4proto { tcp, udp }", "icmp type echo-request", "meta mark 0"),
                *("ip dscp 4", "ip6 dscp != 4", "tcp flags syn", "tcp flags & (fin | syn | rst) == 0"),
                *("ip ttl > 5", "ip6 hoplimit < 5", "meta length > 500", "th dport 80", "meta nfproto ipv6"),
                *("ip frag-off & 0x1fff != 0", "ip saddr & 0.0.0.1 == 1", "udp length > 100"),
            )
        )
    )


_KINDS = (({"ip", "icmp"}, {"ip6"}), ({"tcp"}, {"udp"}))
"""Words that do not go together in a rule: nft(8) refuses what never applies."""


def _go_together(selectors: list[str]) -> bool:
    words = {word for selector in selectors for word in selector.split()[:1]}
    return all(sum(bool(words & kind) for kind in kinds) <= 1 for kinds in _KINDS)


@st.composite
def _rules(draw: st.DrawFn, verb: str = "add", *, counts: bool = False) -> str:
    chain = draw(st.sampled_from(_CHAINS))
    selectors = draw(st.lists(_selectors(), max_size=2))
    text = " ".join(selectors if _go_together(selectors) else selectors[:1])
    if not text and draw(st.booleans()):
        verdict = draw(st.sampled_from(("udp dport vmap @ways", "ip daddr vmap @places")))
    else:
        verdict = draw(st.sampled_from(_VERDICTS))
    if (chain == "one" and "one" in verdict) or (
        chain == "two" and verdict not in ("accept", "drop", "counter", "return")
    ):
        verdict = "accept"
    if not text and verdict in ("drop", ""):
        verdict = "counter"
    before, after = draw(st.sampled_from(_COUNTERS)) if counts and "counter" not in verdict else ("", "")
    if "vmap" in verdict:
        before, after = before or after, ""
    return f"nft {verb} rule inet t {chain} {before} {text} {after} {verdict}"


@st.composite
def rulesets(draw: st.DrawFn, *, counts: bool = False) -> tuple[str, ...]:
    """Tables, chains, sets and rules, each by a command of its own; ``counts``: most of the rules do."""
    policy = draw(st.sampled_from(("accept",) * 5 + ("drop",)))
    found = ["nft add table inet t", "nft add chain inet t two", "nft add chain inet t one"]
    for name, (kind, flags, elements) in _SETS.items():
        some = draw(st.lists(st.sampled_from(elements), unique=True, max_size=2))
        found.append(f"nft add set inet t {name} {{ type {kind}; {flags} }}")
        found += [f"nft add element inet t {name} {{ {element} }}" for element in some]
    found += [
        "nft add map inet t ways { type inet_service : verdict; }",
        "nft add element inet t ways { 53 : accept, 80 : jump two, 1500 : drop }",
        "nft add map inet t places { type ipv4_addr : verdict; flags interval; }",
        "nft add element inet t places { 10.17.0.0/16 : jump two, 203.0.113.0/24 : drop, 10.0.0.0/16 : continue }",
        f"nft add chain inet t f {{ type filter hook forward priority 0; policy {policy}; }}",
    ]
    found += draw(st.lists(_rules(counts=counts), min_size=1, max_size=6))
    if draw(st.integers(0, 3)) == 0:
        hook, priority = draw(st.sampled_from((("prerouting", -300), ("postrouting", 50), ("forward", 10))))
        family = draw(st.sampled_from(("ip", "ip6", "inet")))
        found += [
            f"nft add table {family} u",
            f"nft add chain {family} u c {{ type filter hook {hook} priority {priority}; }}",
            f"nft add rule {family} u c {draw(st.sampled_from(('iifname p0', 'oifname p1', 'iifname p2')))} drop",
            f"nft add rule {family} u c udp dport {draw(st.sampled_from(_PORTS))} "
            f"{draw(st.sampled_from(('drop', 'counter', 'accept')))}",
        ]
    return tuple(found)


@st.composite
def _changes(draw: st.DrawFn, made: tuple[str, ...], *, counts: bool = False) -> Change:
    there = [c for c in made if " element " in c and " : " not in c]
    kind = draw(st.integers(0, 5))
    if kind <= 1:
        return Change(draw(_rules(draw(st.sampled_from(("add", "insert"))), counts=counts)), 0)
    if kind <= 3:
        if there and kind == 2:
            return Change(draw(st.sampled_from(there)).replace(" add ", " delete "), 0)
        name, element = draw(st.sampled_from(_ELEMENTS))
        return Change(f"nft add element inet t {name} {{ {element} }}", 0)
    if kind == 4:
        return Change(f"nft flush chain inet t {draw(st.sampled_from(_CHAINS))}", 0)
    policy = draw(st.sampled_from(("accept", "drop")))
    return Change(f"nft add chain inet t f {{ type filter hook forward priority 0; policy {policy}; }}", 0)


@st.composite
def _routers(draw: st.DrawFn) -> Configuration:
    """Mostly one that forwards whatever has somewhere to go: it is the rules that matter."""
    if draw(st.integers(0, 3)) == 0:
        return draw(configurations())
    commands = []
    for family in FAMILIES:
        for port in range(PORTS):
            name, nodad = port_name(port), "" if family is FOUR else " nodad"
            commands.append(
                f"{family.option} address add {family.own.format(port)}/{family.length} dev {name}{nodad}"
            )
            for number, other in enumerate(family.others, 1):
                station = f"02:00:00:00:{16 + port:02x}:{number:02x}"
                commands.append(
                    f"{family.option} neigh replace {other.format(port)} lladdr {station} dev {name} nud permanent"
                )
        for prefix in ("default", *family.prefixes[1:4]):
            port = draw(ports)
            gateway = family.others[0].format(port)
            commands.append(f"{family.option} route replace {prefix} via {gateway} dev {port_name(port)}")
    return Configuration(tuple(commands), ())


@st.composite
def cases(draw: st.DrawFn, *, counts: bool = False) -> Case:
    """A router with rules, of which most count if ``counts``; mostly it is the rules that change."""
    made = draw(_routers())
    count = draw(frame_counts(_FEWEST_FRAMES, _MOST_FRAMES))
    sent = tuple(draw(frames(number)) for number in range(1, count + 1))
    rules = draw(rulesets(counts=counts))
    changed = tuple(draw(st.lists(_changes(rules, counts=counts), min_size=1, max_size=2)))
    others = draw(changes(made)) if draw(st.integers(0, 2)) == 0 else ()
    return Case((*made.commands, *rules), made.sysctls, sent, (*changed, *others[:1]))
