# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError
from pydantic_core import PydanticCustomError

from pliant.policy.model import Policy, parse_prefix, policy_model
from pliant.policy.options import Catalogue, Option, duration, rate, share, size

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


def document(match: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": "web"},
        "spec": {
            "match": {"service": "nginx.service"} | (match or {}),
            "tune": {"initial_cwnd": 40},
        }
        | spec,
    }


def policy(match: dict[str, Any] | None = None, **spec: Any) -> Policy:
    return policy_model(CATALOGUE).model_validate(document(match, **spec))


def test_absent_fields_have_the_documented_defaults() -> None:
    plain = policy()
    assert (plain.name, plain.priority, plain.holdout_ppm) == ("web", 100, 0)
    assert plain.spec.applyTo == "new"
    assert plain.roles == ("server", "client")
    assert plain.prefixes == plain.local_ports == plain.remote_ports == ()
    assert plain.tune_values == {"initial_cwnd": 40}


def test_values_are_parsed_to_base_units() -> None:
    tune = {
        "congestion_control": "bbr",
        "pacing_rate": "200Mbit",
        "min_rto": "30ms",
        "receive_window_max": 65536,
        "sampled": "0.5%",
    }
    assert policy(tune=tune, holdout="5%").tune_values == {
        "congestion_control": "bbr",
        "pacing_rate": 200_000_000,
        "min_rto": 30_000,
        "receive_window_max": 65536,
        "sampled": 5_000,
    }
    assert policy(holdout="5%").holdout_ppm == 50_000


def test_ports_and_ranges_are_expanded_in_order() -> None:
    matched = policy({"localPorts": [443, "8000-8002"], "remotePorts": ["1 - 2"]})
    assert matched.local_ports == (443, 8000, 8001, 8002)
    assert matched.remote_ports == (1, 2)


def test_prefixes_are_networks_and_a_bare_address_is_one_host() -> None:
    matched = policy({"peers": ["10.2.0.0/16", "fd00:2::/32", "192.0.2.7", "2001:db8::1"]})
    expected = ("10.2.0.0/16", "fd00:2::/32", "192.0.2.7/32", "2001:db8::1/128")
    assert matched.prefixes == tuple(ip_network(text) for text in expected)


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("10.2.3.4/16", "write 10.2.0.0/16"),
        ("fd00:2::1/32", "write fd00:2::/32"),
        ("::ffff:10.0.0.0/104", "write 10.0.0.0/8"),
        ("10.0.0.0/33", "write for example"),
        ("10.0.0.0/255.0.0.0", "write for example"),
        ("fe80::1%eth0", "write for example"),
        ("10.0.0", "write for example"),
        ("", "write for example"),
    ],
)
def test_a_wrong_prefix_is_refused_with_the_right_one(typed: str, remedy: str) -> None:
    with pytest.raises(PydanticCustomError) as refused:
        parse_prefix(typed)
    assert remedy in str((refused.value.context or {})["remedy"])


@pytest.mark.parametrize(("role", "roles"), [("server", ("server",)), ("client", ("client",))])
def test_a_role_stands_for_itself(role: str, roles: tuple[str, ...]) -> None:
    assert policy({"role": role}).roles == roles


@pytest.mark.parametrize(
    ("local", "remote", "taken"),
    [
        (["1-1024"], [], True),
        (["1-1024"], [5], True),
        (["1-32"], ["101-132"], True),
        (["1-32"], ["101-133"], False),
        (["1-1000", "2001-2025"], [], False),
        ([], ["1-65535"], False),
    ],
)
def test_a_policy_names_at_most_1024_pairs_of_ports(local: list[Any], remote: list[Any], taken: bool) -> None:
    ports = {"localPorts": local, "remotePorts": remote}
    match = {field: value for field, value in ports.items() if value}
    if taken:
        assert policy(match)
    else:
        with pytest.raises(ValidationError, match="at most 1,024"):
            policy(match)


@pytest.mark.parametrize(
    "service",
    [
        "nginx.service",
        "/system.slice/nginx.service",
        "/",
        "worker@*.service",
        "ngin?.service",
        "/kube*/pod[0-9]",
    ],
)
def test_units_paths_and_globs_name_a_service(service: str) -> None:
    assert policy({"service": service}).spec.match.service == service


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(policy().spec, "priority", 5)  # noqa: B010 -- the type checker refuses the assignment


def test_equal_documents_give_equal_policies_that_hash_alike() -> None:
    labelled = document() | {"metadata": {"name": "web", "labels": {"tier": "edge"}}}
    one, other = (policy_model(CATALOGUE).model_validate(labelled) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != policy(priority=7)


def test_a_document_is_written_in_the_spelling_of_people() -> None:
    tune = {"pacing_rate": "200000kbit", "min_rto": "0.03s", "receive_window_max": 65536}
    match = {"peers": ["192.0.2.7"], "localPorts": ["8000-8001"]}
    assert policy(match, tune=tune, holdout="5.0%").to_document()["spec"] == {
        "match": {
            "service": "nginx.service",
            "role": "any",
            "peers": ["192.0.2.7/32"],
            "localPorts": ["8000-8001"],
        },
        "tune": {"pacing_rate": "200Mbit", "min_rto": "30ms", "receive_window_max": "64KiB"},
        "applyTo": "new",
        "holdout": "5%",
        "priority": 100,
    }


def test_equal_catalogues_share_one_model_and_others_do_not() -> None:
    assert policy_model(dict(CATALOGUE)) is policy_model(CATALOGUE)
    fewer = {"initial_cwnd": CATALOGUE["initial_cwnd"]}
    assert policy_model(fewer) is not policy_model(CATALOGUE)
    with pytest.raises(ValidationError, match="pacing_rate"):
        policy_model(fewer).model_validate(document(tune={"pacing_rate": "1Mbit"}))


def test_an_option_filed_under_another_name_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="'initial_cwnd' is in the catalogue as 'cwnd'"):
        policy_model({"cwnd": CATALOGUE["initial_cwnd"]})


def test_an_option_spells_its_values_as_people_type_them() -> None:
    assert CATALOGUE["pacing_rate"].spell(200_000_000) == "200Mbit"
    assert CATALOGUE["min_rto"].spell(30_000) == "30ms"
    assert CATALOGUE["initial_cwnd"].spell(40) == 40
