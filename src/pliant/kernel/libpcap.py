# SPDX-License-Identifier: Apache-2.0
"""The compiler of libpcap: filters of packets as tcpdump takes them (pcap-filter(7)) to classic BPF."""

from __future__ import annotations

import ctypes
import functools
import os
import struct

from pliant.errors import PliantError
from pliant.kernel.errors import NotSupported

_ETHERNET = 1  # DLT_EN10MB
_SNAPSHOT = 1 << 16
_NO_NETMASK = 0xFFFFFFFF  # PCAP_NETMASK_UNKNOWN
_INSTRUCTION = struct.Struct("=HBBI")  # struct bpf_insn of libpcap, struct sock_filter of the kernel
_REMEDY = "install it (Debian: apt install libpcap0.8), or leave the filter out"


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def compile_filter(text: str) -> bytes:
    """Compile a filter of Ethernet frames; instructions of 8 bytes each (``struct sock_filter``).

    Raises :class:`PliantError` for what is no filter, and :class:`NotSupported` where there is no libpcap.
    """
    library = _libpcap()
    handle = library.pcap_open_dead(_ETHERNET, _SNAPSHOT)
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), os.fsencode(text), 1, _NO_NETMASK):
            said = library.pcap_geterr(handle).decode(errors="replace")
            raise PliantError(f"'{text}' is not a filter: {said}", remedy="man 7 pcap-filter has the syntax")
        try:
            return ctypes.string_at(program.instructions, program.length * _INSTRUCTION.size)
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)


@functools.cache
def _libpcap() -> ctypes.CDLL:
    name = os.environ.get("PLIANT_LIBPCAP") or "libpcap.so.0.8"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise NotSupported(f"filters need the library {name} ({error})", remedy=_REMEDY) from error
    handle, number, program = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Program)
    library.pcap_open_dead.argtypes, library.pcap_open_dead.restype = (number, number), handle
    library.pcap_compile.argtypes = (handle, program, ctypes.c_char_p, number, ctypes.c_uint32)
    library.pcap_geterr.argtypes, library.pcap_geterr.restype = (handle,), ctypes.c_char_p
    library.pcap_freecode.argtypes, library.pcap_close.argtypes = (program,), (handle,)
    return library
