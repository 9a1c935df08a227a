# SPDX-License-Identifier: Apache-2.0
"""Objects loaded again are what libbpf makes of them."""

from __future__ import annotations

import os

import pytest

from pliant.fastpath.objects import shared_tables, shipped_object
from pliant.kernel.errors import KernelError
from pliant.kernel.objects import load
from pliant.kernel.templates import load_again, template_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loading needs root")
OBJECTS = sorted(path.name.removesuffix(".bpf.o") for path in shipped_object("x").parent.glob("*.bpf.o"))
PACKET = bytes(12) + b"\x08\x00" + bytes(50)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("every", [3, 70_000])
def test_a_program_loaded_again_is_the_same_instruction_by_instruction(name: str, every: int) -> None:
    constants = {"confirm_every": every, "max_age": 7}
    path = shipped_object(name)
    with load(path, feature=name, rodata=constants) as first:
        shared = {table: held for table, held in first.maps.items() if table in shared_tables()}
        template_of(path, name, shared)  # raises where only libbpf could load it
        with load_again(path, feature=name, rodata=constants, reuse=shared) as again:
            one, other = first.programs[name], again.programs[name]
            assert (one.tag, one.type, one.name) == (other.tag, other.type, other.name)
            assert one.id != other.id
            assert again.maps.keys() == first.maps.keys()
            for table, held in again.maps.items():
                same = first.maps[table]
                assert (held.type, held.key_size, held.value_size, held.max_entries, held.flags) == (
                    same.type, same.key_size, same.value_size, same.max_entries, same.flags
                )  # fmt: skip
                assert (held.id == same.id) == (table in shared)
            rodata = (held.maps[".rodata"].get(bytes(4)) for held in (first, again))
            assert next(rodata) == next(rodata)


def test_a_map_that_is_not_shared_is_new_and_typed() -> None:
    path = shipped_object("route_xdp")
    with (
        load_again(path, feature="route_xdp", rodata={}, reuse={}) as one,
        load_again(path, feature="route_xdp", rodata={}, reuse={}) as other,
    ):
        assert one.maps["counts"].id != other.maps["counts"].id
        assert one.maps["counts"].value_layout
        assert one.maps["counts"].value_layout == other.maps["counts"].value_layout
        one.programs["route_xdp"].test_run(PACKET)
        assert any(any(value) for _, value in one.maps["counts"].items())
        assert not any(any(value) for _, value in other.maps["counts"].items())


def test_what_the_kernel_refuses_is_explained_as_libbpf_does() -> None:
    with pytest.raises(KernelError, match="has no constant nosuch"):
        load_again(shipped_object("route_xdp"), feature="route_xdp", rodata={"nosuch": 1}, reuse={})
