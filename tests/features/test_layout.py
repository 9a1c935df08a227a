# SPDX-License-Identifier: Apache-2.0
"""Whether what Python says of the tables is what the C headers and the objects' type information say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pliant.agent.actuator.objects import SHARED_MAPS
from pliant.features import features
from pliant.features.encoding import RULE_EXACT_BITS
from pliant.features.layout import MAX_OPTIONS, shipped_layout
from pliant.kernel.btf import Btf
from pliant.kernel.uapi import MapType
from pliant.observe.reader import POLICY_CONSTANT_BYTES
from pliant.policy.compile import MAX_RULE_POLICIES
from pliant.policy.desired import ANY_PORT, SCOPE, Role, RuleKey
from tests.policy.scope_model import EXACT_BYTES, MAX_CGROUP_DEPTH

BPF = Path(__file__).parents[2] / "bpf"
HEADER = (BPF / "include/pliant/scope.h").read_text()
SOURCE = (BPF / "scope.bpf.c").read_text()
LAYOUT = shipped_layout()


def defined(name: str, text: str = HEADER) -> int:
    found = re.search(rf"^#define\s+{name}\s+(\d+)\b", text, re.MULTILINE)
    assert found, f"#define {name} is not in the source"
    return int(found[1])


def enumerated(name: str) -> dict[str, int]:
    found = re.search(rf"^enum {name} \{{(.*?)^\}};", HEADER, re.MULTILINE | re.DOTALL)
    assert found, f"enum {name} is not in the header"
    pairs = re.findall(r"(\w+)\s*=\s*(\d+)(?:\s*<<\s*(\d+))?", found[1])
    return {constant: int(value) << int(shift or 0) for constant, value, shift in pairs}


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("MAX_OPTIONS", MAX_OPTIONS),
        ("MAX_RULE_POLICIES", MAX_RULE_POLICIES),
        ("RULE_EXACT_BITS", RULE_EXACT_BITS),
    ],
)
def test_a_limit_is_the_same_in_c_and_in_python(name: str, ours: int) -> None:
    assert ours == defined(name)


def test_the_model_of_scope_looks_as_far_up_as_scope() -> None:
    assert defined("MAX_CGROUP_DEPTH", SOURCE) == MAX_CGROUP_DEPTH


def test_roles_have_the_same_numbers_in_c_and_in_python() -> None:
    assert enumerated("role") == {f"ROLE_{role.name}": role.value for role in Role}


@pytest.mark.parametrize(
    ("local_port", "remote_port", "shape"),
    [
        (ANY_PORT, ANY_PORT, ()),
        (1, ANY_PORT, ("LOCAL",)),
        (ANY_PORT, 1, ("REMOTE",)),
        (1, 1, ("LOCAL", "REMOTE")),
    ],
)
def test_port_shapes_are_the_same_in_c_and_in_python(
    local_port: int, remote_port: int, shape: tuple[str, ...]
) -> None:
    bits = enumerated("shape")
    key = RuleKey(1, Role.SERVER, local_port, remote_port, 0, 0)
    assert key.shape == sum(bits[f"SHAPE_{side}"] for side in shape)


def test_a_rule_key_has_its_exact_bits_between_the_length_and_the_peer() -> None:
    fields = {field.name: field for field in LAYOUT.scope["rule_key"].fields}
    assert fields["prefix_bits"].size == 4
    assert (fields["peer"].offset - 4) * 8 == RULE_EXACT_BITS == EXACT_BYTES * 8
    assert fields["peer"].offset + 16 == LAYOUT.scope["rule_key"].size


def test_structs_have_no_hidden_padding() -> None:
    for name, codec in LAYOUT.scope.items():
        ends = [0, *(field.offset + field.size for field in codec.fields)]
        assert [*(field.offset for field in codec.fields), codec.size] == ends, name


def test_lists_of_policies_have_the_declared_length() -> None:
    assert LAYOUT.scope["rule"].size == 4 * MAX_RULE_POLICIES


def test_what_user_space_owns_of_a_policy_ends_where_the_counters_start() -> None:
    offsets = {field.name: field.offset for field in LAYOUT.scope["policy"].fields}
    assert min(offsets["treated"], offsets["held_out"]) == POLICY_CONSTANT_BYTES
    assert all(
        at < POLICY_CONSTANT_BYTES for name, at in offsets.items() if name not in ("treated", "held_out")
    )


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("services", 8, "service"), ("rules", "rule_key", "rule"), ("policies", 4, "policy")],
)
def test_scopes_maps_are_declared_with_the_structs_that_are_written_to_them(
    table: str, key: int | str, value: str
) -> None:
    key_codec, value_codec = Btf.from_elf(LAYOUT.objects[SCOPE]).map_codecs(table)
    assert key_codec is not None
    assert value_codec is not None
    assert key_codec.size == (key if isinstance(key, int) else LAYOUT.scope[key].size)
    assert value_codec.fields == LAYOUT.scope[value].fields


@pytest.mark.parametrize("name", tuple(features()))
def test_a_features_settings_and_verdicts_are_those_it_is_given(name: str) -> None:
    btf = Btf.from_elf(LAYOUT.objects[name])
    key, value = btf.map_codecs("settings")
    assert key is not None
    assert value is not None
    assert (key.size, value.fields) == (4, LAYOUT.settings[name].fields)
    for table in ("verdicts", "accepted"):
        _, verdict = btf.map_codecs(table)
        assert verdict is not None
        assert verdict.fields == LAYOUT.scope["verdict"].fields


def test_a_verdict_tells_whose_it_is_and_has_a_bit_and_a_policy_for_each_option() -> None:
    fields = {field.name: field for field in LAYOUT.scope["verdict"].fields}
    assert fields["socket"].size == 8
    assert fields["won"].size * 8 == MAX_OPTIONS
    assert fields["policy"].size == 4 * MAX_OPTIONS


def test_the_types_of_maps_are_part_of_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    types = Btf.from_elf(LAYOUT.objects[SCOPE]).map_types()
    assert (types["asked"], types["rules"], types["policies"]) == (
        MapType.ARRAY,
        MapType.LPM_TRIE,
        MapType.HASH,
    )
    shipped = Btf.map_types
    monkeypatch.setattr(Btf, "map_types", lambda btf: shipped(btf) | {"asked": MapType.HASH})
    assert shipped_layout.__wrapped__().digest != LAYOUT.digest


@pytest.mark.parametrize("table", SHARED_MAPS)
@pytest.mark.parametrize("name", [SCOPE, *features()])
def test_scope_and_every_feature_declare_the_maps_they_share_alike(name: str, table: str) -> None:
    sizes = [codec and codec.size for codec in Btf.from_elf(LAYOUT.objects[name]).map_codecs(table)]
    assert sizes == [codec and codec.size for codec in Btf.from_elf(LAYOUT.objects[SCOPE]).map_codecs(table)]
    assert sizes[0] == 4


def test_slots_are_those_of_the_features_in_order_of_their_names() -> None:
    assert dict(LAYOUT.slots) == {name: slot for slot, name in enumerate(sorted(features()))}
    assert len(LAYOUT.slots) <= MAX_OPTIONS


def test_every_object_has_a_build_and_the_layout_a_digest_fit_for_a_pins_name() -> None:
    assert LAYOUT.objects.keys() == LAYOUT.builds.keys() == {SCOPE, *features()}
    assert len(set(LAYOUT.builds.values())) == len(LAYOUT.builds)
    assert all(re.fullmatch(r"[0-9a-f]{12}", digest) for digest in (LAYOUT.digest, *LAYOUT.builds.values()))
