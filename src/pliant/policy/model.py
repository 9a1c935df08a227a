# SPDX-License-Identifier: Apache-2.0
"""A policy as people write it: what should happen, for which traffic, and why. Never how.

Fields are named as they are typed. Values are parsed: prefixes are networks, quantities are integers in
base units. The ``tune`` section is built from a catalogue of options, see `policy_model`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    create_model,
    model_validator,
)

from pliant.policy.guard import Guard
from pliant.policy.options import Catalogue, Share
from pliant.policy.problems import Path, kind_of, rejection
from pliant.policy.units import quote

MOST_PORT_PAIRS = 1024
"""The most (local port, remote port) pairs one policy may name; an absent side counts as one."""

Network = IPv4Network | IPv6Network
Role = Literal["server", "client"]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_UNIT_KINDS = (".service", ".slice", ".scope", ".socket", ".mount", ".swap")
_PORT = r"[1-9][0-9]{0,4}"
_SPAN = re.compile(r"([0-9]{1,6}) ?- ?([0-9]{1,6})", re.ASCII)
_PREFIX = re.compile(r"[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?", re.ASCII)


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    close = re.sub(r"[^a-z0-9]+", "-", name[:200].lower()).strip("-")[:63].strip("-")
    raise rejection(
        f"{quote(name)} is not a name: lower-case letters, digits and '-', at most 63 of them",
        f"write for example {close or 'cross-region-web'}",
    )


def _text(longest: int) -> Callable[[str], str]:
    def check(text: str) -> str:
        if len(text) <= longest and text.isprintable() and text.strip():
            return text
        if not text.strip():
            raise rejection("this is empty", "write some text or leave the field out")
        if len(text) > longest:
            raise rejection(f"there are {len(text)} characters", f"write at most {longest}")
        if all(line.isprintable() for line in text.replace("\t", " ").split("\n")):
            return text
        raise rejection(f"{quote(text)} has characters that cannot be printed", "leave them out")

    return check


def check_service(service: str) -> str:
    """Return the pattern of a service, or raise a PydanticCustomError that says what is wrong with it."""
    example = "write a systemd unit such as nginx.service, a cgroup path such as /system.slice/nginx.service"
    if not service or not service.isprintable() or " " in service or len(service) > 4095:
        raise rejection(f"{quote(service)} is not the name of a service", f"{example}, or a glob")
    if service.startswith("/"):
        if service != "/" and any(part in ("", ".", "..") for part in service[1:].split("/")):
            tidy = "/" + "/".join(part for part in service.split("/") if part not in ("", ".", ".."))
            raise rejection(f"{quote(service)} is not a cgroup path", f"write for example {tidy}")
        return service
    if "/" in service:
        raise rejection(f"{quote(service)} is a path that does not start with '/'", f"write /{service}")
    if len(service) > 255:
        raise rejection("the name of a systemd unit has at most 255 characters", f"{example}, or a glob")
    if not service.endswith(_UNIT_KINDS) and not any(sign in service for sign in "*?["):
        raise rejection(f"{quote(service)} does not say what kind of unit it is", f"write {service}.service")
    return service


def _check_peer(typed: object) -> Network:
    if isinstance(typed, str):
        return parse_prefix(typed)
    found = "there is no value" if typed is None else f"{kind_of(typed)} stands where a prefix is wanted"
    raise rejection(found, "write for example 10.2.0.0/16")


@lru_cache(maxsize=65536)
def parse_prefix(typed: str) -> Network:
    """Return the network of ``"10.2.0.0/16"``, ``"fd00:2::/32"`` or a bare address (one host).

    Raises a PydanticCustomError with the corrected prefix as its remedy when host bits are set.
    """
    if not _PREFIX.fullmatch(typed):
        raise rejection(f"{quote(typed)} is not an IP prefix", "write for example 10.2.0.0/16 or fd00:2::/32")
    try:
        network = ip_network(typed, strict=False)
        address = ip_interface(typed).ip
    except ValueError:
        remedy = "write for example 10.2.0.0/16 or fd00:2::/32"
        raise rejection(f"{quote(typed)} is not an IP prefix", remedy) from None
    if address != network.network_address:
        raise rejection(f"{quote(typed)} has bits set after the prefix", f"write {network}")
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        remedy = f"write {mapped}/{network.prefixlen - 96}"
        raise rejection(f"{quote(typed)} is an IPv4 prefix written as IPv6", remedy)
    return network


def _check_peers(peers: tuple[Network, ...]) -> tuple[Network, ...]:
    if not peers:
        raise rejection("the list is empty", "name prefixes, or leave peers out to mean every peer")
    seen = set()
    for index, peer in enumerate(peers):
        if peer in seen:
            raise rejection(f"'{peer}' is in the list twice", "leave one of them out", at=(index,))
        seen.add(peer)
    return peers


def _check_port(typed: object) -> int | str:
    if isinstance(typed, int) and not isinstance(typed, bool):
        if 1 <= typed <= 65535:
            return typed
        raise rejection("a port is a number from 1 to 65535", "write for example 443")
    if isinstance(typed, str):
        return _check_span(typed)
    found = "there is no value" if typed is None else f"{kind_of(typed)} stands where a port is wanted"
    raise rejection(found, "write for example 443 or 8000-8080")


def _check_span(typed: str) -> str:
    found = _SPAN.fullmatch(typed)
    if found is None:
        remedy = f"write {int(typed)} without quotes" if re.fullmatch("[0-9]{1,5}", typed) else ""
        raise rejection(f"{quote(typed)} is not a port", remedy or "write for example 443 or 8000-8080")
    first, last = int(found[1]), int(found[2])
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise rejection(f"{quote(typed)} goes outside 1 to 65535", "write for example 8000-8080")
    if first > last:
        raise rejection(f"{quote(typed)} runs backwards", f"write {last}-{first}")
    return f"{first}-{last}"


def _span(port: int | str) -> range:
    if isinstance(port, int):
        return range(port, port + 1)
    first, _, last = port.partition("-")
    return range(int(first), int(last) + 1)


def _check_ports(ports: tuple[int | str, ...]) -> tuple[int | str, ...]:
    if not ports:
        raise rejection("the list is empty", "name ports, or leave the field out to mean every port")
    seen: set[int] = set()
    for index, port in enumerate(ports):
        span = _span(port)
        if len(span) > MOST_PORT_PAIRS:
            _refuse_pairs(len(span))
        if not seen.isdisjoint(span):
            raise rejection(f"{port} is in the list twice", "leave one of them out", at=(index,))
        seen.update(span)
    return ports


def _refuse_pairs(pairs: int, at: Path = ()) -> None:
    raise rejection(
        f"the ports make {pairs:,} pairs of local and remote port, at most {MOST_PORT_PAIRS:,} are possible",
        "leave the ports out to mean every port, or split the policy",
        at=at,
    )


def _expand(ports: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(port for span in ports for port in _span(span))


Peer = Annotated[
    Network,
    PlainValidator(_check_peer),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$"}),
]
Port = Annotated[
    int | str,
    PlainValidator(_check_port),
    PlainSerializer(lambda port: port, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": f"^{_PORT} ?- ?{_PORT}$"},
            ]
        }
    ),
]
# Strict validation would take tuples only, and YAML has lists.
Peers = Annotated[tuple[Peer, ...], Field(strict=False), AfterValidator(_check_peers)]
Ports = Annotated[tuple[Port, ...], Field(strict=False), AfterValidator(_check_ports)]


class Written(BaseModel):
    """A part of a document as people write it: every field is known, none is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


