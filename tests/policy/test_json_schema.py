# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from pliant.policy.documents import policy_from_document
from pliant.policy.json_schema import DIALECT, policy_json_schema
from pliant.policy.options import Catalogue, Option, duration, rate, share, size
from pliant.policy.problems import PolicyErrors

CATALOGUE: Catalogue = {
    option.name: option
    for option in (
        Option("initial_cwnd", Annotated[int, Field(ge=1, le=1000)], "First window.", 40),
        Option("congestion_control", Literal["bbr", "cubic"], "The algorithm.", "bbr"),
        Option("pacing_rate", rate("1kbit", "100Gbit"), "The ceiling.", "200Mbit"),
        Option("min_rto", duration("5ms", "200ms"), "The shortest timeout.", "30ms"),
        Option("receive_window_max", size("4KiB", "64MiB"), "The largest window.", "4MiB"),
        Option("sampled", share("0%", "50%"), "The share sampled.", "5%"),
    )
}
SCHEMA = policy_json_schema(CATALOGUE)
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
NOTES = {"$schema", "$defs", "title", "description", "examples", "default"}


def takes(schema: dict[str, Any], value: Any) -> bool:
    """Judge a value by the keywords of JSON Schema that ours uses; an unknown keyword is an error."""
    if "if" in schema and not takes(schema["then" if takes(schema["if"], value) else "else"], value):
        return False
    return all(
        KEYWORDS[keyword](schema, value, wanted)
        for keyword, wanted in schema.items()
        if keyword not in NOTES | {"if", "then", "else"}
    )


def is_type(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def fields_fit(schema: dict[str, Any], value: Any, wanted: dict[str, Any]) -> bool:
    return not isinstance(value, dict) or all(
        takes(wanted[key], value[key]) for key in wanted if key in value
    )


def others_fit(schema: dict[str, Any], value: Any, wanted: Any) -> bool:
    others = [value[key] for key in value if key not in schema.get("properties", {})]
    return not others if wanted is False else all(takes(wanted, other) for other in others)


def resolve(reference: str) -> dict[str, Any]:
    part: dict[str, Any] = SCHEMA["$defs"][reference.removeprefix("#/$defs/")]
    return part


KEYWORDS: dict[str, Any] = {
    "type": lambda _, value, wanted: is_type(value, wanted),
    "const": lambda _, value, wanted: value == wanted,
    "enum": lambda _, value, wanted: value in wanted,
    "pattern": lambda _, value, wanted: not isinstance(value, str) or re.search(wanted, value),
    "maxLength": lambda _, value, wanted: len(value) <= wanted,
    "minimum": lambda _, value, wanted: not isinstance(value, int) or value >= wanted,
    "maximum": lambda _, value, wanted: not isinstance(value, int) or value <= wanted,
    "minItems": lambda _, value, wanted: len(value) >= wanted,
    "minProperties": lambda _, value, wanted: len(value) >= wanted,
    "maxProperties": lambda _, value, wanted: len(value) <= wanted,
    "items": lambda _, value, wanted: isinstance(value, list) and all(takes(wanted, item) for item in value),
    "required": lambda _, value, wanted: set(wanted) <= set(value),
    "properties": fields_fit,
    "additionalProperties": others_fit,
    "anyOf": lambda _, value, wanted: any(takes(branch, value) for branch in wanted),
    "$ref": lambda _, value, wanted: takes(resolve(wanted), value),
}


def example() -> dict[str, Any]:
    return {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {
            "name": "cross-region-web",
            "owner": "web-infra",
            "reason": "fill the long path in the first round trip",
            "labels": {"tier": "edge"},
        },
        "spec": {
            "match": {
                "service": "nginx.service",
                "role": "server",
                "peers": ["10.2.0.0/16", "fd00:2::/32"],
                "localPorts": [443, "8000-8010"],
            },
            "tune": {name: option.example for name, option in CATALOGUE.items()},
            "applyTo": "new",
            "holdout": "5%",
            "priority": 100,
        },
    }


def changed(*path: str, value: Any) -> dict[str, Any]:
    document = example()
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return document


def test_the_example_is_taken_by_schema_and_loader_alone_and_in_a_list() -> None:
    policy = policy_from_document(example(), "test", CATALOGUE)
    for document in (example(), policy.to_document()):
        assert takes(SCHEMA, document)
        assert takes(SCHEMA, {"apiVersion": "pliant/v1", "kind": "List", "items": [document]})
    assert takes(SCHEMA, {"kind": "List", "items": []})


@pytest.mark.parametrize(
    "document",
    [
        changed("spec", "tune", "pacing_rate", value="200"),
        changed("spec", "tune", "pacing_rate", value=200),
        changed("spec", "tune", "min_rto", value="30"),
        changed("spec", "tune", "receive_window_max", value="4M"),
        changed("spec", "tune", "receive_window_max", value=4095),
        changed("spec", "tune", "initial_cwnd", value=1001),
        changed("spec", "tune", "congestion_control", value="bbq"),
        changed("spec", "tune", "unheard_of", value=1),
        changed("spec", "tune", value={}),
        changed("spec", "holdout", value=5),
        changed("spec", "priority", value=-1),
        changed("spec", "applyTo", value="old"),
        changed("spec", "match", value={}),
        changed("spec", "match", "peers", value=[]),
        changed("spec", "match", "peers", value=["everyone"]),
        changed("spec", "match", "localPorts", value=[0]),
        changed("spec", "match", "localports", value=[443]),
        changed("spec", "match", "role", value=True),
        changed("metadata", "name", value="Not A Name"),
        changed("metadata", "labels", value={"tier": 1}),
        changed("apiVersion", value="pliant/v2"),
        changed("kind", value="Deployment"),
    ],
)
def test_what_the_schema_refuses_the_loader_refuses_too(document: dict[str, Any]) -> None:
    assert not takes(SCHEMA, document)
    with pytest.raises(PolicyErrors):
        policy_from_document(document, "test", CATALOGUE)


def test_every_field_of_every_part_is_described() -> None:
    for name, part in SCHEMA["$defs"].items():
        assert part["description"], name
        for key, field in part["properties"].items():
            assert field["description"], f"{name}.{key}"


def test_options_are_described_with_their_summary_bounds_and_units() -> None:
    option = SCHEMA["$defs"]["Tune"]["properties"]["pacing_rate"]
    assert option["description"].startswith("The ceiling. A rate from 1kbit to 100Gbit. Units: bit, kbit")
    assert option["examples"] == ["200Mbit"]
    assert "default" not in option


def test_examples_in_the_schema_are_taken_by_their_own_field() -> None:
    shown = [
        (field, value)
        for part in SCHEMA["$defs"].values()
        for field in part["properties"].values()
        for value in field.get("examples", [])
    ]
    assert len(shown) > len(CATALOGUE)
    assert [value for field, value in shown if not takes(field, value)] == []


def test_defaults_in_the_schema_are_taken_by_their_own_field() -> None:
    defaults = {
        key: field
        for part in SCHEMA["$defs"].values()
        for key, field in part["properties"].items()
        if "default" in field
    }
    assert defaults.keys() == {"role", "applyTo", "holdout", "priority", "interfaces", "mode", "ruleCounters"}
    assert all(takes(field, field["default"]) for field in defaults.values())


def test_the_schema_is_json_of_the_dialect_it_names() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == DIALECT
