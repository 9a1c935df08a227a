# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of policies, for editors: completion, hover texts and early complaints.

The loader stays the judge: what it takes, the schema takes, but not always the other way round (the schema
does not compare prefixes, count port pairs or know the bounds of quantities with units).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from pliant.policy.fastpath import KIND as FASTPATH
from pliant.policy.fastpath import FastpathPolicy
from pliant.policy.model import Policy, policy_model
from pliant.policy.options import Catalogue
from pliant.policy.sysctls import KIND as SYSCTLS
from pliant.policy.sysctls import SysctlPolicy, SysctlSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def policy_json_schema(catalogue: Catalogue) -> dict[str, Any]:
    """Return the schema (Draft 2020-12) of one document: a policy, or a ``kind: List`` of policies.

    The parts are under ``$defs``: Policy, Metadata, Spec, Match, Tune, Guard, SysctlPolicy, FastPath and List.
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
    parts |= _host_parts("SysctlPolicy", SysctlPolicy, "One policy of sysctls.")
    parts["SysctlSpec"]["properties"]["match"] = {
        "$ref": "#/$defs/SysctlMatch",
        "description": SysctlSpec.model_fields["match"].description,
    }
    parts |= _host_parts("FastPath", FastpathPolicy, "One policy of the fast path.")
    parts["FastpathSpec"]["properties"]["interfaces"]["minItems"] = 1
    parts["List"] = _list_schema()
    return {
        "$schema": DIALECT,
        "title": "Pliant policy",
        "description": "A TCP transport policy, a policy of sysctls or of the fast path, or a List of them.",
        "type": "object",
        **_by_kind({"List": "List", SYSCTLS: "SysctlPolicy", FASTPATH: "FastPath"}, "Policy"),
        "$defs": parts,
    }


def _by_kind(parts: Mapping[str, str], other: str) -> dict[str, Any]:
    """The part that a document of each kind has to be like, and that for documents of any other kind."""
    chosen: dict[str, Any] = {"$ref": f"#/$defs/{other}"}
    for kind, part in reversed(list(parts.items())):
        chosen = {
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {"$ref": f"#/$defs/{part}"},
            "else": chosen,
        }
    return chosen


def _host_parts(name: str, model: type[Policy], description: str) -> dict[str, Any]:
    """The parts of a policy about the host that others have not."""
    policy = model.model_json_schema(mode="validation")
    parts = {part: schema for part, schema in policy.pop("$defs").items() if part != "Metadata"}
    parts[name] = policy
    for part in parts.values():
        _tidy(part)
    policy["description"] = description
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
                "items": {
                    "anyOf": [{"$ref": f"#/$defs/{part}"} for part in ("Policy", "SysctlPolicy", "FastPath")]
                },
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