class Metadata(Written):
    """Who a policy belongs to and why it exists."""

    name: Annotated[
        str,
        AfterValidator(_check_name),
        WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$", "maxLength": 63}),
    ] = Field(description="The policy's name, unique in a store.", examples=["cross-region-web"])
    owner: Annotated[str, AfterValidator(_text(128))] | None = Field(
        None, description="The team or person who answers for the policy.", examples=["web-infra"]
    )
    reason: Annotated[str, AfterValidator(_text(1024))] | None = Field(
        None,
        description="Why the policy exists, in one sentence.",
        examples=["fill the long path in the first round trip"],
    )
    labels: (
        dict[Annotated[str, AfterValidator(_text(63))], Annotated[str, AfterValidator(_text(128))]] | None
    ) = Field(
        None, max_length=64, description="Free words to select policies by.", examples=[{"tier": "edge"}]
    )


class Match(Written):
    """Which connections a policy is for: all that satisfy every field given."""

    service: Annotated[str, AfterValidator(check_service)] = Field(
        description="A systemd unit, a cgroup path starting with '/', or a glob of either.",
        examples=["nginx.service", "/system.slice/nginx.service", "worker@*.service"],
    )
    role: Literal["server", "client", "any"] = Field(
        "any", description="Connections the service accepts (server), opens (client), or both (any)."
    )
    peers: Peers = Field(
        (), description="Prefixes of the other end; absent means every peer.", examples=[["10.2.0.0/16"]]
    )
    localPorts: Ports = Field(
        (),
        description="Ports of this end, single or as ranges; absent means every port.",
        examples=[[443], ["8000-8080"]],
    )
    remotePorts: Ports = Field(
        (),
        description="Ports of the other end, single or as ranges; absent means every port.",
        examples=[[443], ["8000-8080"]],
    )

    @model_validator(mode="after")
    def _few_enough_pairs(self) -> Self:
        pairs = max(1, len(_expand(self.localPorts))) * max(1, len(_expand(self.remotePorts)))
        if pairs > MOST_PORT_PAIRS:
            _refuse_pairs(pairs, at=("localPorts" if self.localPorts else "remotePorts",))
        return self


