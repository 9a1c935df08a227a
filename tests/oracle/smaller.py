# SPDX-License-Identifier: Apache-2.0
"""Makes a case in which something differs as small as it can be.

Hypothesis would shrink every byte that was drawn; here only whole frames, commands, settings and changes are left out,
which takes a hundred trials and not thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.oracle.case import Case

_PARTS = ("frames", "changes", "sysctls", "commands")


def smallest(case: Case, differs: Callable[[Case], bool]) -> Case:
    """A case that still ``differs``, and would not with anything less."""
    while True:
        before = case
        for part in _PARTS:
            case = _with_less(case, part, differs)
        if case == before:
            return case


def _with_less(case: Case, part: str, differs: Callable[[Case], bool]) -> Case:
    """Leave out as much of one part as possible: halves of it, quarters, and at last each single one."""
    size = len(getattr(case, part))
    while size >= 1:
        start = 0
        while start < len(getattr(case, part)):
            there = getattr(case, part)
            fewer: dict[str, Any] = {part: there[:start] + there[start + size :]}
            less = replace(case, **fewer)
            if differs(less):
                case = less
            else:
                start += size
        size //= 2
    return case
