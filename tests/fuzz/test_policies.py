# SPDX-License-Identifier: Apache-2.0
"""Whatever is in a file of policies: they compile, or each problem is told with its place and exit status 2."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pliant.features import catalogue
from tests.fuzz.conftest import fuzz, run

if TYPE_CHECKING:
    from tests.conftest import Pliant

pytestmark = pytest.mark.root

SERVICES = ("web.service", "/web.service", "*.service", "absent.service", "/", "[", "web.service/../x")
names = st.from_regex("[a-z0-9]([-a-z0-9]{0,6}[a-z0-9])?", fullmatch=True)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["200Mbit", "5%", "10ms", "-1ms", "1e400", "0x10", "10.2.3.4/16", "::/0", "80-79", "+1pp", "1" * 5000]
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
tunes = st.lists(st.sampled_from(sorted(catalogue())), min_size=1, max_size=5, unique=True).map(
    lambda chosen: {name: catalogue()[name].example for name in chosen}
)
policies = st.fixed_dictionaries(
    {
        "apiVersion": st.just("pliant/v1"),
        "kind": st.just("TransportPolicy"),
        "metadata": st.fixed_dictionaries({"name": names}),
        "spec": st.fixed_dictionaries(
            {
                "match": st.fixed_dictionaries(
                    {"service": st.sampled_from(SERVICES[:3])},
                    optional={
                        "role": st.sampled_from(["server", "client", "any"]),
                        "peers": st.just(["10.2.0.0/16", "fd00::/8"]),
                        "localPorts": st.just([80, "8000-8010"]),
                    },
                ),
                "tune": tunes,
            },
            optional={
                "holdout": st.sampled_from(["0%", "5%"]),
                "priority": st.integers(0, 1000),
                "applyTo": st.sampled_from(["new", "live"]),
                "guard": st.just({"retransmissionRatio": "2%"}),
            },
        ),
    }
)


def places(part: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within a document."""
    found = [path] if path else []
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> list[Any]:
    """Some policies, of which up to three values anywhere are others, gone, or under another name."""
    documents = draw(st.lists(policies, min_size=1, max_size=3))
    found: list[Any] = json.loads(json.dumps(documents))
    for _ in range(draw(st.integers(0, 3))):
        where = places(found)
        if not where:
            break
        *way, last = draw(st.sampled_from(where))
        holder: Any = found
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "rename", "repeat"])):
            case "replace":
                holder[last] = draw(values | st.sampled_from(SERVICES))
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = holder.pop(last)
            case _ if isinstance(holder, list):
                holder.append(holder[last])
    return found


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Files: of such policies, as YAML or JSON, cut, joined and sprinkled with what YAML makes something of."""
    documents = draw(mutated())
    try:
        text = (
            yaml.safe_dump_all(documents)
            if draw(st.booleans())
            else "\n---\n".join(json.dumps(document) for document in documents)
        )
    except ValueError:  # a surrogate
        text = json.dumps(documents)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        piece = draw(
            st.sampled_from(
                [
                    b"",
                    b"\0",
                    b"\xff",
                    b"\t",
                    b"---\n",
                    b"...\n",
                    b"&a ",
                    b"*a ",
                    b"!!python/object:x ",
                    b"? ",
                    b"{",
                    b"]",
                    b"'",
                    b"<<: ",
                    b"%YAML 9\n",
                    "\u2028".encode(),
                ]
            )
            | st.binary(max_size=4)
        )
        data[first : draw(st.sampled_from([first, last]))] = piece
    return bytes(data)


@fuzz(few=150)
@given(data=texts())
def test_any_file_is_compiled_or_told_of_with_its_place(
    fuzzed: Pliant, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(data)
    done = run("apply", "--dry-run", "-o", "json", "-f", str(path))
    if done.status == 0:
        assert json.loads(done.output)["dryRun"]
        return
    assert done.status == 2
    assert done.output == ""
    assert re.match(r"error: ", done.errors)
    assert PLACED.search(done.errors) or NOT_OF_A_FILE.search(done.errors), done.errors
    assert not fuzzed.places.pins.exists()


PLACED = re.compile(r"fuzzed\.yaml(:\d+)?: ")
NOT_OF_A_FILE = re.compile(r"^error: (policies .* both set |policy .*spec\.|there is no policy)")
"""What is said of policies that are right by themselves: of the host, and of one beside the other."""