class Tune(Written):
    """The options a policy sets; a subclass made from a catalogue has one attribute an option."""

    @model_validator(mode="after")
    def _sets_something(self) -> Self:
        if all(value is None for value in self.__dict__.values()):
            raise rejection("no option is set", f"set at least one of {', '.join(type(self).model_fields)}")
        return self


class Spec(Written):
    """What a policy does: for which connections, with which options, how carefully."""

    match: Match = Field(description="Which connections the policy is for.")
    tune: Tune = Field(description="The options to set on them; at least one.")
    applyTo: Literal["new", "live"] = Field(
        "new", description="New connections only, or also those already open (live)."
    )
    holdout: Share = Field(
        0, description="The share of matching connections kept untuned, to compare with.", examples=["5%"]
    )
    guard: Guard | None = Field(
        None, description="Limits against the held-out connections; past one, the policy is taken off."
    )
    priority: int = Field(
        100, ge=0, le=1_000_000, description="Which policy wins where two set the same option: the higher."
    )

    @model_validator(mode="after")
    def _guards_what_it_can_compare(self) -> Self:
        if self.guard and not self.holdout:
            message = "a guard compares with held-out connections, and nothing is held out"
            raise rejection(message, "set holdout, for example to 5%", at=("guard",))
        if self.guard and self.guard.connectionFailures is not None and self.match.role == "server":
            message = (
                "connections that a service accepts are seen when they are established: none of them fails"
            )
            raise rejection(
                message, "leave it out, or match role: client", at=("guard", "connectionFailures")
            )
        return self


