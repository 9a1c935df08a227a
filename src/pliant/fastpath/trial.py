# SPDX-License-Identifier: Apache-2.0
"""Asking a fast path itself what it makes of a packet (BPF_PROG_TEST_RUN), without a trace of that in what it counts.

It is a copy of the program that is asked: with the same constants and the same tables, but for those that it writes to,
which are the copy's own.
"""

from __future__ import annotations

import errno as codes
import struct
from dataclasses import dataclass, replace

from pliant.closing import Closable
from pliant.fastpath.counters import DROPPED
from pliant.fastpath.objects import OWN_TABLE, counted_reasons, shipped_object, tables_of
from pliant.kernel.elf import Elf
from pliant.kernel.errors import KernelError
from pliant.kernel.maps import Map
from pliant.kernel.objects import load
from pliant.kernel.programs import Program
from pliant.observe.fastpath import FORWARDED, FastpathPins, Mode, Port, counted_in

_XDP_CONTEXT = struct.Struct("=6I")  # struct xdp_md
# struct __sk_buff, of which all but ingress_ifindex and ifindex have to be zero
_SKB_CONTEXT = struct.Struct("=36xII148x")
_CONSTANTS = ".rodata"
# What programs write to, so that asking leaves no trace.
_WRITTEN = frozenset(
    {"flows4", "flows6", "pod_flows", "confirmed", "crossings", "signals", "evaluations", "rule_counts"}
)
_LEAST_BYTES = 14
_AT_FIRST = ("confirming", "refused")  # what may be said of the first packet of a flow alone


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a fast path makes of a packet: ``reason`` says why it is left to the kernel, and is empty where it is not.

    ``frame`` is the packet as it leaves; ``confirms``: now and then one of its kind goes to the kernel all the same.
    """

    is_forwarded: bool
    reason: str
    frame: bytes
    confirms: bool = False

    @property
    def is_dropped(self) -> bool:
        """Whether it is dropped in place, as the kernel would."""
        return self.reason == DROPPED

    @property
    def is_decided(self) -> bool:
        """Whether the kernel does not get to see it."""
        return self.is_forwarded or self.is_dropped


class Trial(Closable):
    """A copy of the program that an interface runs, in the calling thread's network namespace; ``object`` is its name.

    Raises :class:`KernelError` where the program is another build's, whose object is not here.
    """

    def __init__(self, pins: FastpathPins, port: Port, build: str) -> None:
        self._port = port
        self.object = ""
        with Program.pinned(pins.program(port, build)) as program:
            name = self.object = program.name
            constants = _constants_of(program, name)
            tag = program.tag
        reused = {
            table: Map.pinned(pins.table(table))
            for table in tables_of(name)
            if pins.table(table).exists() and table not in _WRITTEN
        }
        try:
            self._loaded = load(shipped_object(name), feature=name, rodata=constants, reuse=reused)
        finally:
            for table in reused.values():
                table.close()
        self._program, self._counts = self._loaded.programs[name], self._loaded.maps[OWN_TABLE]
        if self._program.tag != tag:
            self._loaded.close()
            raise KernelError(
                "the fast path was made by another build of Pliant", remedy="'pliant repair' has it made anew"
            )

    def close(self) -> None:
        """Unload the copy."""
        self._loaded.close()

    def run(self, frame: bytes) -> Verdict | None:
        """What becomes of a frame; None where the kernel cannot try it, for its length or the interface's driver."""
        first = self._once(frame)
        if first is None or first.reason not in _AT_FIRST:
            return first
        again = self._once(frame)
        return replace(again, confirms=again.is_decided) if again else first

    def _once(self, frame: bytes) -> Verdict | None:
        if len(frame) < _LEAST_BYTES:
            return None
        before = self._counted()
        at = self._port.ifindex
        if self._port.mode is Mode.TC:
            context = _SKB_CONTEXT.pack(at, at)
        else:
            context = _XDP_CONTEXT.pack(0, len(frame), 0, at, 0, 0)
        try:
            ran = self._program.test_run(frame, ctx=context)
        except KernelError as error:
            if error.errno in (codes.EINVAL, codes.ENODEV, codes.EMSGSIZE, codes.ENOMEM):
                return None
            raise
        changed = [n for n, (was, now) in enumerate(zip(before, self._counted(), strict=True)) if now != was]
        reason = changed[-1] % (len(before) // 2) if changed else None  # the second half is IPv6
        if reason == FORWARDED:
            return Verdict(True, "", ran.data_out)
        return Verdict(False, counted_reasons().get(reason, "") if reason is not None else "", ran.data_out)

    def _counted(self) -> list[int]:
        return [one.packets for one in counted_in(self._counts, self._port)]


def _constants_of(program: Program, name: str) -> dict[str, int | bytes]:
    """The constants a program was loaded with, from its own memory."""
    variables = [v for v in Elf(shipped_object(name)).variables().values() if v.section == _CONSTANTS]
    for number in program.map_ids:
        with Map.by_id(number) as held:
            if held.name.endswith(_CONSTANTS):
                content = held.get(bytes(held.key_size)) or b""
                return {v.name: content[v.offset : v.offset + v.size] for v in variables}
    return {}
