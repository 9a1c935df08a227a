# SPDX-License-Identifier: Apache-2.0
"""The agent's metrics: every one is declared here; values are read when somebody asks.

Labels are bounded: features, outcomes, arms, kinds and reasons are few, and of policies :data:`MOST_POLICIES` have
series of their own, of interfaces :data:`MOST_INTERFACES`; the others are counted together as ``_other``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import pliant
from pliant.agent.daemon.timings import Timings
from pliant.features import features
from pliant.features.layout import shipped_layout
from pliant.observe.counters import Arms, read_arms, read_outcomes
from pliant.policy.desired import SCOPE

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from pliant.agent.daemon.agent import Agent
    from pliant.agent.fastpath import FastpathGround
    from pliant.observe.fastpath import FastpathState

MOST_POLICIES = 500
MOST_INTERFACES = 200
MOST_RULES = 500
OTHER = "_other"


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric: its name as it is exposed, its type, what it says and the names of its labels."""

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()


METRICS: Mapping[str, Declared] = MappingProxyType(
    {
        declared.name: declared
        for declared in (
            Declared(
                "pliant_agent_info", "gauge", "1; the labels say which build runs.", ("version", "layout")
            ),
            Declared("pliant_agent_start_time_seconds", "gauge", "When the agent started, since the epoch."),
            Declared(
                "pliant_generation_number", "gauge", "The generation in force according to the journal."
            ),
            Declared(
                "pliant_policies_count",
                "gauge",
                "Policies in force, by whether their service is here.",
                ("state",),
            ),
            Declared("pliant_services_count", "gauge", "Cgroups of this host."),
            Declared("pliant_attachments_count", "gauge", "Cgroups that the scope program is attached to."),
            Declared(
                "pliant_drift_steps", "gauge", "Steps by which the kernel differed at the last regular look."
            ),
            Declared(
                "pliant_adjustment_failing_count",
                "gauge",
                "1 while the kernel cannot be made what the policies in force ask for.",
            ),
            Declared(
                "pliant_looks_total",
                "counter",
                "Times that the host was looked at, by why and with what outcome.",
                ("cause", "outcome"),
            ),
            Declared("pliant_look_seconds", "histogram", "How long a look took, adjustments included."),
            Declared(
                "pliant_attach_seconds",
                "histogram",
                "From noticing a service with policies to having them in force for it.",
            ),
            Declared(
                "pliant_fastpath_packets_total",
                "counter",
                "Packets that came in by an interface with a fast path, by what became of them and why.",
                ("interface", "module", "verdict", "reason"),
            ),
            Declared(
                "pliant_fastpath_bytes_total",
                "counter",
                "Bytes of the same packets, as they came in, with their Ethernet headers.",
                ("interface", "module", "verdict", "reason"),
            ),
            Declared(
                "pliant_fastpath_rule_packets_total",
                "counter",
                "Packets that rules of nftables have counted, or the fast path in their place (spec.ruleCounters: "
                "combined): add up both. handle is the rule's, 0 of the chain's policy; counter tells several of a "
                "rule apart.",
                ("family", "table", "chain", "handle", "counter", "by"),
            ),
            Declared(
                "pliant_fastpath_rule_bytes_total",
                "counter",
                "Bytes of the same packets from their IP headers on, as rules count them.",
                ("family", "table", "chain", "handle", "counter", "by"),
            ),
            Declared(
                "pliant_fastpath_interfaces_count",
                "gauge",
                "Interfaces that run a fast path, by where on them it runs.",
                ("mode",),
            ),
            Declared(
                "pliant_fastpath_reaction_seconds",
                "histogram",
                "From hearing of a change of the network to the fast path being made for it.",
            ),
            Declared(
                "pliant_events_count",
                "gauge",
                "Events that the journal keeps, by kind: bounded, not a total.",
                ("kind",),
            ),
            Declared(
                "pliant_policy_connections_total",
                "counter",
                "Connections that a policy has won an option of (treated) or was held out of.",
                ("policy", "arm"),
            ),
            Declared(
                "pliant_scope_connections_total",
                "counter",
                "Connections judged, by how that ended.",
                ("outcome",),
            ),
            Declared(
                "pliant_feature_settings_total",
                "counter",
                "Settings that were to be made on a connection, by what became of them.",
                ("feature", "outcome"),
            ),
        )
    }
)

Value = tuple[tuple[str, ...], float]
Family = tuple[Declared, Iterable[Value] | Timings]


