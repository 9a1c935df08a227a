# SPDX-License-Identifier: Apache-2.0
"""What interfaces can do for XDP, as the kernel tells it over generic netlink (the family ``netdev``, Linux 6.3).

A frame that XDP redirects to an interface that cannot take it is dropped without a word, and whether a veth can take it
depends on its other end (an XDP program or GRO there), wherever that is. The kernel says so here, and when it changes.
"""

from __future__ import annotations

import errno as codes
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.netlink import Attributes, Monitor, Netlink, attribute, attributes, elements, number, text

_GENERIC = 16  # NETLINK_GENERIC
_CONTROL, _GETFAMILY = 16, 3  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY
_FAMILY_ID, _FAMILY_NAME, _GROUPS = 1, 2, 7  # CTRL_ATTR_*
_GROUP_NAME, _GROUP_ID = 1, 2
_DEV_GET = 1
_INDEX, _FEATURES = 1, 3  # NETDEV_A_DEV_*
_BASIC, _REDIRECT, _TRANSMIT, _TRANSMIT_FRAGMENTS = 0x1, 0x2, 0x4, 0x40  # NETDEV_XDP_ACT_*
_HEADER_BYTES = 4  # struct genlmsghdr


@dataclass(frozen=True, slots=True)
class XdpFeatures:
    """What the driver of an interface can do: run programs, redirect from there, take what others redirect to it."""

    interface: int
    native: bool
    redirects: bool
    takes_redirected: bool
    takes_fragments: bool


def xdp_features(netns: Path | int | None = None) -> tuple[XdpFeatures, ...] | None:
    """What each interface of a namespace can do now; None where the kernel cannot say. Raises :class:`KernelError`."""
    with Netlink(_GENERIC, netns) as netlink:
        family = _family(netlink)
        if family is None:
            return None
        listed = netlink.dump(
            number(family[_FAMILY_ID]), _request(_DEV_GET), "ask what interfaces can do for XDP"
        )
    found = (attributes(message, _HEADER_BYTES) for message in listed)
    return tuple(sorted((_described(told) for told in found), key=lambda f: f.interface))


def monitor(netns: Path | int | None = None, *, receive_bytes: int) -> Monitor | None:
    """Listen to changes of what interfaces can do; None where the kernel does not tell."""
    with Netlink(_GENERIC, netns) as netlink:
        family = _family(netlink)
    groups = [attributes(raw) for _, raw in elements(family[_GROUPS])] if family and _GROUPS in family else []
    named = {text(group.get(_GROUP_NAME)): number(group.get(_GROUP_ID)) for group in groups}
    if "mgmt" not in named:
        return None
    return Monitor(_GENERIC, [named["mgmt"]], netns, receive_bytes=receive_bytes)


def _family(netlink: Netlink) -> Attributes | None:
    body = _request(_GETFAMILY) + attribute(_FAMILY_NAME, b"netdev\0")
    try:
        return attributes(netlink.ask(_CONTROL, body, "look for what interfaces can do"), _HEADER_BYTES)
    except KernelError as error:
        if error.errno == codes.ENOENT:
            return None
        raise


def _request(command: int) -> bytes:
    return bytes([command, 1, 0, 0])


def _described(told: Attributes) -> XdpFeatures:
    flags = number(told.get(_FEATURES))
    return XdpFeatures(
        number(told.get(_INDEX)),
        native=bool(flags & _BASIC),
        redirects=bool(flags & _REDIRECT),
        takes_redirected=bool(flags & _TRANSMIT),
        takes_fragments=bool(flags & _TRANSMIT_FRAGMENTS),
    )