class Policy(Written):
    """One transport policy. Policies of a catalogue are instances of ``policy_model(catalogue)``."""

    apiVersion: Literal["pliant/v1"] = Field(
        description="The version of this format.", examples=["pliant/v1"]
    )
    kind: Literal["TransportPolicy"] = Field(
        description="What the document is.", examples=["TransportPolicy"]
    )
    metadata: Metadata = Field(description="Who the policy belongs to and why it exists.")
    spec: Spec = Field(description="What the policy does, and for which connections.")

    def __hash__(self) -> int:
        return hash(self.metadata.name)

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.metadata.name

    @property
    def priority(self) -> int:
        """Which policy wins where two set the same option: the higher."""
        return self.spec.priority

    @property
    def holdout_ppm(self) -> int:
        """The share of matching connections kept untuned, in parts per million."""
        holdout: int = self.spec.holdout
        return holdout

    @property
    def guard(self) -> Guard | None:
        """The limits against the held-out connections, if there are any."""
        return self.spec.guard

    @property
    def is_live(self) -> bool:
        """Whether it is for connections that are open already, too."""
        return self.spec.applyTo == "live"

    @property
    def is_measured(self) -> bool:
        """Whether what becomes of its connections is recorded: there is a share of them to compare with."""
        return self.holdout_ppm > 0

    @property
    def tune_values(self) -> dict[str, Any]:
        """The options set, by name, as parsed values in base units."""
        return {name: value for name, value in self.spec.tune.__dict__.items() if value is not None}

    @property
    def local_ports(self) -> tuple[int, ...]:
        """Every port of this end, ranges expanded; empty means every port."""
        return _expand(self.spec.match.localPorts)

    @property
    def remote_ports(self) -> tuple[int, ...]:
        """Every port of the other end, ranges expanded; empty means every port."""
        return _expand(self.spec.match.remotePorts)

    @property
    def prefixes(self) -> tuple[Network, ...]:
        """The prefixes of the other end; empty means every peer."""
        return self.spec.match.peers

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of the service that match: ``any`` is both."""
        role = self.spec.match.role
        return ("server", "client") if role == "any" else (role,)

    def to_document(self) -> dict[str, Any]:
        """Return the policy as people write it, ready for JSON or YAML; defaults are written out.

        Loading the document with the same catalogue gives an equal policy.
        """
        document = self.model_dump(mode="json", exclude_none=True)
        match = document["spec"]["match"]
        document["spec"]["match"] = {field: value for field, value in match.items() if value != []}
        return document


class HostPolicy(Policy):
    """A policy of another kind, about the host itself. It matches no connections, and tunes none."""

    def __hash__(self) -> int:
        return hash(self.metadata.name)

    @property
    def holdout_ppm(self) -> int:
        """None of any connections is held out."""
        return 0

    @property
    def guard(self) -> None:
        """None: nothing is compared."""
        return

    @property
    def is_live(self) -> bool:
        """Whether it is for open connections: for none."""
        return False

    @property
    def tune_values(self) -> dict[str, Any]:
        """The options set on connections: none."""
        return {}

    def to_document(self) -> dict[str, Any]:
        """Return the policy as people write it; see :class:`Policy`."""
        return self.model_dump(mode="json", exclude_none=True)


def of_connections(policies: Iterable[Policy]) -> list[Policy]:
    """Those of some policies that are for connections."""
    return [policy for policy in policies if not isinstance(policy, HostPolicy)]


_models: list[tuple[dict[str, Any], type[Policy]]] = []
_MOST_MODELS = 16


def policy_model(catalogue: Catalogue) -> type[Policy]:
    """Return the Policy class whose ``tune`` section has the options of ``catalogue``.

    Equal catalogues give the same class. Raises ValueError if an option is filed under another name.
    """
    for known, model in _models:
        if known == catalogue:
            return model
    fields: dict[str, Any] = {}
    for name, option in catalogue.items():
        if name != option.name:
            raise ValueError(f"the option {option.name!r} is in the catalogue as {name!r}")
        about = Field(default=None, description=option.summary, examples=[option.example])
        fields[name] = (option.type, about)
    tune = create_model("Tune", __base__=Tune, __doc__=Tune.__doc__, **fields)
    about_tune = Field(description=Spec.model_fields["tune"].description)
    spec = create_model("Spec", __base__=Spec, __doc__=Spec.__doc__, tune=(tune, about_tune))
    about_spec = Field(description=Policy.model_fields["spec"].description)
    model = create_model("Policy", __base__=Policy, __doc__=Policy.__doc__, spec=(spec, about_spec))
    _models.append((dict(catalogue), model))
    del _models[:-_MOST_MODELS]
    return model
