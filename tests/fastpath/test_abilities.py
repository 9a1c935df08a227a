# SPDX-License-Identifier: Apache-2.0
"""What is said of the kernel's abilities is what happens when the programs are loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pliant.fastpath.abilities import (
    abilities,
    ability,
    bridges,
    follows_connections,
    lacking,
    names,
    sees_rulesets,
)
from pliant.fastpath.objects import shipped_object
from pliant.kernel.elf import Elf
from pliant.kernel.probes import State
from tests.conftest import bpf_descriptors

root = pytest.mark.skipif(os.geteuid() != 0, reason="loading needs root")


@root
def test_every_ability_has_an_answer_and_a_sentence_and_nothing_stays() -> None:
    before = bpf_descriptors("bpf-prog")
    found = abilities()
    assert tuple(each.name for each in found) == names()
    assert all(each.sentence.endswith(".") for each in found)
    assert all(each.support.reason for each in found if not each.support)
    assert bpf_descriptors("bpf-prog") == before


@root
@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("route_xdp", "fastpath_route"),
        ("bridge_xdp", "fastpath_bridge"),
        ("overlay_tc", "fastpath_overlay"),
    ],
)
def test_what_is_lacking_is_what_the_ability_says(name: str, of: str) -> None:
    support = ability(of).support
    assert lacking(name) == (support.reason if support.state is State.UNSUPPORTED else "")


def types_of(name: str, path: Path) -> Path:
    """The types of an object, as the kernel shows its own."""
    path.write_bytes(Elf(shipped_object(name)).section(".BTF") or b"")
    return path


def test_the_number_of_the_ruleset_is_looked_for_among_the_types(tmp_path: Path) -> None:
    assert sees_rulesets(types_of("route_xdp", tmp_path / "vmlinux"))
    without = sees_rulesets(types_of("../cwnd_clamp", tmp_path / "other"))
    assert without.state is State.UNKNOWN
    assert "has no struct netns_nftables" in without.reason
    assert sees_rulesets(tmp_path / "nosuch").state is State.UNKNOWN


@root
def test_a_bridge_that_this_kernel_may_yet_load_is_no_answer(tmp_path: Path) -> None:
    known = bridges(tmp_path)
    assert known or known.state is State.UNSUPPORTED or "once the module bridge is loaded" in known.reason


@root
def test_functions_of_conntrack_are_looked_for_in_the_kernel_and_its_module(tmp_path: Path) -> None:
    types, modules = tmp_path / "btf", tmp_path / "modules"
    types.mkdir()
    (types / "vmlinux").write_bytes(b"\0other\0")
    assert follows_connections(types, modules).state is State.UNKNOWN
    (modules / "nf_conntrack").mkdir(parents=True)
    old = follows_connections(types, modules)
    assert (old.state, old.reason) == (
        State.UNSUPPORTED, "this kernel lacks bpf_xdp_ct_lookup(), which Linux 6.0 has"
    )  # fmt: skip
    all_three = b"\0bpf_xdp_ct_lookup\0bpf_ct_release\0bpf_ct_change_timeout\0"
    (types / "nf_conntrack").write_bytes(all_three)
    assert follows_connections(types, modules)
