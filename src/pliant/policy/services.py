# SPDX-License-Identifier: Apache-2.0
"""Which cgroups a policy's ``service`` means, and which service class a cgroup's sockets belong to."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """Cgroups whose sockets are matched by exactly the same ``service`` patterns, their ancestors' included."""

    number: int
    patterns: frozenset[str]

    @classmethod
    def of(cls, patterns: frozenset[str]) -> ServiceClass:
        """The class of cgroups that are matched by these."""
        return cls(_number(patterns), patterns)


def matching_cgroups(patterns: Collection[str], cgroups: Iterable[str]) -> dict[str, set[str]]:
    """The patterns that match each cgroup by itself, without its ancestors; cgroups without any are left out.

    A pattern with a leading slash is held against the path from the hierarchy's root (``/system.slice/...``), any
    other against the last part of it, which for a systemd unit is the unit's name. Globs are those of fnmatch(3),
    where ``*`` also crosses slashes.
    """
    exact = {pattern for pattern in patterns if not GLOB.search(pattern)}
    globs = [
        (pattern, re.compile(fnmatch.translate(pattern))) for pattern in patterns if pattern not in exact
    ]
    matched: dict[str, set[str]] = {}
    for path in cgroups:
        name = path.rpartition("/")[2]
        found = {candidate for candidate in (path, name) if candidate in exact}
        found.update(
            pattern for pattern, regex in globs if regex.match(path if pattern.startswith("/") else name)
        )
        if found:
            matched[path] = found
    return matched


def classify(matched: Mapping[str, Collection[str]]) -> dict[str, ServiceClass]:
    """The service class of each matched cgroup: its own patterns and those of all its ancestors."""
    classes: dict[frozenset[str], ServiceClass] = {}
    result: dict[str, ServiceClass] = {}
    for path in sorted(matched):
        patterns = frozenset(matched[path]).union(*(matched[a] for a in ancestors(path) if a in matched))
        if patterns not in classes:
            classes[patterns] = ServiceClass.of(patterns)
        result[path] = classes[patterns]
    return result


def lying_within(patterns: Collection[str], cgroups: Iterable[str]) -> set[str]:
    """The cgroups that a pattern matches, and all below them."""
    if not patterns:
        return set()
    matched = matching_cgroups(patterns, cgroups)
    return {path for path in cgroups if path in matched or any(above in matched for above in ancestors(path))}


def ancestors(path: str) -> Iterable[str]:
    """The cgroups above a path, nearest first, ending with the root ``/``."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _number(patterns: Collection[str]) -> int:
    """A number that depends on the patterns alone, so that cgroups may come and go without moving a rule."""
    text = "\0".join(sorted(patterns)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


NO_CLASS = ServiceClass(_number(()), frozenset())
"""The class of cgroups that no pattern matches: it has no rules."""
