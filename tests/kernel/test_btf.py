# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.kernel.btf import Btf, Kind
from pliant.kernel.codec import Field
from pliant.kernel.errors import KernelError


@pytest.fixture
def types(compiled: Callable[[str], Path]) -> Btf:
    return Btf.from_elf(compiled("sample"))


def test_a_structure_is_laid_out_as_the_compiler_did(types: Btf) -> None:
    codec = types.struct("value")
    assert codec.size == 72
    assert codec.fields == (
        Field("count", 0, 8),
        Field("delta", 8, 4),
        Field("port", 12, 2),
        Field("inner", 16, 8),
        Field("many", 24, 16),
        Field("name", 40, 8),
        Field("mac", 48, 6),
        Field("words", 56, 12),
    )


def test_arrays_of_char_are_padded_and_arrays_of_bytes_are_not(types: Btf) -> None:
    value = types.struct("value").unpack(bytes(72))
    assert value["name"] == bytes(8)
    assert types.struct("value").pack(value | {"name": b"x"})[40:42] == b"x\0"
    with pytest.raises(ValueError, match=r"value\.mac: 1 bytes given, 6 needed"):
        types.struct("value").pack(value | {"mac": b"x"})


def test_an_enumeration_gives_its_constants(types: Btf) -> None:
    assert types.enum("reason") == {"REASON_NONE": 0, "REASON_FULL": 7}


def test_a_declared_map_gives_its_codecs(types: Btf) -> None:
    key, value = types.map_codecs("prefixes")
    assert key is not None
    assert value is not None
    assert key.pack({"bits": 8, "address": b"\x0a\0\0\0"}) == b"\x08\0\0\0\x0a\0\0\0"
    assert value.pack(3) == b"\3" + bytes(7)


def test_a_bit_field_is_refused_by_name(types: Btf) -> None:
    with pytest.raises(KernelError, match=r"the bit field bitty\.low"):
        types.struct("bitty")


def test_a_structure_that_is_not_there_is_named(types: Btf) -> None:
    with pytest.raises(KernelError, match=r"sample\.bpf\.o has no struct pliant_missing"):
        types.struct("pliant_missing")


def test_files_that_are_no_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.o"
    path.write_text("not an object")
    with pytest.raises(KernelError, match="is not a 64-bit BPF object"):
        Btf.from_elf(path)
    with pytest.raises(KernelError, match="cannot read the BPF object"):
        Btf.from_elf(tmp_path / "missing.o")
    path.write_bytes(b"\x7fELF\2\1" + b"\xff" * 58)
    with pytest.raises(KernelError, match="is a damaged BPF object"):
        Btf.from_elf(path)


def test_damaged_type_information_is_refused() -> None:
    with pytest.raises(KernelError, match="is damaged"):
        Btf(b"\x9f\xeb\1\0" + b"\x18\0\0\0" + (0).to_bytes(4, "little") + b"\xff\0\0\0" + bytes(8))
    with pytest.raises(KernelError, match="holds no type information"):
        Btf(bytes(24))


def test_the_running_kernel_describes_its_types() -> None:
    kernel = Btf.vmlinux()
    assert kernel.struct("in6_addr").size == 16
    assert kernel.find("tcp_congestion_ops", Kind.STRUCT).size > 64
