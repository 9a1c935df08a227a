# SPDX-License-Identifier: Apache-2.0
"""What the fast path's programs are to be told of a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pliant.kernel.jiffies import jiffy_us
from tests.oracle.case import Case

Variant = tuple[tuple[str, int], ...]
"""Constants that depend on the configuration and not on the interface, sorted by name."""

_PORT_RULE = re.compile(r"\b(sport|dport|ipproto)\b")
_SEVERAL = re.compile(r" nexthop (via|dev) | group ")
_MTU = re.compile(r"\bmtu (?:lock )?(\d+)")


def variant(case: Case, changes: int) -> Variant:
    """The constants once the first ``changes`` of a case have been made."""
    commands = [*case.commands, *(change.command for change in case.changes[:changes])]
    settings = dict(case.sysctls)
    for command in commands:
        if command.startswith("sysctl "):
            name, _, value = command.removeprefix("sysctl ").partition("=")
            settings[name] = value
    four, six = ([c for c in commands if c.startswith(family)] for family in ("-4 ", "-6 "))
    constants = {
        "forwards_ipv4": 1,  # what is not forwarded the lookup says
        "forwards_ipv6": int(not any(" suppress_" in c or (" nhid " in c and _MTU.search(c)) for c in six)),
        **_of_family("4", four, settings.get("net.ipv4.fib_multipath_hash_policy", "0")),
        **_of_family("6", six, settings.get("net.ipv6.fib_multipath_hash_policy", "0")),
        "route_mtu4": _route_mtu(four, commands),
        "route_mtu6": _route_mtu(six, commands),
    }
    return tuple(sorted(constants.items()))


def filtering_variant(case: Case, changes: int) -> Variant:
    """The same where rules of nftables are asked."""
    asked = dict.fromkeys(
        ("follows_ruleset", "filters_ipv4", "filters_ipv6", "ports_decide4", "ports_decide6"), 1
    )
    return tuple(sorted((dict(variant(case, changes)) | asked).items()))


def counting_variant(case: Case, changes: int) -> Variant:
    """The same where the fast path counts for rules as well."""
    return tuple(sorted((dict(filtering_variant(case, changes)) | {"counts_rules": 1}).items()))


def natting_variant(case: Case, changes: int) -> Variant:
    """The same where connections are tracked and translated."""
    asked = dict.fromkeys(
        (f"{name}{family}" for name in ("tracks", "translates", "ports_decide") for family in "46"), 1
    )
    return tuple(sorted((dict(variant(case, changes)) | asked | {"jiffy_us": jiffy_us()}).items()))


def _of_family(suffix: str, commands: Iterable[str], policy: str) -> dict[str, int]:
    commands = list(commands)
    several = any(_SEVERAL.search(command) for command in commands)
    rules = any(" rule " in command and _PORT_RULE.search(command) for command in commands)
    return {
        f"ports_decide{suffix}": int(rules or (several and policy != "0")),
        f"errors_decide{suffix}": int(several),
    }


def _route_mtu(of_family: Iterable[str], commands: Iterable[str]) -> int:
    """The smallest MTU of routes and, where a route has one, of ports."""
    routes = [int(found[1]) for c in of_family if " route " in c and (found := _MTU.search(c))]
    ports = [int(found[1]) for c in commands if " link set " in c and (found := _MTU.search(c))]
    return min(routes + ports) if routes else 0xFFFF
