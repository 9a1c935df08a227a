# SPDX-License-Identifier: Apache-2.0
"""What this kernel and host can do, found by trying it, never by comparing version numbers.

Every probe makes the smallest object that needs the ability and removes it again; what has to be attached is
attached in a network namespace of the probe's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pliant.kernel import attempts
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.errors import ENOTSUPP, KernelError, NoPermission, NotSupported

__all__ = ["Probe", "State", "Support", "congestion_controls", "names", "probe", "probe_all"]

_CONGESTION_CONTROL = "congestion_control_"
# Numbers by which a kernel says that it does not know what is asked (EINVAL, E2BIG), has not got it, or
# cannot.
_UNKNOWN_TO_KERNEL = frozenset({2, 3, 7, 19, 22, 38, 95, ENOTSUPP})


class State(Enum):
    """The three answers of a probe."""

    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Support:
    """A probe's answer; ``reason`` says what is missing, or why it is not known."""

    state: State
    reason: str = ""

    def __bool__(self) -> bool:
        return self.state is State.SUPPORTED

    def __str__(self) -> str:
        return f"{self.state.value}: {self.reason}" if self.reason else self.state.value


SUPPORTED = Support(State.SUPPORTED)


@dataclass(frozen=True, slots=True)
class Probe:
    """One ability: its name in code and reports, what it is in a sentence, and whether it is there."""

    name: str
    sentence: str
    support: Support


@dataclass(frozen=True, slots=True)
class _Question:
    sentence: str
    attempt: Callable[[], object]
    needs: str


_QUESTIONS = {
    "privileges": _Question(
        "This process may load BPF programs and attach them to the network.", attempts.privileges, "root"
    ),
    "bpf_syscall": _Question("The kernel has BPF.", attempts.create_array, "CONFIG_BPF_SYSCALL"),
    "btf": _Question(
        "The kernel describes its types, which loading relies on.",
        attempts.kernel_types,
        "CONFIG_DEBUG_INFO_BTF",
    ),
    "libbpf": _Question("The library libbpf can be used.", attempts.library, "libbpf 1.1 or later"),
    "cgroup_v2": _Question("A cgroup v2 hierarchy is mounted.", attempts.cgroup_root, "a mount of cgroup2"),
    "bpffs": _Question(
        "The kernel has the filesystem for pins.", attempts.pin_filesystem, "CONFIG_BPF_SYSCALL"
    ),
    "bpffs_mounted": _Question(
        "A filesystem for pins is mounted.", attempts.pin_mount, "mount -t bpf bpf /sys/fs/bpf"
    ),
    "sock_ops": _Question(
        "Programs are called when connections are made.",
        attempts.sock_ops,
        "Linux 4.13 with CONFIG_CGROUP_BPF",
    ),
    "socket_storage": _Question(
        "Such programs can keep data with a socket.", attempts.socket_storage, "Linux 5.9 or later"
    ),
    "request_owner": _Question(
        "They know whose service a SYN comes in to, and can answer it.",
        attempts.request_owner,
        "Linux 6.2 or later, or a kernel that is not locked down for confidentiality",
    ),
    "lpm_trie": _Question("Maps find the longest matching prefix.", attempts.lpm_trie, "Linux 4.11 or later"),
    "map_batch": _Question("Maps are read and written in batches.", attempts.map_batch, "Linux 5.6 or later"),
    "map_mmap": _Question("Arrays can be mapped into memory.", attempts.map_mmap, "Linux 5.5 or later"),
    "cgroup_link": _Question(
        "Programs are attached to cgroups by links.", attempts.cgroup_link, "Linux 5.7 or later"
    ),
    "cgroup_preorder": _Question(
        "A parent's program can run before its children's.", attempts.cgroup_preorder, "Linux 6.15 or later"
    ),
    "cgroup_order": _Question(
        "Programs are attached to a cgroup in a stated order.", attempts.cgroup_order, "Linux 6.17 or later"
    ),
    "link_update": _Question(
        "A link's program is replaced without a gap.", attempts.link_update, "Linux 5.7 or later"
    ),
    "run_time_statistics": _Question(
        "The run time of programs can be counted.", attempts.statistics, "Linux 5.8 or later"
    ),
    "tcp_iterator": _Question(
        "Programs can go through all TCP sockets.", attempts.tcp_iterator, "Linux 5.9 or later"
    ),
    "struct_ops": _Question(
        "Congestion controls can be BPF programs.", attempts.struct_ops, "Linux 5.6 or later, with BTF"
    ),
    "struct_ops_link": _Question(
        "Such congestion controls, Pliant's own among them, are registered by links and replaced in place.",
        attempts.struct_ops_link,
        "Linux 6.4 or later",
    ),
    "xdp": _Question("Programs are attached to a driver's receive path.", attempts.xdp, "Linux 5.9 or later"),
    "tcx": _Question(
        "Programs are attached to traffic control by links.",
        attempts.tcx,
        "Linux 6.6 or later; clsact is used",
    ),
    "netfilter_link": _Question(
        "Programs are attached to netfilter by links.",
        attempts.netfilter_link,
        "Linux 6.4 or later with CONFIG_NETFILTER_BPF_LINK",
    ),
}


def names() -> tuple[str, ...]:
    """Names of all probes, with one for each congestion control that is available here."""
    return (*_QUESTIONS, *(_CONGESTION_CONTROL + name for name in sorted(congestion_controls())))


def probe(name: str) -> Probe:
    """Try one ability; :class:`KeyError` for a name that is not one of :func:`names`.

    ``congestion_control_NAME`` may be asked for any NAME.
    """
    if name.startswith(_CONGESTION_CONTROL):
        return _congestion_control(name)
    question = _QUESTIONS[name]
    return Probe(name, question.sentence, _answer(question))


def probe_all() -> tuple[Probe, ...]:
    """Try everything (some 200 ms)."""
    return tuple(probe(name) for name in names())


def _answer(question: _Question) -> Support:
    try:
        question.attempt()
    except NoPermission as error:
        if question.attempt is attempts.privileges:
            return Support(State.UNSUPPORTED, error.message)
        return Support(State.UNKNOWN, f"this process may not try: {error.message}")
    except KernelError as error:
        if isinstance(error, NotSupported) or error.errno in _UNKNOWN_TO_KERNEL:
            return Support(State.UNSUPPORTED, f"needs {question.needs}")
        return Support(State.UNKNOWN, error.message)
    except OSError as error:
        return Support(State.UNKNOWN, str(error))
    return SUPPORTED


def _congestion_control(name: str) -> Probe:
    wanted = name.removeprefix(_CONGESTION_CONTROL)
    sentence = f"The congestion control {wanted} can be used in this network namespace."
    try:
        available = congestion_controls()
    except KernelError as error:
        return Probe(name, sentence, Support(State.UNKNOWN, error.message))
    if wanted in available:
        return Probe(name, sentence, SUPPORTED)
    return Probe(name, sentence, Support(State.UNSUPPORTED, f"needs its module: modprobe tcp_{wanted}"))
