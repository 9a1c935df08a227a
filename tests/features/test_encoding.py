# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.features.encoding import encode, live_digest
from pliant.features.feature import Callback
from pliant.features.layout import MAX_OPTIONS, shipped_layout
from pliant.observe.tables import Table
from pliant.policy.compile import compile_policies, mapped_prefix
from pliant.policy.desired import (
    NOTHING,
    SCOPE,
    DesiredState,
    PolicyVersion,
    Role,
    RuleKey,
    Service,
)
from pliant.policy.model import Policy, parse_prefix
from tests.policy.strategies import CGROUPS, policy_sets, unhurried

LAYOUT = shipped_layout()
RULES, SERVICES = Table(SCOPE, "rules"), Table(SCOPE, "services")
POLICIES = Table(SCOPE, "policies")
SOME = frozenset({"dscp"})


def number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def version(**changed: Any) -> PolicyVersion:
    given: dict[str, Any] = {
        "number": 1,
        "name": "web",
        "priority": 7,
        "holdout_ppm": 0,
        "settings": {"dscp": 46},
    }
    return PolicyVersion(**(given | changed))


def test_nothing_to_run_needs_no_tables() -> None:
    assert encode(NOTHING, LAYOUT) == {}


@pytest.mark.parametrize(
    ("prefix", "ports", "role", "bits", "peer"),
    [
        ("10.2.0.0/16", (443, 0), Role.SERVER, 240, "::ffff:10.2.0.0"),
        ("0.0.0.0/0", (0, 443), Role.CLIENT, 224, "::ffff:0.0.0.0"),
        ("::/0", (0, 0), Role.SERVER, 128, "::"),
        ("fd00:2::4/128", (65535, 1), Role.CLIENT, 256, "fd00:2::4"),
    ],
)
def test_a_rules_key_has_ports_in_host_order_and_the_peer_in_network_order(
    prefix: str, ports: tuple[int, int], role: Role, bits: int, peer: str
) -> None:
    key = RuleKey(0x1122334455667788, role, *ports, *mapped_prefix(parse_prefix(prefix)))
    tables = encode(DesiredState(rules={key: (1,)}, options=SOME), LAYOUT)
    address = socket.inet_pton(socket.AF_INET6, peer)
    assert list(tables[RULES]) == [
        struct.pack("=IIIHHB3x16s", bits, 0x55667788, 0x11223344, *ports, role, address)
    ]


keys = st.builds(
    RuleKey,
    st.integers(0, 2**64 - 1),
    st.sampled_from(Role),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 2**128 - 1),
    st.integers(0, 128),
)


@given(keys)
def test_a_rules_key_reads_back_as_struct_rule_key(key: RuleKey) -> None:
    (encoded,) = encode(DesiredState(rules={key: (1,)}, options=SOME), LAYOUT)[RULES]
    fields = LAYOUT.scope["rule_key"].unpack(encoded)
    low, high = fields["class"]
    assert low | high << 32 == key.service_class
    assert fields["prefix_bits"] == 128 + key.peer_bits
    assert (fields["role"], fields["local_port"], fields["remote_port"]) == key[1:4]
    assert ip_address(fields["peer"]) == ip_address(key.peer.to_bytes(16, "big"))
    assert not any(fields["reserved"])


@pytest.mark.parametrize("numbers", [(1,), (3, 2, 1), tuple(range(1, 9))])
def test_a_rule_lists_its_policies_and_a_zero_ends_a_short_list(numbers: tuple[int, ...]) -> None:
    key = RuleKey(1, Role.SERVER, 0, 0, 0, 0)
    (value,) = encode(DesiredState(rules={key: numbers}, options=SOME), LAYOUT)[RULES].values()
    assert LAYOUT.scope["rule"].unpack(value)["policy"] == [*numbers, *[0] * (8 - len(numbers))]


def test_a_service_has_its_class_and_shapes_under_its_cgroups_id() -> None:
    desired = DesiredState(services={77: Service(2**64 - 1, 0b1010, frozenset({"dscp"}))}, options=SOME)
    assert encode(desired, LAYOUT)[SERVICES] == {
        (77).to_bytes(8, sys.byteorder): LAYOUT.scope["service"].pack(
            {"class": 2**64 - 1, "shapes": 0b1010, "options": 1 << LAYOUT.slots["dscp"]}
        )
    }


def test_a_policy_has_a_bit_and_a_word_for_each_option_it_sets_and_counters_of_zero() -> None:
    settings = {"dscp": 46, "pacing_rate": 8000}
    desired = DesiredState(versions={5: version(number=5, settings=settings)}, options=frozenset(settings))
    (fields,) = (LAYOUT.scope["policy"].unpack(value) for value in encode(desired, LAYOUT)[POLICIES].values())
    assert fields == {
        "priority": 7,
        "options": 1 << LAYOUT.slots["dscp"] | 1 << LAYOUT.slots["pacing_rate"],
        "holdout": 0,
        "flags": 0,
        "word": [
            {LAYOUT.slots["dscp"]: 46, LAYOUT.slots["pacing_rate"]: 1000}.get(slot, 0)
            for slot in range(MAX_OPTIONS)
        ],
        "treated": 0,
        "held_out": 0,
    }