def exposition(agent: Agent) -> str:
    """All metrics in Prometheus' text format, as they are now."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(lambda: families(agent)))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for declared, values in self._read():
            yield _metric(declared, values)


def _metric(declared: Declared, values: Iterable[Value] | Timings) -> Metric:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    if isinstance(values, Timings):
        histogram = HistogramMetricFamily(declared.name, declared.help)
        histogram.add_metric([], values.buckets(), values.sum_s)
        return histogram
    family = CounterMetricFamily if declared.type == "counter" else GaugeMetricFamily
    metric = family(declared.name, declared.help, labels=declared.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric


def families(agent: Agent) -> Iterator[Family]:
    """Every metric with its values now."""

    def family(name: str, values: Iterable[Value] | Timings) -> Family:
        return METRICS[name], values

    yield family("pliant_agent_info", [((pliant.__version__, shipped_layout().digest), 1)])
    yield family("pliant_agent_start_time_seconds", [((), agent.started)])
    yield family("pliant_generation_number", [((), agent.journal.current())])
    yield family("pliant_policies_count", _policies(agent))
    yield family("pliant_services_count", [((), len(agent.services.known))])
    yield family("pliant_attachments_count", [((), len(agent.host.pins.attached()))])
    yield family("pliant_drift_steps", [((), agent.drift["steps"])])
    yield family("pliant_adjustment_failing_count", [((), agent.failure is not None)])
    yield family("pliant_looks_total", agent.looks.items())
    yield family("pliant_look_seconds", agent.look_seconds)
    yield family("pliant_attach_seconds", agent.attach_seconds)
    yield family("pliant_fastpath_reaction_seconds", agent.reaction_seconds)
    for name, values in fastpath_values(agent.host.fastpath):
        yield family(name, values)
    yield family("pliant_events_count", [((k,), n) for k, n in agent.journal.events.counts().items()])
    yield family("pliant_policy_connections_total", _connections(agent))
    yield family(
        "pliant_scope_connections_total",
        [((_label(outcome),), count) for outcome, count in read_outcomes(agent.host.pins, SCOPE).items()],
    )
    yield family(
        "pliant_feature_settings_total",
        [
            ((name, _label(outcome)), count)
            for name in features()
            for outcome, count in read_outcomes(agent.host.pins, name).items()
        ],
    )


def fastpath_values(ground: FastpathGround) -> Iterator[tuple[str, list[Value]]]:
    """The metrics of a fast path by their names."""
    from pliant.fastpath.counters import read_counters

    found = ground.found()
    counted = read_counters(ground.pins, found) if found.ports else {}
    kept = frozenset(sorted({key.interface for key in counted})[:MOST_INTERFACES])
    packets, octets = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for key, one in counted.items():
        interface = key.interface if key.interface in kept else OTHER
        labels = (interface, key.module, key.verdict, key.reason.replace(" ", "_"))
        packets[labels] += one.packets
        octets[labels] += one.bytes
    yield from _of_rules(ground, found)
    modes = Counter(str(port.mode) for port in found.running)
    yield "pliant_fastpath_packets_total", list(packets.items())
    yield "pliant_fastpath_bytes_total", list(octets.items())
    yield "pliant_fastpath_interfaces_count", [((mode,), count) for mode, count in modes.items()]


def _of_rules(ground: FastpathGround, found: FastpathState) -> Iterator[tuple[str, list[Value]]]:
    """What rules have counted for which the fast path counts as well; of many the first."""
    from pliant.fastpath.rule_counts import read_rule_counts

    packets: list[Value] = []
    octets: list[Value] = []
    for one in read_rule_counts(ground.pins) if found.rule_slots else ():
        if one.fastpath is None or len(packets) >= 2 * MOST_RULES:
            continue
        counter = one.counter
        place = (counter.family, counter.table, counter.chain, str(counter.handle), str(counter.place))
        for by, counted in (("kernel", one.kernel), ("fastpath", one.fastpath)):
            packets.append(((*place, by), counted.packets))
            octets.append(((*place, by), counted.bytes))
    yield "pliant_fastpath_rule_packets_total", packets
    yield "pliant_fastpath_rule_bytes_total", octets


def _policies(agent: Agent) -> list[Value]:
    active, waiting = agent.reconciler.policy_counts()
    return [(("active",), active), (("waiting",), waiting)]


def _connections(agent: Agent) -> list[Value]:
    names = agent.reconciler.names()
    found = read_arms(agent.host.pins, shipped_layout().scope["policy"])
    by_name = {name: found[number] for number, name in names.items() if number in found}
    kept = sorted(by_name)[:MOST_POLICIES]
    shown = {name: by_name[name] for name in kept}
    rest = [by_name[name] for name in by_name.keys() - shown.keys()]
    if rest:
        shown[OTHER] = Arms(sum(a.treated for a in rest), sum(a.held_out for a in rest))
    return [
        ((name, arm), count)
        for name, arms in shown.items()
        for arm, count in (("treated", arms.treated), ("held_out", arms.held_out))
    ]


def _label(outcome: str) -> str:
    return outcome.replace("-", "_")
