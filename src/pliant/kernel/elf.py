# SPDX-License-Identifier: Apache-2.0
"""As much of a 64-bit ELF object as is needed to read its BTF and the places of its variables."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import KernelError

_SYMTAB = 2
_OBJECT, _FUNCTION = 1, 2
_SECTION = struct.Struct("=IIQQQQIIQQ")
_SYMBOL = struct.Struct("=IBBHQQ")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable or a function of an object: the section it is in, and where there, in bytes."""

    name: str
    section: str
    offset: int
    size: int


class Elf:
    """The sections and variables of an ELF object; raises :class:`KernelError` for a file that is not one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise KernelError(
                f"cannot read the BPF object {path}: {error.strerror}", errno=error.errno
            ) from error
        order = 1 if sys.byteorder == "little" else 2
        if self._data[:6] != b"\x7fELF" + bytes((2, order)):
            raise KernelError(f"{path} is not a 64-bit BPF object of this machine's byte order")
        try:
            self._read_sections()
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise KernelError(f"{path} is a damaged BPF object") from error

    def _read_sections(self) -> None:
        start = struct.unpack_from("=Q", self._data, 40)[0]
        count, names = struct.unpack_from("=HH", self._data, 60)
        self._headers = [_SECTION.unpack_from(self._data, start + i * _SECTION.size) for i in range(count)]
        strings = self._bytes(names)
        self.sections = [_text(strings, header[0]) for header in self._headers]

    def _bytes(self, index: int) -> bytes:
        header = self._headers[index]
        return self._data[header[4] : header[4] + header[5]]

    def section(self, name: str) -> bytes | None:
        """Content of a section, None when there is none of that name."""
        return self._bytes(self.sections.index(name)) if name in self.sections else None

    def variables(self) -> dict[str, Variable]:
        """Global and static variables by name."""
        return self._symbols(_OBJECT)

    def functions(self) -> dict[str, Variable]:
        """Functions by name."""
        return self._symbols(_FUNCTION)

    def _symbols(self, kind: int) -> dict[str, Variable]:
        found: dict[str, Variable] = {}
        for index, header in enumerate(self._headers):
            if header[1] != _SYMTAB:
                continue
            strings = self._bytes(header[6])
            for name, info, _, section, value, size in _SYMBOL.iter_unpack(self._bytes(index)):
                if info & 0xF == kind and 0 < section < len(self.sections):
                    text = _text(strings, name)
                    found[text] = Variable(text, self.sections[section], value, size)
        return found


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode()
