# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of policies, for editors: completion, hover texts and early complaints.

The loader stays the judge: what it takes, the schema takes, but not always the other way round (the schema
does not compare prefixes, count port pairs or know the bounds of quantities with units).
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from pliant.policy.model import policy_model
from pliant.policy.options import Catalogue
from pliant.policy.sysctls import KIND, SysctlPolicy, SysctlSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_json_schema(catalogue: Catalogue) -> dict[str, Any]:
    """Return the schema (Draft 2020-12) of one document: a policy, or a ``kind: List`` of policies.

    The parts are under ``$defs``: Policy, Metadata, Spec, Match, Tune, Guard and List.
    """
    policy = policy_model(catalogue).model_json_schema(mode="validation")
    parts: dict[str, Any] = policy.pop("$defs")
    parts["Policy"] = policy
    for part in parts.values():
        _tidy(part)
    policy["description"] = "One transport policy."
    parts["Tune"] |= {"description": "The options a policy sets; at least one.", "minProperties": 1}
    for name, option in catalogue.items():
        about = TypeAdapter(option.type).json_schema().get("description", "")
        parts["Tune"]["properties"][name]["description"] = f"{option.summary} {about}".strip()
    for name in ("peers", "localPorts", "remotePorts"):
        parts["Match"]["properties"][name]["minItems"] = 1
    parts["Spec"]["properties"]["holdout"]["default"] = "0%"
    parts["Guard"]["minProperties"] = 1
    parts |= _sysctl_parts()
    parts["List"] = _list_schema()
    return {
        "$schema": DIALECT,
        "title": "Pliant policy",
        "description": "A TCP transport policy, a policy of sysctls, or a List of them.",
        "type": "object",
        "if": {"properties": {"kind": {"const": "List"}}, "required": ["kind"]},
        "then": {"$ref": "#/$defs/List"},
        "else": {
            "if": {"properties": {"kind": {"const": KIND}}, "required": ["kind"]},
            "then": {"$ref": "#/$defs/SysctlPolicy"},
            "else": {"$ref": "#/$defs/Policy"},
        },
        "$defs": parts,
    }


def _sysctl_parts() -> dict[str, Any]:
    """The parts of a policy of sysctls that others have not."""
    policy = SysctlPolicy.model_json_schema(mode="validation")
    parts = {name: part for name, part in policy.pop("$defs").items() if name != "Metadata"}
    parts["SysctlPolicy"] = policy
    for part in parts.values():
        _tidy(part)
    policy["description"] = "One policy of sysctls."
    parts["SysctlSpec"]["properties"]["match"] = {
        "$ref": "#/$defs/SysctlMatch",
        "description": SysctlSpec.model_fields["match"].description,
    }
    return parts


def _list_schema() -> dict[str, Any]:
    return {
        "description": "Several policies in one document.",
        "type": "object",
        "properties": {
            "apiVersion": {"enum": ["pliant/v1", "v1"], "description": "The version of this format."},
            "kind": {"const": "List", "description": "What the document is."},
            "metadata": {"type": "object", "description": "Ignored; other tools write it."},
            "items": {
                "type": "array",
                "items": {"anyOf": [{"$ref": "#/$defs/Policy"}, {"$ref": "#/$defs/SysctlPolicy"}]},
                "description": "The policies.",
            },
        },
        "required": ["kind", "items"],
        "additionalProperties": False,
    }


def _tidy(part: dict[str, Any]) -> None:
    """Drop what only pydantic needs: titles made of field names, and null as the sign of absence."""
    part.pop("title", None)
    for field in part.get("properties", {}).values():
        field.pop("title", None)
        if field.get("default", "") in (None, []):
            del field["default"]
