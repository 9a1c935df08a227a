# SPDX-License-Identifier: Apache-2.0
"""What bpf/scope.bpf.c does with its tables, function by function, in Python and on the same bytes."""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address

from pliant.features.layout import Layout
from pliant.observe.tables import Table, Tables
from pliant.policy.desired import SCOPE, Role
from pliant.policy.explain import Connection
from pliant.policy.services import ancestors

MAX_CGROUP_DEPTH = 24
SHAPE_LOCAL, SHAPE_REMOTE = 1, 2
EXACT_BYTES = 16
WORD = 2**64 - 1

Verdict = dict[str, int]
"""The number of the policy that won each option."""


def judge(tables: Tables, layout: Layout, cgroups: Mapping[str, int], connection: Connection) -> Verdict:
    """``judge()``: each option goes to the matching policy with the highest priority that sets it."""
    service = service_of(tables, layout, cgroups, connection.cgroup)
    verdict: Verdict = {}
    if service is None:
        return verdict
    for shape in range(4):
        if not service["shapes"] >> shape & 1:
            continue
        for number in _rule(tables, layout, service["class"], connection, shape):
            if not number:
                break
            _weigh(tables, layout, verdict, number, connection)
    return verdict


def service_of(
    tables: Tables, layout: Layout, cgroups: Mapping[str, int], path: str
) -> dict[str, int] | None:
    """``service_of()``: the entry of the cgroup or of its nearest ancestor that has one."""
    services = tables.get(Table(SCOPE, "services"), {})
    for cgroup in (path, *ancestors(path))[:MAX_CGROUP_DEPTH]:
        found = services.get(cgroups[cgroup].to_bytes(8, sys.byteorder))
        if found is not None:
            unpacked: dict[str, int] = layout.scope["service"].unpack(found)
            return unpacked
    return None


def peer_bytes(connection: Connection) -> bytes:
    """``read_peer()``: network byte order, IPv4 as v4-mapped IPv6."""
    packed = connection.peer.packed
    return bytes(10) + b"\xff\xff" + packed if isinstance(connection.peer, IPv4Address) else packed


def _rule(
    tables: Tables, layout: Layout, service_class: int, connection: Connection, shape: int
) -> tuple[int, ...]:
    """``bpf_map_lookup_elem(&rules, &key)``: the longest prefix of the key's bits (kernel/bpf/lpm_trie.c)."""
    fields = {
        "prefix_bits": (EXACT_BYTES + 16) * 8,
        "class": [service_class & 0xFFFFFFFF, service_class >> 32],
        "local_port": connection.local_port if shape & SHAPE_LOCAL else 0,
        "remote_port": connection.remote_port if shape & SHAPE_REMOTE else 0,
        "role": Role[connection.role.upper()],
        "reserved": bytes(3),
        "peer": peer_bytes(connection),
    }
    wanted = layout.scope["rule_key"].pack(fields)[4:]
    best, value = -1, bytes(layout.scope["rule"].size)
    for key, candidate in tables.get(Table(SCOPE, "rules"), {}).items():
        bits = int.from_bytes(key[:4], sys.byteorder)
        if bits > best and _common_bits(key[4:], wanted) >= bits:
            best, value = bits, candidate
    numbers: list[int] = layout.scope["rule"].unpack(value)["policy"]
    return tuple(numbers)


def _common_bits(left: bytes, right: bytes) -> int:
    return len(left) * 8 - (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).bit_length()


def _weigh(tables: Tables, layout: Layout, verdict: Verdict, number: int, connection: Connection) -> None:
    policy = _policy(tables, layout, number)
    if policy is None or holds_out(policy["holdout"], number, connection):
        return
    for option, slot in layout.slots.items():
        if not policy["options"] >> slot & 1:
            continue
        holder = _policy(tables, layout, verdict[option]) if option in verdict else None
        rank = (policy["priority"], -number)
        if holder is None or (holder["priority"], -verdict[option]) < rank:
            verdict[option] = number


def _policy(tables: Tables, layout: Layout, number: int) -> dict[str, int] | None:
    found = tables.get(Table(SCOPE, "policies"), {}).get(number.to_bytes(4, sys.byteorder))
    return layout.scope["policy"].unpack(found) if found is not None else None


def holds_out(below: int, number: int, connection: Connection, key: int = 0) -> bool:
    """Whether a policy leaves a connection alone: its hash, salted by the policy's number, is below a bound."""
    return bool(below) and (mix(hash_connection(connection, key) ^ number) & 0xFFFFFFFF) < below


def hash_connection(connection: Connection, key: int) -> int:
    """``hash_connection()``."""
    words = struct.unpack("=4I", peer_bytes(connection))
    network, host = words[0] << 32 | words[1], words[2] << 32 | words[3]
    return mix(mix(network ^ key) ^ host ^ (connection.local_port << 16 | connection.remote_port))


def mix(value: int) -> int:
    """``mix()``: the finaliser of MurmurHash3."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & WORD
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & WORD
    return value ^ value >> 33