@unhurried
@given(policy_sets())
def test_a_policys_words_are_what_the_tables_of_its_features_have(policies: list[Policy]) -> None:
    tables = encode(compile_policies(policies, CGROUPS).desired, LAYOUT)
    for key, value in tables.get(POLICIES, {}).items():
        words = dict.fromkeys(range(MAX_OPTIONS), 0)
        for table, entries in tables.items():
            if table.map == "settings" and LAYOUT.settings[table.object].size == 4 and key in entries:
                words[LAYOUT.slots[table.object]] = int.from_bytes(entries[key], sys.byteorder)
        assert LAYOUT.scope["policy"].unpack(value)["word"] == list(words.values())


@pytest.mark.parametrize(
    ("holdout_ppm", "below"),
    [(0, 0), (1, 4294), (50_000, 214_748_364), (500_000, 2**31), (1_000_000, 2**32 - 1)],
)
def test_a_holdout_is_a_share_of_the_hashes(holdout_ppm: int, below: int) -> None:
    desired = DesiredState(versions={1: version(holdout_ppm=holdout_ppm)}, options=SOME)
    assert LAYOUT.scope["policy"].unpack(encode(desired, LAYOUT)[POLICIES][number(1)])["holdout"] == below


@unhurried
@given(policy_sets())
def test_every_feature_has_a_setting_for_exactly_the_policies_that_set_its_option(
    policies: list[Policy],
) -> None:
    desired = compile_policies(policies, CGROUPS).desired
    tables = encode(desired, LAYOUT)
    settings = {table.object: set(entries) for table, entries in tables.items() if table.map == "settings"}
    assert settings.keys() == desired.programs - {SCOPE}
    for option, found in settings.items():
        assert found == {number(v.number) for v in desired.versions.values() if option in v.settings}


@unhurried
@given(policy_sets())
def test_every_key_and_value_has_the_size_that_its_map_was_declared_with(policies: list[Policy]) -> None:
    structs = {
        "services": (8, LAYOUT.scope["service"].size),
        "rules": (LAYOUT.scope["rule_key"].size, LAYOUT.scope["rule"].size),
        "policies": (4, LAYOUT.scope["policy"].size),
        "effects": (8, LAYOUT.scope["effect"].size),
        "asked": (4, 4),
    }
    for table, entries in encode(compile_policies(policies, CGROUPS).desired, LAYOUT).items():
        sizes = structs.get(table.map) or (4, LAYOUT.settings[table.object].size)
        assert {(len(key), len(value)) for key, value in entries.items()} <= {sizes}


@pytest.mark.parametrize(
    ("live", "measured", "flags"), [(False, False, 0), (True, False, 1), (False, True, 2)]
)
def test_a_policy_says_whether_it_is_for_open_connections_and_whether_it_is_measured(
    live: bool, measured: bool, flags: int
) -> None:
    made = version(live=live, measured=measured)
    tables = encode(DesiredState(versions={made.number: made}, options=SOME), LAYOUT)
    assert LAYOUT.scope["policy"].unpack(tables[POLICIES][number(made.number)])["flags"] == flags
    arms = {LAYOUT.scope["effect_key"].pack({"policy": made.number, "arm": arm}) for arm in (0, 1)}
    assert tables[Table(SCOPE, "effects")].keys() == (arms if measured else set())


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"initial_cwnd": 10, "congestion_control": "cubic"}, {}),
        ({"congestion_control": "pliant_dctcp"}, {Callback.NEEDS_ECN: ["congestion_control"]}),
        (
            {"ecn": True, "congestion_control": "pliant_dctcp", "syn_timeout": 1_000_000},
            {Callback.NEEDS_ECN: ["ecn", "congestion_control"], Callback.TIMEOUT_INIT: ["syn_timeout"]},
        ),
    ],
)
def test_only_values_that_want_to_are_asked_about_a_syn(
    settings: dict[str, object], asked: dict[Callback, list[str]]
) -> None:
    made = version(settings=settings)
    desired = DesiredState(versions={made.number: made}, options=frozenset(settings))
    tables = encode(desired, LAYOUT)
    expected = {number(callback): number(LAYOUT.mask(names)) for callback, names in asked.items()}
    assert tables[Table(SCOPE, "asked")] == expected


def test_open_connections_depend_on_all_tables_but_only_where_a_policy_is_for_them() -> None:
    def digest(live: bool, priority: int) -> int:
        made = version(live=live, priority=priority)
        desired = DesiredState(versions={made.number: made}, options=SOME)
        return live_digest(desired, encode(desired, LAYOUT))

    assert digest(False, 1) == digest(False, 2) == 0
    assert digest(True, 1) == digest(True, 1)
    assert len({0, digest(True, 1), digest(True, 2)}) == 3
