# SPDX-License-Identifier: Apache-2.0
"""Network interfaces of the calling thread's namespace: TUN devices and offload switches."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterable

from pliant.errors import PliantError

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM_TSO = 0x01 | 0x02 | 0x04  # checksum, TSO over IPv4, TSO over IPv6

_SIOCETHTOOL = 0x8946
_ETHTOOL_SWITCHES = {"tx": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}  # linux/ethtool.h


def open_tun(name: str, *, offloads: bool) -> int:
    """Make a TUN device and return its descriptor, non-blocking; the device goes when it is closed.

    With ``offloads`` packets carry a 10-byte virtio header, may be 64 KB aggregates and may lack their
    checksum (Documentation/networking/tuntap.rst).
    """
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise PliantError(
            "this kernel has neither netem nor /dev/net/tun, so a link cannot be delayed",
            remedy="load one of them: modprobe sch_netem, or modprobe tun",
        ) from error
    flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if offloads else 0)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        if offloads:
            fcntl.ioctl(tun, _TUNSETOFFLOAD, _TUN_F_CSUM_TSO)
    except OSError:
        os.close(tun)
        raise
    return tun


def switch_offloads(name: str, *, on: bool) -> None:
    """Switch checksum, segmentation and receive aggregation of an interface (ethtool(8): tx tso gso gro).

    Without them every packet is one on the wire with its checksum filled in, which is also what XDP
    redirection between veth devices needs: it delivers no packet whose checksum is still to be made.
    """
    _switch(name, _ETHTOOL_SWITCHES.values(), on=on)


def switch_aggregation(name: str, *, on: bool) -> None:
    """Switch receive aggregation (ethtool(8): gro); a veth device takes redirected packets while its peer has it on."""
    _switch(name, [_ETHTOOL_SWITCHES["gro"]], on=on)


def switch_checksums(name: str, *, on: bool) -> None:
    """Switch whether checksums are left to the device (ethtool(8): tx); a veth device never fills them in."""
    _switch(name, [_ETHTOOL_SWITCHES["tx"]], on=on)


def _switch(name: str, commands: Iterable[int], *, on: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in commands:
            value = ctypes.create_string_buffer(struct.pack("II", command, int(on)))
            request = struct.pack("16sQ16x", name.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, request)
