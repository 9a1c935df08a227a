# SPDX-License-Identifier: Apache-2.0
"""What can be switched on. Every module here that defines ``FEATURE`` is a feature; there is no list to add it to."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from pliant.features.feature import Feature
from pliant.policy.options import Option


@cache
def features() -> Mapping[str, Feature]:
    """All tuning features by name, in order of their names."""
    modules = (importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    found = [module.FEATURE for module in modules if isinstance(getattr(module, "FEATURE", None), Feature)]
    return MappingProxyType({feature.name: feature for feature in sorted(found, key=lambda f: f.name)})


@cache
def hooked() -> frozenset[str]:
    """The features that have a hook of their own on a service's cgroup."""
    return frozenset(name for name, feature in features().items() if feature.hook is not None)


@cache
def catalogue() -> Mapping[str, Option]:
    """What a policy's ``tune`` section may say: the options of all features."""
    return MappingProxyType({name: feature.option for name, feature in features().items()})
