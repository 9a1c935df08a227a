# SPDX-License-Identifier: Apache-2.0
"""What the bridge's programs are to be told of a configuration: whether iptables sees what is bridged."""

from __future__ import annotations

import re

from tests.oracle.case import Case
from tests.oracle.constants import Variant

_CALLS = re.compile(r"call-ip6?tables|nf_call_ip6?tables")


def variant(case: Case, changes: int) -> Variant:
    """The constants once the first ``changes`` of a case have been made."""
    said = [*case.commands, *(change.command for change in case.changes[:changes])]
    said += [f"{name} {value}" for name, value in case.sysctls if value != "0"]
    found = {match.group() for line in said for match in _CALLS.finditer(line)}
    return (
        ("checks_ipv4", int(any("iptables" in name for name in found))),
        ("checks_ipv6", int(any("ip6tables" in name for name in found))),
    )
