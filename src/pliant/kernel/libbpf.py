# SPDX-License-Identifier: Apache-2.0
"""Binding to the system's libbpf, used for one thing: loading objects.

libbpf relocates programs against the running kernel's types (CO-RE), which is not worth writing again. Its
messages are collected for the thread that calls it, never printed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator

from pliant.kernel.errors import KernelError
from pliant.kernel.syscall import libc

OLDEST = (1, 1)
"""The oldest version that will do: Debian 12's."""

_INSTALL = "install it (Debian: apt install libbpf1), or name the file in PLIANT_LIBBPF"
# A va_list is a structure passed by reference, of 24 bytes on x86_64 and 32 on aarch64: copying its bytes
# copies it.
_VA_LIST_BYTES = 32
_Printer = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_messages = threading.local()
_lock = threading.Lock()

_P, _S, _I, _U, _Z, _B = (
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_size_t,
    ctypes.c_bool,
)
_FUNCTIONS = {
    "bpf_object__open_file": (_P, _S, _P),
    "bpf_object__load": (_I, _P),
    "bpf_object__close": (None, _P),
    "bpf_object__next_program": (_P, _P, _P),
    "bpf_object__next_map": (_P, _P, _P),
    "bpf_program__name": (_S, _P),
    "bpf_program__section_name": (_S, _P),
    "bpf_program__fd": (_I, _P),
    "bpf_program__type": (_I, _P),
    "bpf_program__expected_attach_type": (_I, _P),
    "bpf_program__flags": (_U, _P),
    "bpf_program__insns": (_P, _P),
    "bpf_program__insn_cnt": (_Z, _P),
    "bpf_object__btf_fd": (_I, _P),
    "bpf_program__set_type": (_I, _P, _I),
    "bpf_program__set_expected_attach_type": (_I, _P, _I),
    "bpf_program__set_attach_target": (_I, _P, _I, _S),
    "bpf_program__set_autoload": (_I, _P, _B),
    "bpf_program__autoload": (_B, _P),
    "bpf_map__name": (_S, _P),
    "bpf_map__fd": (_I, _P),
    "bpf_map__type": (_I, _P),
    "bpf_map__key_size": (_U, _P),
    "bpf_map__value_size": (_U, _P),
    "bpf_map__map_flags": (_U, _P),
    "bpf_map__set_map_flags": (_I, _P, _U),
    "bpf_map__set_max_entries": (_I, _P, _U),
    "bpf_map__is_internal": (_B, _P),
    "bpf_map__autocreate": (_B, _P),
    "bpf_map__initial_value": (_P, _P, ctypes.POINTER(_Z)),
    "bpf_map__set_initial_value": (_I, _P, _S, _Z),
    "bpf_map__reuse_fd": (_I, _P, _I),
    "bpf_map__attach_struct_ops": (_P, _P),
    "bpf_link__destroy": (_I, _P),
    "bpf_link__disconnect": (None, _P),
    "libbpf_find_vmlinux_btf_id": (_I, _S, _I),
    "libbpf_major_version": (_U,),
    "libbpf_minor_version": (_U,),
    "libbpf_set_print": (_P, _Printer),
}


@functools.cache
def libbpf() -> ctypes.CDLL:
    """Return the library, opened at the first call (some 5 ms).

    Raises :class:`KernelError` when it is missing or older than :data:`OLDEST`.
    """
    name = os.environ.get("PLIANT_LIBBPF") or "libbpf.so.1"
    try:
        library = ctypes.CDLL(name, use_errno=True)
    except OSError as error:
        raise KernelError(f"the library {name} could not be opened ({error})", remedy=_INSTALL) from error
    for function, (result, *arguments) in _FUNCTIONS.items():
        try:
            found = getattr(library, function)
        except AttributeError as error:
            raise KernelError(
                f"the library {name} is too old: it lacks {function}", remedy=_INSTALL
            ) from error
        found.restype, found.argtypes = result, arguments
    version = (library.libbpf_major_version(), library.libbpf_minor_version())
    if version < OLDEST:
        raise KernelError(
            f"the library {name} is version {version[0]}.{version[1]}, 1.1 is needed", remedy=_INSTALL
        )
    with _lock:  # libbpf keeps the address: there must be one printer, kept for good
        library.libbpf_set_print(_printer())
    return library


def version() -> tuple[int, int]:
    """Return libbpf's version, major and minor."""
    library = libbpf()
    return library.libbpf_major_version(), library.libbpf_minor_version()


@contextlib.contextmanager
def collected_messages() -> Iterator[list[str]]:
    """Collect what libbpf says to this thread while the block runs."""
    outer, lines = getattr(_messages, "lines", None), list[str]()
    _messages.lines = lines
    try:
        yield lines
    finally:
        _messages.lines = outer


@functools.cache
def _printer() -> object:
    format_string = libc().vsnprintf
    format_string.argtypes = (_P, _Z, _P, _P)
    format_string.restype = _I

    def collect(_level: int, text: int, arguments: int) -> int:
        lines = getattr(_messages, "lines", None)
        if lines is None:
            return 0
        saved = ctypes.string_at(arguments, _VA_LIST_BYTES)
        length = format_string(None, 0, text, ctypes.create_string_buffer(saved, _VA_LIST_BYTES))
        buffer = ctypes.create_string_buffer(length + 1)
        format_string(buffer, length + 1, text, ctypes.create_string_buffer(saved, _VA_LIST_BYTES))
        lines.append(buffer.value.decode(errors="replace").rstrip("\n"))
        return int(length)

    return _Printer(collect)
