# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 -- in the tables, a mistake and what is said about it are one row
from __future__ import annotations

import io
import json
import os
import pickle
import sys
import textwrap
import tracemalloc
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, Field

from pliant.policy import documents
from pliant.policy.documents import (
    dump_policies,
    load_policies,
    load_policies_from_paths,
    policy_from_document,
)
from pliant.policy.model import Policy
from pliant.policy.options import Catalogue, Option, duration, rate, share, size
from pliant.policy.problems import PolicyErrors, Problem
from pliant.policy.units import format_rate


def even(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd; write an even number")
    return number


CATALOGUE: Catalogue = {
    option.name: option
    for option in (
        Option("initial_cwnd", Annotated[int, Field(ge=1, le=1000)], "First window.", 40),
        Option("congestion_control", Literal["bbr", "cubic"], "The algorithm.", "bbr"),
        Option("pacing_rate", rate("1kbit", "100Gbit"), "The ceiling.", "200Mbit"),
        Option("min_rto", duration("5ms", "200ms"), "The shortest timeout.", "30ms"),
        Option("receive_window_max", size("4KiB", "64MiB"), "The largest window.", "4MiB"),
        Option("sampled", share("0%", "50%"), "The share sampled.", "5%"),
        Option("quick_ack", bool, "Acknowledge at once.", True),
        Option("level", int | Literal["auto"], "The level.", "auto"),
        Option("marks", Annotated[list[int], Field(max_length=2)], "Marks.", [1, 2]),
        Option("word", Annotated[str, Field(pattern="^[a-z]+$", max_length=8)], "A word.", "calm"),
        Option("gain", Annotated[float, Field(gt=0, lt=4)], "The gain.", 2.5),
        Option("segments", Annotated[int, Field(multiple_of=4)], "Segments.", 8),
    )
}
OPTIONS = ", ".join(CATALOGUE)

EXAMPLE = """\
apiVersion: pliant/v1
kind: TransportPolicy
metadata:
  name: cross-region-web
  owner: web-infra
  reason: fill the long path in the first round trip
spec:
  match:
    service: nginx.service            # systemd unit, cgroup path or glob
    role: server                      # server | client | any
    peers: [10.2.0.0/16, "fd00:2::/32"]
    localPorts: [443]
  tune:
    initial_cwnd: 40
    congestion_control: bbr
    pacing_rate: 200Mbit
  applyTo: new                        # new | live
  holdout: 5%
  priority: 100
"""


def load(text: str, file: str = "web.yaml") -> list[Policy]:
    return load_policies(text, file, CATALOGUE)


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(PolicyErrors) as refused:
        load(text)
    return refused.value.problems


def written(
    *, metadata: str = "name: web", match: str = "", tune: str = "initial_cwnd: 4", spec: str = ""
) -> str:
    """A document of which one part is replaced: metadata from line 4, match from 8, tune from 21, spec at 31."""
    lines = [
        *("apiVersion: pliant/v1", "kind: TransportPolicy", "metadata:"),
        *_padded(metadata, 2, 2),
        *("spec:", "  match:"),
        *_padded(match or "service: nginx.service", 4, 12),
        "  tune:",
        *_padded(tune, 4, 10),
        *textwrap.indent(spec, "  ").splitlines(),
    ]
    return "\n".join(lines) + "\n"


def _padded(part: str, indent: int, height: int) -> list[str]:
    lines = textwrap.indent(part, " " * indent).splitlines()
    return lines + ["#"] * (height - len(lines))


def test_the_documented_example_loads() -> None:
    (policy,) = load(EXAMPLE)
    assert policy.name == "cross-region-web"
    assert policy.metadata.reason == "fill the long path in the first round trip"
    assert policy.roles == ("server",)
    assert [str(prefix) for prefix in policy.prefixes] == ["10.2.0.0/16", "fd00:2::/32"]
    assert policy.local_ports == (443,)
    assert policy.tune_values == {
        "initial_cwnd": 40,
        "congestion_control": "bbr",
        "pacing_rate": 200_000_000,
    }
    assert policy.holdout_ppm == 50_000


METADATA_ROWS = [
    ("a boolean word as a name", "name: yes", 4, "metadata.name", "yes is read as true, not as text; put it in quotes: 'yes'"),
    ("an octal as a name", "name: 0o17", 4, "metadata.name", "0o17 is read as the number 15, not as text"),
    ("a decimal as an owner", "name: web\nowner: 1.5", 5, "metadata.owner", "put it in quotes: '1.5'"),
    ("a name with capitals", "name: Web_One", 4, "metadata.name", "'Web_One' is not a name: lower-case letters, digits and '-', at most 63 of them; write for example web-one"),
    ("a long name", "name: " + "a" * 64, 4, "metadata.name", "write for example " + "a" * 63),
    ("a name ending in a hyphen", "name: web-", 4, "metadata.name", "write for example web"),
    ("no name", "owner: web-infra", 3, "metadata.name", "this field is required; write for example cross-region-web"),
    ("a name without a value", "name:", 4, "metadata.name", "there is no value; write for example cross-region-web"),
    ("a list as a name", "name: [web]", 4, "metadata.name", "a list stands where text is wanted"),
    ("an empty reason", 'name: web\nreason: ""', 5, "metadata.reason", "this is empty; write some text or leave the field out"),
    ("a terminal escape in a reason", 'name: web\nreason: "\\e[31m"', 5, "metadata.reason", "characters that cannot be printed"),
    ("a long reason", "name: web\nreason: " + "a" * 1025, 5, "metadata.reason", "there are 1025 characters; write at most 1024"),
    ("a number as a label", "name: web\nlabels: {tier: 1}", 5, "metadata.labels.tier", "1 is read as the number 1, not as text"),
    ("a misspelt field", "name: web\nonwer: me", 5, "metadata.onwer", "there is no field 'onwer' here; did you mean 'owner'?"),
    ("an unknown field", "name: web\nzzz: me", 5, "metadata.zzz", "there is no field 'zzz' here; the fields here are name, owner, reason, labels"),
    ("a key that is a boolean", "name: web\nyes: me", 5, "metadata.yes", "the key 'yes' is not read as text; put it in quotes: 'yes'"),
    ("a key twice", "name: web\nname: other", 5, "metadata.name", "'name' is in this mapping twice; leave one of them out"),
    ("a tag", "name: !secret web", 4, "metadata.name", "the tag '!secret' does not fit here; leave the tag out"),
    ("a merge of text", "name: web\n<<: text", 5, "metadata.<<", "'<<' merges something that is no mapping"),
]  # fmt: skip

SERVICE = "service: nginx.service\n"
MATCH_ROWS = [
    ("a service without a kind", "service: nginx", 8, "spec.match.service", "'nginx' does not say what kind of unit it is; write nginx.service"),
    ("a relative path", "service: system.slice/nginx.service", 8, "spec.match.service", "does not start with '/'; write /system.slice/nginx.service"),
    ("a path with dots", "service: /a/../b", 8, "spec.match.service", "'/a/../b' is not a cgroup path; write for example /a/b"),
    ("a service with spaces", "service: my web", 8, "spec.match.service", "'my web' is not the name of a service"),
    ("a long unit name", "service: " + "a" * 250 + ".service", 8, "spec.match.service", "at most 255 characters"),
    ("no service", "role: any", 7, "spec.match.service", "this field is required; write for example nginx.service"),
    ("a misspelt role", SERVICE + "role: servr", 9, "spec.match.role", "'servr' is not one of server, client or any; did you mean 'server'?"),
    ("a role without a value", SERVICE + "role:", 9, "spec.match.role", "there is no value; write one of server, client, any"),
    ("host bits", SERVICE + "peers: [10.2.0.1/16]", 9, "spec.match.peers[0]", "'10.2.0.1/16' has bits set after the prefix; write 10.2.0.0/16"),
    ("a peer on a later line", SERVICE + "peers:\n- 10.2.0.0/16\n- nowhere", 11, "spec.match.peers[1]", "'nowhere' is not an IP prefix"),
    ("the same peer twice", SERVICE + "peers:\n- 10.0.0.1\n- 10.0.0.2\n- 10.0.0.1/32", 12, "spec.match.peers[2]", "'10.0.0.1/32' is in the list twice"),
    ("a peer that is no list", SERVICE + "peers: 10.2.0.0/16", 9, "spec.match.peers", "'10.2.0.0/16' is not a list; write [10.2.0.0/16]"),
    ("peers without a value", SERVICE + "peers:", 9, "spec.match.peers", "there is no value; write for example [10.2.0.0/16], or leave the field out"),
    ("no peers in the list", SERVICE + "peers: []", 9, "spec.match.peers", "the list is empty; name prefixes, or leave peers out"),
    ("a number as a peer", SERVICE + "peers: [10]", 9, "spec.match.peers[0]", "a number stands where a prefix is wanted"),
    ("a mapped prefix", SERVICE + 'peers: ["::ffff:10.0.0.0/104"]', 9, "spec.match.peers[0]", "is an IPv4 prefix written as IPv6; write 10.0.0.0/8"),
    ("a port out of range", SERVICE + "localPorts: [443, 65536]", 9, "spec.match.localPorts[1]", "a port is a number from 1 to 65535; write for example 443"),
    ("a quoted port", SERVICE + "localPorts: ['443']", 9, "spec.match.localPorts[0]", "'443' is not a port; write 443 without quotes"),
    ("a backward range", SERVICE + "localPorts: [9-1]", 9, "spec.match.localPorts[0]", "'9-1' runs backwards; write 1-9"),
    ("a range out of range", SERVICE + "localPorts: [1-70000]", 9, "spec.match.localPorts[0]", "'1-70000' goes outside 1 to 65535"),
    ("a boolean as a port", SERVICE + "localPorts: [on]", 9, "spec.match.localPorts[0]", "true or false stands where a port is wanted"),
    ("a port that is no list", SERVICE + "remotePorts: 443", 9, "spec.match.remotePorts", "443 is not a list; write [443]"),
    ("ports in a text of two lines", SERVICE + 'remotePorts: "80\\n443"', 9, "spec.match.remotePorts", r"'80\n443' is not a list; write for example [443]"),
    ("ports in an empty text", SERVICE + "remotePorts: ''", 9, "spec.match.remotePorts", "'' is not a list; write for example [443]"),
    ("no ports in the list", SERVICE + "remotePorts: []", 9, "spec.match.remotePorts", "the list is empty"),
    ("overlapping ports", SERVICE + "localPorts:\n- 440-450\n- 443", 11, "spec.match.localPorts[1]", "443 is in the list twice"),
    ("too many ports", SERVICE + "localPorts: [1-2000]", 9, "spec.match.localPorts", "make 2,000 pairs of local and remote port, at most 1,024 are possible; leave the ports out"),
    ("too many pairs", SERVICE + "role: any\nlocalPorts: [1-40]\nremotePorts: [1-40]", 10, "spec.match.localPorts", "make 1,600 pairs"),
    ("a field in lower case", SERVICE + "localports: [443]", 9, "spec.match.localports", "there is no field 'localports' here; did you mean 'localPorts'?"),
    ("a field with underscores", SERVICE + "remote_ports: [443]", 9, "spec.match.remote_ports", "did you mean 'remotePorts'?"),
    ("a field of another section", SERVICE + "holdout: 5%", 9, "spec.match.holdout", "there is no field 'holdout' here; move it to spec"),
    ("a field of the top", SERVICE + "apiVersion: x", 9, "spec.match.apiVersion", "move it to the top of the document"),
]  # fmt: skip

TUNE_ROWS = [
    ("nothing set", "{}", 20, "spec.tune", f"no option is set; set at least one of {OPTIONS}"),
    ("an unknown option", "jumbo: 1", 21, "spec.tune.jumbo", f"there is no option 'jumbo'; the options are {OPTIONS}"),
    ("a misspelt option", "pacing-rate: 1Mbit", 21, "spec.tune.pacing-rate", f"did you mean 'pacing_rate'? the options are {OPTIONS}"),
    ("a number too small", "initial_cwnd: 0", 21, "spec.tune.initial_cwnd", "0 is less than 1; write a number from 1 to 1000"),
    ("a number too large", "initial_cwnd: 0x1000", 21, "spec.tune.initial_cwnd", "0x1000 is more than 1000; write a number from 1 to 1000"),
    ("a quoted number", "initial_cwnd: '40'", 21, "spec.tune.initial_cwnd", "'40' is text, not a number; write 40 without quotes"),
    ("a number with a leading zero", "initial_cwnd: 017", 21, "spec.tune.initial_cwnd", "'017' is text, not a number; write 17"),
    ("digits of another script", "initial_cwnd: 1٣", 21, "spec.tune.initial_cwnd", "'1٣' is not a whole number"),
    ("a fraction", "initial_cwnd: 4.5", 21, "spec.tune.initial_cwnd", "4.5 is not a whole number"),
    ("a boolean as a number", "initial_cwnd: yes", 21, "spec.tune.initial_cwnd", "yes is read as true, not a whole number"),
    ("a list as a number", "initial_cwnd: [4]", 21, "spec.tune.initial_cwnd", "a list stands where a whole number is wanted"),
    ("an option without a value", "initial_cwnd:", 21, "spec.tune.initial_cwnd", "there is no value; write a number from 1 to 1000, or leave the field out"),
    ("no such choice", "congestion_control: bbr2", 21, "spec.tune.congestion_control", "'bbr2' is not one of bbr or cubic; did you mean 'bbr'?"),
    ("a rate without a unit", "pacing_rate: 200", 21, "spec.tune.pacing_rate", "'200' has no unit; write for example 200Mbit"),
    ("a rate above its bound", "pacing_rate: 1Tbit", 21, "spec.tune.pacing_rate", "'1Tbit' is more than 100Gbit; write a rate from 1kbit to 100Gbit"),
    ("a rate below its bound", "pacing_rate: 1bit", 21, "spec.tune.pacing_rate", "'1bit' is less than 1kbit; write a rate from 1kbit to 100Gbit"),
    ("a rate without a value", "pacing_rate:", 21, "spec.tune.pacing_rate", "there is no value; write for example 200Mbit"),
    ("a mapping as a rate", "pacing_rate: {}", 21, "spec.tune.pacing_rate", "a mapping is not a rate; write for example 200Mbit"),
    ("an endless rate", "pacing_rate: 1" + "0" * 40, 21, "spec.tune.pacing_rate", "this number is too large for a rate"),
    ("a negative rate", "pacing_rate: -5", 21, "spec.tune.pacing_rate", "'-5' is negative; write for example 200Mbit"),
    ("a duration out of bounds", "min_rto: 1s", 21, "spec.tune.min_rto", "'1s' is more than 200ms; write a duration from 5ms to 200ms"),
    ("a bare size out of bounds", "receive_window_max: 1", 21, "spec.tune.receive_window_max", "1 is less than 4KiB; write a size from 4KiB to 64MiB"),
    ("a share as a fraction", "sampled: 0.05", 21, "spec.tune.sampled", "0.05 is not a share; write for example 5%"),
    ("a number as a boolean", "quick_ack: 1", 21, "spec.tune.quick_ack", "1 is not true or false; write for example true"),
    ("no branch of a union", "level: high", 21, "spec.tune.level", "'high' is not a value this field takes; write for example auto"),
    ("text in a list of numbers", "marks:\n- 1\n- two", 23, "spec.tune.marks[1]", "'two' is not a whole number"),
    ("a list too long", "marks: [1, 2, 3]", 21, "spec.tune.marks", "there are more than 2 entries; write 2 entries or fewer"),
    ("a word unlike its pattern", "word: c4lm", 21, "spec.tune.word", "'c4lm' is not a value this field takes; write for example calm"),
    ("a word too long", "word: serenities", 21, "spec.tune.word", "there are more than 8 characters; write 8 characters or fewer"),
    ("a gain of nought", "gain: 0.0", 21, "spec.tune.gain", "0.0 is not more than 0; write for example 2.5"),
    ("a gain of four", "gain: 4.0", 21, "spec.tune.gain", "4.0 is not less than 4; write for example 2.5"),
    ("no multiple", "segments: 6", 21, "spec.tune.segments", "6 is not a multiple of 4; write a multiple of 4"),
]  # fmt: skip

SPEC_ROWS = [
    ("a negative priority", "priority: -1", 31, "spec.priority", "-1 is less than 0; write a number from 0 to 1000000"),
    ("a priority in words", "priority: high", 31, "spec.priority", "'high' is not a whole number"),
    ("a holdout without a sign", "holdout: 5", 31, "spec.holdout", "'5' has no percent sign; write for example 5%"),
    ("a holdout above all", "holdout: 101%", 31, "spec.holdout", "'101%' is more than 100%"),
    ("another time", "applyTo: later", 31, "spec.applyTo", "'later' is not one of new or live"),
    ("an option outside tune", "pacing_rate: 1Mbit", 31, "spec.pacing_rate", "there is no field 'pacing_rate' here; move it to spec.tune"),
]  # fmt: skip

TEXT_ROWS = [
    ("an empty file", "", 0, "", "there is no policy in it; start with apiVersion: pliant/v1"),
    ("only a comment", "# nothing\n", 0, "", "there is no policy in it"),
    ("an empty document", f"---\n{EXAMPLE}---\n", 21, "", "the document is empty; write a policy, or remove the '---'"),
    ("a word", "hello", 1, "", "the document is text, not a policy"),
    ("a list", "\n[1]", 2, "", "the document is a list, not a policy; start with apiVersion: pliant/v1"),
    ("a tab", "metadata:\n\tname: web", 2, "", "a tab stands where YAML wants spaces; indent with spaces"),
    ("a colon too many", "a:\n  b: c: d", 2, "", "a ':' stands where no key can be"),
    ("an open bracket", "a: [1,\nb: 2\n", 2, "", "this is not YAML: did not find expected"),
    ("an unquoted IPv6 prefix in brackets", "a:\n  [::/0]", 2, "", "a ':' cannot start a value here; put the text in quotes"),
    ("an unknown alias", "a: 1\nb: *gone", 2, "", "this alias has no anchor above it"),
    ("half a surrogate pair", 'a: "\\ud83d"', 1, "", r"a \u escape here is not a character"),
    ("a control character", "a: 1\nb: \x07", 2, "", "a character here is not allowed in YAML"),
    ("a lone surrogate", "a: 1\nb: \udc80", 2, "", "a character here is not valid Unicode"),
    ("nesting", "a:\n " + "[\n " * 100_000, 50, "", "lists and mappings are nested too deep here"),
    ("a list as a key", "[a]: 1", 1, "", "a list or a mapping stands where a key is wanted"),
    ("an alias to itself", "a: &a [*a]", 1, "a", "aliases expand this without end"),
    ("a merge of itself", "a: &a {<<: *a}", 1, "a", "aliases expand this without end"),
    ("another version", EXAMPLE.replace("pliant/v1", "pliant/v2"), 1, "apiVersion", "'pliant/v2' is not known here; write pliant/v1"),
    ("another kind", "apiVersion: apps/v1\nkind: Deployment\nspec: {}", 2, "kind", "'Deployment' is not known here; write TransportPolicy"),
    ("no kind", EXAMPLE.replace("kind: TransportPolicy\n", ""), 1, "kind", "this field is required; write for example TransportPolicy"),
    ("text for a section", "apiVersion: pliant/v1\nkind: TransportPolicy\nmetadata: {name: web}\nspec: none", 4, "spec", "'none' is not a mapping"),
    ("a List without items", "kind: List", 1, "items", "a List needs a list of policies; write items: and the policies"),
    ("a List of something else", "kind: List\nitems:\n- 5\n", 3, "items[0]", "5 is not a mapping"),
    ("a List with a field too many", "kind: List\nitems: []\nitem: 1", 3, "item", "the fields of a List are apiVersion, kind, metadata, items"),
    ("a List of another version", "kind: List\napiVersion: v2\nitems: []", 2, "apiVersion", "write pliant/v1"),
]  # fmt: skip

ROWS = [
    *((says, written(metadata=part), *rest) for says, part, *rest in METADATA_ROWS),
    *((says, written(match=part), *rest) for says, part, *rest in MATCH_ROWS),
    *((says, written(tune=part), *rest) for says, part, *rest in TUNE_ROWS),
    *((says, written(spec=part), *rest) for says, part, *rest in SPEC_ROWS),
    *TEXT_ROWS,
]


@pytest.mark.parametrize(
    ("text", "line", "field", "part"), [row[1:] for row in ROWS], ids=[str(row[0]) for row in ROWS]
)
def test_a_mistake_is_told_with_its_line_its_field_and_a_remedy(
    text: str, line: int, field: str, part: str
) -> None:
    (problem,) = problems(text)
    assert (problem.line, problem.field) == (line, field)
    assert part in f"{problem.message}; {problem.remedy}"
    assert problem.remedy or "is not a" in problem.message


def test_a_problem_reads_as_one_line_with_file_line_field_and_remedy() -> None:
    errors = PolicyErrors(problems(written(tune="pacing_rate: '200'")))
    assert str(errors) == "web.yaml:21: spec.tune.pacing_rate: '200' has no unit; write for example 200Mbit"
    assert str(Problem("web.yaml", 0, "", "the file is gone", "")) == "web.yaml: the file is gone"
    assert pickle.loads(pickle.dumps(errors)).problems == errors.problems


def test_all_problems_of_all_documents_are_told_in_order_of_their_lines() -> None:
    first = EXAMPLE.replace("role: server", "role: servr").replace("holdout: 5%", "holdout: 5")
    second = EXAMPLE.replace("443", "0").replace("name: cross", "name: Cross")
    third = EXAMPLE.replace("priority: 100", "priority: 1\n  priority: 2")
    text = "---\n".join([first, second, third])
    assert [(problem.line, problem.field) for problem in problems(text)] == [
        (10, "spec.match.role"),
        (18, "spec.holdout"),
        (24, "metadata.name"),
        (32, "spec.match.localPorts[0]"),
        (60, "spec.priority"),
    ]


def test_very_many_problems_are_kept_and_counted_but_not_all_printed() -> None:
    ports = ", ".join(["0"] * 250)
    errors = PolicyErrors(problems(EXAMPLE.replace("[443]", f"[{ports}]")))
    assert len(errors.problems) == 250
    assert str(errors).splitlines()[-1] == "and 150 more problems"


def test_a_name_taken_twice_is_told_with_both_places() -> None:
    (problem,) = problems(f"{EXAMPLE}---\n{EXAMPLE}")
    assert (problem.line, problem.field) == (24, "metadata.name")
    assert problem.message == "the name 'cross-region-web' is taken by the policy at web.yaml:4"


def test_a_list_of_policies_is_its_policies_with_lines_and_fields_of_their_own() -> None:
    (policy,) = load(EXAMPLE)
    documents = [policy.to_document(), policy.to_document()]
    documents[1]["metadata"]["name"] = "other"
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": documents})
    assert [found.name for found in load(text)] == ["cross-region-web", "other"]
    (problem,) = problems(text.replace("name: other", "name: Other"))
    assert problem.field == "items[1].metadata.name"
    assert text.splitlines()[problem.line - 1].strip() == "name: other"


def test_an_empty_list_of_policies_is_no_mistake() -> None:
    assert load("kind: List\nitems: []") == []


def test_json_is_read_like_yaml_tabs_and_lines_included() -> None:
    (policy,) = load(EXAMPLE)
    text = json.dumps(policy.to_document(), indent="\t")
    assert load(text) == [policy]
    (problem,) = problems(text.replace('"server"', '"servr"'))
    assert '"server"' in text.splitlines()[problem.line - 1]


def test_anchors_and_merge_keys_mean_what_yaml_says() -> None:
    shared = """\
kind: List
items:
- apiVersion: pliant/v1
  kind: TransportPolicy
  metadata: {name: one}
  spec:
    match: &web {service: nginx.service, localPorts: [443]}
    tune: &fast {initial_cwnd: 40, min_rto: 20ms}
- apiVersion: pliant/v1
  kind: TransportPolicy
  metadata: {name: two}
  spec:
    match: *web
    tune:
      <<: [*fast, {initial_cwnd: 80, quick_ack: yes}]
      min_rto: 10ms
"""
    one, two = load(shared)
    assert one.spec.match == two.spec.match
    assert two.tune_values == {"initial_cwnd": 40, "min_rto": 10_000, "quick_ack": True}
    (problem,) = problems(shared.replace("quick_ack: yes", "quick_ack: 1"))
    assert (problem.line, problem.field) == (15, "items[1].spec.tune.quick_ack")


def test_an_anchor_ends_with_its_document() -> None:
    text = EXAMPLE.replace("owner: web-infra", "owner: &who web-infra")
    (problem,) = problems(f"{text}---\na: 1\nowner: *who\n")[-1:]
    assert (problem.line, problem.message) == (22, "this alias has no anchor above it")


def test_a_mistake_behind_an_alias_is_told_where_the_alias_is_used() -> None:
    text = EXAMPLE.replace("owner: web-infra", "owner: &x sampled").replace("role: server", "role: *x")
    (problem,) = problems(text)
    assert (problem.line, problem.field) == (10, "spec.match.role")


@pytest.mark.parametrize("shape", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_that_expand_to_billions_are_refused_at_once(shape: str) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for level in range(1, 40):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {shape.format(aliases)}")
    (problem,) = problems("\n".join(lines))
    assert problem.message == "aliases expand this without end"


def test_text_that_is_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LARGEST_FILE_BYTES", 1 << 20)
    (problem,) = problems("[" * ((1 << 20) + 1))
    assert str(problem) == "web.yaml: the file is larger than 1 MiB; split it"


def test_a_validator_of_an_option_speaks_its_own_sentence() -> None:
    option = Option("burst", Annotated[int, AfterValidator(even)], "Burst.", 4)
    with pytest.raises(PolicyErrors, match=r"spec\.tune\.burst: 3 is odd; write an even number$"):
        load_policies(written(tune="burst: 3"), "web.yaml", {"burst": option})


def test_a_document_from_elsewhere_is_checked_without_lines() -> None:
    (policy,) = load(EXAMPLE)
    document = policy.to_document()
    assert policy_from_document(document, "the request", CATALOGUE) == policy
    document["spec"]["tune"]["pacing_rate"] = "200"
    with pytest.raises(PolicyErrors, match=r"^the request: spec\.tune\.pacing_rate: '200' has no unit"):
        policy_from_document(document, "the request", CATALOGUE)


def test_directories_give_their_policy_files_in_order_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt"):
        (tmp_path / name).write_text(EXAMPLE.replace("cross-region-web", name.strip(".").replace(".", "-")))
    (tmp_path / "d.yaml").mkdir()
    os.mkfifo(tmp_path / "e.yaml")
    found = load_policies_from_paths([tmp_path], CATALOGUE)
    assert [policy.name for policy in found] == ["a-yaml", "b-yml", "c-json"]


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(EXAMPLE.encode())))
    assert load_policies_from_paths(["-"], CATALOGUE) == load(EXAMPLE)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: [")))
    with pytest.raises(PolicyErrors, match=r"^stdin:1: this is not YAML"):
        load_policies_from_paths(["-"], CATALOGUE)


def test_files_that_cannot_be_read_are_problems_beside_those_of_others(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x81")
    (tmp_path / "wrong.yaml").write_text("hello")
    (tmp_path / "empty").mkdir()
    names = ["missing.yaml", "binary.yaml", "wrong.yaml", "empty", "nul\0.yaml"]
    with pytest.raises(PolicyErrors) as refused:
        load_policies_from_paths([f"{tmp_path}/{name}" for name in names], CATALOGUE)
    said = [(Path(problem.file).name, problem.line, problem.message) for problem in refused.value.problems]
    assert said == [
        ("missing.yaml", 0, "the file cannot be read: no such file or directory"),
        ("binary.yaml", 0, "the file is not UTF-8 text"),
        ("wrong.yaml", 1, "the document is text, not a policy"),
        ("empty", 0, "the directory has no .yaml, .yml, .json files"),
        ("nul\0.yaml", 0, "the file cannot be read: the name is not valid"),
    ]


def test_a_name_taken_by_another_file_is_told_with_that_file(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(EXAMPLE)
    with pytest.raises(PolicyErrors, match=r"b\.yaml:4: metadata\.name: .* at .*a\.yaml:4; give one"):
        load_policies_from_paths([tmp_path], CATALOGUE)


def test_a_byte_order_mark_is_no_part_of_the_policy(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + EXAMPLE.encode())
    assert load_policies_from_paths([tmp_path / "bom.yaml"], CATALOGUE) == load(EXAMPLE)


def test_a_policy_takes_less_than_six_kilobytes_and_keeps_no_nodes() -> None:
    texts = [EXAMPLE.replace("cross-region", f"policy-{number}") for number in range(500)]
    load(EXAMPLE)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        loaded = load("---\n".join(texts))
        each = (tracemalloc.get_traced_memory()[0] - before) / len(loaded)
    finally:
        tracemalloc.stop()
    assert len(loaded) == 500
    assert each < 6_000


TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=20)


def _prefix(address: int, length: int, v6: bool) -> str:
    shifted = address >> (32 - length) << (32 - length)
    if v6:
        return f"{shifted >> 16:x}:{shifted & 0xFFFF:x}::/{length}"
    return f"{'.'.join(str(byte) for byte in shifted.to_bytes(4, 'big'))}/{length}"


PREFIX = st.builds(_prefix, st.integers(0, 2**32 - 1), st.integers(0, 32), st.booleans())
PORTS = st.lists(st.integers(1, 32), min_size=1, max_size=4, unique=True).map(
    lambda tens: [f"{ten * 10}-{ten * 10 + 3}" if ten % 2 else ten * 10 for ten in tens]
)
TUNE: dict[str, st.SearchStrategy[Any]] = {
    "initial_cwnd": st.integers(1, 1000),
    "congestion_control": st.sampled_from(["bbr", "cubic"]),
    "pacing_rate": st.integers(1000, 10**11).map(format_rate),
    "min_rto": st.integers(5_000, 200_000).map(lambda value: f"{value}us"),
    "receive_window_max": st.integers(4096, 64 << 20),
    "sampled": st.integers(0, 500_000).map(lambda ppm: f"{ppm // 10_000}.{ppm % 10_000:04d}%"),
    "quick_ack": st.booleans(),
    "level": st.integers() | st.just("auto"),
    "marks": st.lists(st.integers(), max_size=2),
    "gain": st.floats(0.01, 3.99),
}
DOCUMENTS = st.fixed_dictionaries(
    {
        "apiVersion": st.just("pliant/v1"),
        "kind": st.just("TransportPolicy"),
        "metadata": st.fixed_dictionaries(
            {"name": st.from_regex("[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)},
            optional={"owner": TEXT, "reason": TEXT, "labels": st.dictionaries(TEXT, TEXT, max_size=3)},
        ),
        "spec": st.fixed_dictionaries(
            {
                "match": st.fixed_dictionaries(
                    {"service": st.sampled_from(["nginx.service", "/kube/pod*", "w@*.service"])},
                    optional={
                        "role": st.sampled_from(["server", "client", "any"]),
                        "peers": st.lists(PREFIX, min_size=1, max_size=4, unique=True),
                        "localPorts": PORTS,
                        "remotePorts": PORTS,
                    },
                ),
                "tune": st.fixed_dictionaries({}, optional=TUNE).filter(bool),
            },
            optional={
                "applyTo": st.sampled_from(["new", "live"]),
                "holdout": st.integers(0, 100).map(lambda percent: f"{percent}%"),
                "priority": st.integers(0, 1_000_000),
            },
        ),
    }
)


@given(document=DOCUMENTS)
def test_what_is_written_reads_back_as_the_same_policy(document: dict[str, Any]) -> None:
    policy = policy_from_document(document, "test", CATALOGUE)
    again = policy.to_document()
    assert load(dump_policies([policy])) == [policy]
    assert policy_from_document(again, "test", CATALOGUE) == policy
    assert load(json.dumps(again, ensure_ascii=False)) == [policy]
    assert policy_from_document(again, "test", CATALOGUE).to_document() == again


@given(
    owner=TEXT
    | st.sampled_from(
        ["0o17", "1e3", "yes", "~", "null", "0x1F", "<<", "=", "1_000", "1:30", ".5", "-.inf", "017"]
    )
)
def test_text_that_looks_like_something_else_survives_being_written(owner: str) -> None:
    (policy,) = load(EXAMPLE)
    document = policy.to_document()
    document["metadata"]["owner"] = owner
    policy = policy_from_document(document, "test", CATALOGUE)
    (again,) = load(dump_policies([policy]))
    assert again.metadata.owner == owner


def only_policy_errors(text: str) -> None:
    try:
        load(text)
    except PolicyErrors as errors:
        told = errors.problems
    else:
        return
    assert told
    for problem in told:
        assert "\n" not in str(problem)
        assert "pydantic" not in str(problem)
        assert problem.line <= text.count("\n") + 1


@given(text=st.text(st.characters()) | st.text(st.sampled_from("abc:-[]{}&*!<>|'\"#%@ \n\t?,~.0123")))
def test_any_text_gives_policies_or_policy_errors(text: str) -> None:
    only_policy_errors(text)


JSONLIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["200Mbit", "5%"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(document=DOCUMENTS, data=st.data())
def test_a_policy_with_any_value_anywhere_gives_policies_or_policy_errors(
    document: dict[str, Any], data: st.DataObject
) -> None:
    part: Any = document
    while isinstance(part, dict) and part:
        key = data.draw(st.sampled_from(sorted(part)))
        if not isinstance(part[key], dict) or data.draw(st.integers(0, 3)) == 0:
            part[data.draw(st.sampled_from([key, "zzz", "items"]))] = data.draw(JSONLIKE)
            break
        part = part[key]
    only_policy_errors(yaml.safe_dump(document))
    only_policy_errors(json.dumps(document))


@given(data=st.data())
def test_an_example_with_any_part_cut_or_doubled_gives_policies_or_policy_errors(data: st.DataObject) -> None:
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(EXAMPLE))] * 2)))
    only_policy_errors(EXAMPLE[:first] + EXAMPLE[last:])
    only_policy_errors(EXAMPLE[:last] + EXAMPLE[first:])
