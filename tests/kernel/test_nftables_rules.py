# SPDX-License-Identifier: Apache-2.0
"""The ruleset as data, against what nft was told and what it says."""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pliant.kernel.namespaces import entered
from pliant.kernel.nftables_expressions import (
    Bitwise,
    Compare,
    Counter,
    Ct,
    Immediate,
    Lookup,
    Meta,
    Other,
    Payload,
    Verdict,
    Within,
)
from pliant.kernel.nftables_rules import Rules, read_rules

from .conftest import Network

Nft = Callable[[str], Rules]


@pytest.fixture
def nft(network: Network) -> Nft:
    """Give a namespace a ruleset, and read it."""

    def given(text: str) -> Rules:
        with entered(network.fd):
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        return read_rules(network.fd)

    return given


def listed(network: Network, what: str) -> list[dict[str, Any]]:
    with entered(network.fd):
        done = subprocess.run(["nft", "-j", *what.split()], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["nftables"]
    assert isinstance(found, list)
    return found


ACCEPT, DROP = Immediate(None, b"", Verdict("accept")), Immediate(None, b"", Verdict("drop"))
TCP = (Meta(0, "l4proto"), Compare(0, "eq", b"\x06"))
IPV4 = (Meta(0, "nfproto"), Compare(0, "eq", b"\x02"))
NEAR = b"near".ljust(16, b"\0")

ROWS = (
    ("counter drop", (Counter(), DROP)),
    ("iifname near accept", (Meta(0, "iifname"), Compare(0, "eq", NEAR), ACCEPT)),
    ("ip saddr 192.0.2.0/24 accept",
     (*IPV4, Payload(0, "network", 12, 3), Compare(0, "eq", b"\xc0\x00\x02"), ACCEPT)),
    ("ip daddr != 192.0.2.0/23 drop",
     (*IPV4, Payload(0, "network", 16, 4), Bitwise(0, 0, b"\xff\xff\xfe\x00", bytes(4)),
      Compare(0, "neq", b"\xc0\x00\x02\x00"), DROP)),
    ("tcp dport != 1000-2000 drop",
     (*TCP, Payload(0, "transport", 2, 2), Within(0, b"\x03\xe8", b"\x07\xd0", True), DROP)),
    ("tcp sport >= 1024 goto b",
     (*TCP, Payload(0, "transport", 0, 2), Compare(0, "gte", b"\x04\x00"),
      Immediate(None, b"", Verdict("goto", "b")))),
    ("ct state established return",
     (Ct(0, "state"), Bitwise(0, 0, b"\x02\0\0\0", bytes(4)), Compare(0, "neq", bytes(4)),
      Immediate(None, b"", Verdict("return")))),
    ("ct original packets 80 accept",
     (Ct(0, "packets", "original"), Compare(0, "eq", (80).to_bytes(8, sys.byteorder)), ACCEPT)),
    ("tcp dport @ports accept", (*TCP, Payload(0, "transport", 2, 2), Lookup("ports", 0, None, False, False), ACCEPT)),
    ("tcp dport != @ports accept",
     (*TCP, Payload(0, "transport", 2, 2), Lookup("ports", 0, None, False, True), ACCEPT)),
    ("tcp dport vmap @ways", (*TCP, Payload(0, "transport", 2, 2), Lookup("ways", 0, None, True, False))),
    ("meta mark set 5", (Immediate(0, b"\x05\0\0\0", None), Other("meta"))),
    ("ip ttl set 5", (*IPV4, Other("payload"))),
    ("limit rate 5/second log accept", (Other("limit"), Other("log"), ACCEPT)),
)  # fmt: skip


def test_rules_are_the_instructions_that_nft_was_told(nft: Nft) -> None:
    lines = "\n".join(f"    {rule}" for rule, _ in ROWS)
    rules = nft(
        "table inet t {\n  set ports { type inet_service; }\n  map ways { type inet_service : verdict; }\n"
        f"  chain b {{ }}\n  chain a {{ type filter hook forward priority 0;\n{lines}\n  }}\n}}\n"
    )
    chain = rules.chain("inet", "t", "a")
    assert chain is not None
    assert chain.base is not None
    assert chain.base.hook == "forward"
    assert len(chain.rules) == len(ROWS)
    for (text, expected), rule in zip(ROWS, chain.rules, strict=True):
        found = rule.expressions
        if "ttl" in text:  # how nft gets at the old value, for the checksum, is its own affair
            assert isinstance(found[-1], Other), text
            continue
        assert found == expected, text
    other = rules.chain("inet", "t", "b")
    assert other is not None
    assert (other.base, other.rules) == (None, ())


def test_intervals_are_what_nft_lists(nft: Nft, network: Network) -> None:
    """1,000 random prefixes, some of them adjacent or at an end of the range, in two messages and more."""
    chance = random.Random(1)
    prefixes = {"0.0.0.0/24", "255.255.255.0/24"}
    prefixes |= {f"10.{i % 256}.{chance.randrange(256)}.0/{chance.randrange(20, 31)}" for i in range(1000)}
    text = ", ".join(str(ipaddress.ip_network(p, strict=False)) for p in sorted(prefixes))
    rules = nft(
        f"table ip t {{\n set s {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {text} }}\n }}\n}}\n"
    )
    found = rules.set("ip", "t", "s")
    assert found is not None
    [said] = [entry["set"]["elem"] for entry in listed(network, "list set ip t s") if "set" in entry]
    spans = set()
    for element in said:
        if isinstance(element, str):
            first = last = ipaddress.IPv4Address(element)
        elif "prefix" in element:
            whole = ipaddress.IPv4Network((element["prefix"]["addr"], element["prefix"]["len"]))
            first, last = whole[0], whole[-1]
        else:
            first, last = (ipaddress.IPv4Address(end) for end in element["range"])
        spans.add((first.packed, last.packed))
    assert {(e.key, e.last) for e in found.elements} == spans
    assert len(spans) > 500
    assert found.flags == {"interval"}
    assert not found.changes_unheard


def test_maps_concatenations_and_what_changes_unheard(nft: Nft) -> None:
    rules = nft("""table inet t {
      chain b { }
      map ways { type inet_service : verdict; elements = { 22 : accept, 23 : jump b, 24 : drop } }
      map marks { type ipv4_addr : mark; flags interval; elements = { 10.0.0.0/8 : 7 } }
      set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/24 . 80-90 } }
      set fleeting { type ipv4_addr; flags timeout; elements = { 192.0.2.1 timeout 1h } }
      set counted { type ipv4_addr; counter; elements = { 192.0.2.1 } }
      set learned { type ipv4_addr; flags dynamic; }
    }
    table ip asleep { flags dormant
      set s { type ipv4_addr; }
    }
    """)
    sets = {s.name: s for s in rules.sets}
    assert set(sets) == {"ways", "marks", "pairs", "fleeting", "counted", "learned"}
    assert [(e.key, e.data) for e in sets["ways"].elements] == [
        (b"\0\x16", Verdict("accept")),
        (b"\0\x17", Verdict("jump", "b")),
        (b"\0\x18", Verdict("drop")),
    ]
    assert sets["ways"].gives_verdicts
    [mark] = sets["marks"].elements
    assert (mark.key, mark.last, mark.data) == (b"\x0a\0\0\0", b"\x0a\xff\xff\xff", b"\x07\0\0\0")
    [pair] = sets["pairs"].elements
    assert (pair.key, pair.last) == (b"\x0a\0\0\0\0P\0\0", b"\x0a\0\0\xff\0Z\0\0")
    assert (sets["pairs"].fields, sets["pairs"].key_bytes) == ((4, 2), 8)
    assert [sets[name].changes_unheard for name in ("fleeting", "learned", "ways")] == [True, True, False]
    assert [e.has_more for e in sets["fleeting"].elements + sets["counted"].elements] == [True, True]


def test_a_namespace_without_rules_has_none(network: Network) -> None:
    found = read_rules(network.fd)
    assert (found.chains, found.sets) == ((), ())
