# SPDX-License-Identifier: Apache-2.0
"""Encodes a desired state as the contents of BPF maps."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from hashlib import blake2b

from pliant.features import features
from pliant.features.layout import MAX_OPTIONS, Layout
from pliant.observe.tables import Table, Tables
from pliant.policy.desired import SCOPE, DesiredState, PolicyVersion, RuleKey
from pliant.policy.holdout import threshold

RULE_EXACT_BITS = 128  # RULE_EXACT_BITS in scope.h
POLICY_LIVE, POLICY_MEASURED = 1, 2  # enum policy_flag in scope.h
ARMS = (0, 1)  # enum effect_arm in effect.h: treated, held out
NUMBER = 4
NOTHING_COUNTED = (0, 0)  # treated, held out


def live_digest(desired: DesiredState, tables: Tables) -> int:
    """What open connections depend on, in 64 bits that are not 0; 0 where no policy is for them."""
    if not any(version.live for version in desired.versions.values()):
        return 0
    digest = blake2b(digest_size=8)
    for table in sorted(tables):
        if table.map not in ("asked", "effects"):
            digest.update(str(table).encode())
            for key, value in sorted(tables[table].items()):
                digest.update(key + value)
    return int.from_bytes(digest.digest(), sys.byteorder) | 1


def encode(desired: DesiredState, layout: Layout) -> Tables:
    """The contents of every table that the desired state's programs read; empty when it has no program."""
    return Encoder(layout).encode(desired)


class Encoder:
    """Encodes one desired state after another: what is the same object as the last time is not encoded again."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._versions: tuple[object, Tables] = (None, {})
        self._rules: tuple[object, dict[bytes, bytes]] = (None, {})

    def encode(self, desired: DesiredState) -> Tables:
        """See :func:`encode`."""
        if not desired.programs:
            return {}
        layout = self.layout
        if self._versions[0] is not desired.versions:
            self._versions = (desired.versions, _of_versions(desired, layout))
        if self._rules[0] is not desired.rules:
            self._rules = (desired.rules, _rules(desired, layout))
        return {
            Table(SCOPE, "services"): _services(desired, layout),
            Table(SCOPE, "rules"): self._rules[1],
            **self._versions[1],
        }


def _of_versions(desired: DesiredState, layout: Layout) -> Tables:
    settings = {name: _settings(name, desired, layout) for name in sorted(desired.programs - {SCOPE})}
    words = _words(settings, layout)
    policies = {
        number: _policy(version, layout, words.get(number, {}))
        for version in desired.versions.values()
        for number in [_number(version.number)]
    }
    return {
        Table(SCOPE, "policies"): policies,
        Table(SCOPE, "effects"): _effects(desired, layout),
        Table(SCOPE, "asked"): _asked(desired, layout),
        **{Table(name, "settings"): found for name, found in settings.items()},
    }


def _words(settings: Mapping[str, Mapping[bytes, bytes]], layout: Layout) -> dict[bytes, dict[int, int]]:
    """By policy and slot, the settings that are one word: scope hands them to the features of most connections."""
    words: dict[bytes, dict[int, int]] = defaultdict(dict)
    for name, values in settings.items():
        if layout.settings[name].size == NUMBER:
            for number, value in values.items():
                words[number][layout.slots[name]] = int.from_bytes(value, sys.byteorder)
    return words


def _services(desired: DesiredState, layout: Layout) -> dict[bytes, bytes]:
    pack = layout.scope["service"].pack
    return {
        cgroup_id.to_bytes(8, sys.byteorder): pack(
            {
                "class": service.service_class,
                "shapes": service.shapes,
                "options": layout.mask(service.options),
            }
        )
        for cgroup_id, service in desired.services.items()
    }


def _rules(desired: DesiredState, layout: Layout) -> dict[bytes, bytes]:
    size = layout.scope["rule"].size
    values: dict[tuple[int, ...], bytes] = {}
    for numbers in desired.rules.values():
        if numbers not in values:
            values[numbers] = b"".join(map(_number, numbers)).ljust(size, b"\0")
    pack = layout.scope["rule_key"].pack_values
    return {_rule_key(key, pack): values[numbers] for key, numbers in desired.rules.items()}


def _rule_key(key: RuleKey, pack: Callable[..., bytes]) -> bytes:
    return pack(
        RULE_EXACT_BITS + key.peer_bits,
        key.service_class & 0xFFFFFFFF,
        key.service_class >> 32,
        key.local_port,
        key.remote_port,
        key.role,
        b"\0\0\0",
        key.peer.to_bytes(16, "big"),
    )


def _policy(version: PolicyVersion, layout: Layout, words: Mapping[int, int]) -> bytes:
    return layout.scope["policy"].pack_values(
        version.priority,
        layout.mask(version.settings),
        threshold(version.holdout_ppm),
        POLICY_LIVE * version.live | POLICY_MEASURED * version.measured,
        *(words.get(slot, 0) for slot in range(MAX_OPTIONS)),
        *NOTHING_COUNTED,
    )


def _effects(desired: DesiredState, layout: Layout) -> dict[bytes, bytes]:
    """An empty record for each arm of each policy that is measured; what it comes to hold is the kernel side's."""
    pack = layout.scope["effect_key"].pack
    nothing = bytes(layout.scope["effect"].size)
    measured = (version.number for version in desired.versions.values() if version.measured)
    return {pack({"policy": number, "arm": arm}): nothing for number in measured for arm in ARMS}


def _asked(desired: DesiredState, layout: Layout) -> dict[bytes, bytes]:
    masks: dict[int, int] = defaultdict(int)
    values = {item for version in desired.versions.values() for item in version.settings.items()}
    for name, value in values:
        feature = features()[name]
        for callback in feature.callbacks:
            if callback.is_about_syn and feature.asks_about_syn(value):
                masks[callback] |= layout.mask([name])
    return {_number(callback): _number(mask) for callback, mask in masks.items()}


def _settings(name: str, desired: DesiredState, layout: Layout) -> dict[bytes, bytes]:
    encode_value, pack = features()[name].encode, layout.settings[name].pack
    values: dict[object, bytes] = {}
    result = {}
    for version in desired.versions.values():
        value = version.settings.get(name)
        if value is None:
            continue
        if value not in values:
            values[value] = pack(encode_value(value))
        result[_number(version.number)] = values[value]
    return result


def _number(number: int) -> bytes:
    return number.to_bytes(NUMBER, sys.byteorder)
