# SPDX-License-Identifier: Apache-2.0
"""Each benchmark once, as small as it goes, through the code that measures: what it yields, never how fast."""

from __future__ import annotations

import ipaddress
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.bench import (
    Options,
    Result,
    benches,
    connect,
    dctcp,
    modules,
    overhead,
    routes_750k,
    run_bench,
    shared_window,
)
from pliant.bench.place import private_mounts
from pliant.bench.policies import initial_cwnd, policies_text
from pliant.errors import PliantError
from pliant.features import catalogue, features
from pliant.features.controls import shipped_controls
from pliant.kernel import cgroups
from pliant.policy.documents import load_policies

root = pytest.mark.root
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="unsupported: wrk is not installed")


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    def groups() -> set[str]:
        mark = f"pliant-lab-{os.getpid()}-"
        return {c.path for c in cgroups.walk(cgroups.find_root()) if mark in c.path}

    mounts = private_mounts()
    before = groups()  # a lab of other tests may live as long as the session
    yield
    assert groups() <= before
    for place in mounts.bpffs.iterdir():
        if place.is_dir():
            assert not list(place.rglob("*")), f"pins left in {place}"


def measured(result: Result) -> dict[str, float]:
    return {measure.metric: measure.median for measure in result.results}


@root
@needs_wrk
@pytest.mark.usefixtures("leaves_nothing")
def test_connect_measures_the_ratio_each_program_and_a_service_without_policy() -> None:
    found = measured(run_bench("connect", 2, scale=0.1))
    programs = {f"{name}_ns" for name in ("scope", *connect.SIX)}
    rates = {"connections_with_per_s", "connections_without_per_s"}
    assert found.keys() == programs | rates | {
        "connect_ratio",
        "connect_all_ratio",
        "total_ns",
        "program_runs",
        "unmatched_runs",
    }
    assert found["unmatched_runs"] == 0
    differences = {f"{name}_ns" for name in connect.SIX}  # of two windows, each too short here to tell much
    assert all(value > 0 for metric, value in found.items() if metric not in {"unmatched_runs", *differences})
    assert found["scope_ns"] < found["total_ns"]


@pytest.mark.parametrize("runs", [1, 10])
def test_the_load_of_connect_is_bounded_by_what_its_runs_can_need(runs: int) -> None:
    assert 60 < connect.longest_s(Options(runs)) <= 60 + runs * 60


def test_more_runs_than_the_load_may_last_for_are_refused() -> None:
    with pytest.raises(PliantError, match="1000 runs may take longer than 15 minutes"):
        connect.longest_s(Options(1000))


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_apply_measures_one_policy_many_and_memory_under_the_names_of_the_sizes_it_used() -> None:
    found = measured(run_bench("apply", 1, scale=0.01))
    assert {"apply_1_ms", "apply_1_cold_ms"} <= found.keys()
    assert {"apply_100_s", "apply_100_rss_mb", "apply_1_of_100_ms"} <= found.keys()
    assert all(value > 0 for value in found.values())
    assert found["apply_100_rss_mb"] < 1000


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_off_measures_both_ways_and_sees_every_socket_restored() -> None:
    found = measured(run_bench("off", 1, scale=0.01))
    assert found.keys() == {"off_ms", "on_ms", "connections", "sockets_restored"}
    assert (found["connections"], found["sockets_restored"]) == (100, 200)


@root
@pytest.mark.usefixtures("only_registrar", "leaves_nothing")
def test_dctcp_measures_queue_rate_and_fairness_of_each_mix() -> None:
    found = measured(run_bench("dctcp", 1, scale=0.04))
    each = (
        "queue_p50_packets",
        "queue_p99_packets",
        "goodput_mbit",
        "fairness",
        "marked_packets",
        "dropped_packets",
    )
    names = {f"{mix}_{metric}" for mix in dctcp.MIXES for metric in each}
    assert found.keys() == names | {"mixed_pliant_dctcp_share"}
    assert all(found[f"{mix}_marked_packets"] > 0 for mix in ("pliant_dctcp", "cubic_ecn", "mixed"))
    assert found["cubic_marked_packets"] == found["pliant_cubic_marked_packets"] == 0
    assert all(0.25 <= found[f"{mix}_fairness"] <= 1 for mix in dctcp.MIXES)


def test_jain_is_one_for_equal_shares_and_a_share_each_for_one_flow_that_has_all() -> None:
    assert dctcp.jain([3, 3, 3, 3]) == 1
    assert dctcp.jain([5, 0, 0, 0]) == 0.25


@root
@needs_wrk
@pytest.mark.usefixtures("only_registrar", "leaves_nothing")
def test_overhead_measures_each_feature_at_both_ends_and_each_round_trip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("egress_bandwidth", "flow_rehash", overhead.REFERENCE)  # every feature would take a minute
    monkeypatch.setattr(overhead, "features", lambda: {name: features()[name] for name in names})
    found = measured(run_bench("overhead", 1, scale=0.1))
    ends = {
        case.metric for name in names for role in overhead.SERVICES for case in overhead.cases(name, role)
    }
    assert {"notsent_lowat_server_live_ns", "notsent_lowat_client_ns", "flow_rehash_server_ns"} <= ends
    assert "flow_rehash_server_live_ns" not in ends
    roles = {f"{what}_{role}" for what in ("scope", "measuring") for role in overhead.SERVICES}
    round_trips = {f"{name}_round_trip_{what}" for name in names for what in ("ns", "runs")}
    scope = {f"scope_{role}_runs" for role in overhead.SERVICES}
    controls = {f"{name}_round_trip_{what}" for name in shipped_controls() for what in ("ns", "runs")}
    expected = ends | {f"{name}_ns" for name in roles} | scope | round_trips | controls
    assert found.keys() == expected | {"egress_bandwidth_packet_ns"}
    assert all(found[metric] > 0 for metric in ("scope_server_ns", "scope_client_ns", *scope))
    assert all(found[metric] > 0 for metric in ("egress_bandwidth_packet_ns", *controls))
    assert {metric for metric in round_trips if found[metric]} == {
        "egress_bandwidth_round_trip_ns",
        "egress_bandwidth_round_trip_runs",
    }


def test_startup_measures_whole_processes() -> None:
    assert measured(run_bench("startup", 1)).keys() == {"help_ms", "version_ms"}


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_attach_measures_arrivals_and_departures() -> None:
    found = measured(run_bench("attach", 1, scale=0.03))
    assert found.keys() == {"attach_ms", "attach_ms_p99", "detach_ms_p99"}
    assert 0 < found["attach_ms"] <= found["attach_ms_p99"]
    assert found["detach_ms_p99"] > 0


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_agent_measures_processor_time_and_memory() -> None:
    found = measured(run_bench("agent", 1, scale=0.02))
    assert found.keys() == {"idle_cpu_ratio", "rss_mb"}
    assert found["idle_cpu_ratio"] >= 0
    assert found["rss_mb"] > 1


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_lazy_measures_the_same_connections_with_the_program_here_and_at_the_root() -> None:
    found = measured(run_bench("lazy", 2, scale=0.02))
    shared = {f"{which}_{what}" for which in ("lazy", "always") for what in ("ns", "runs")}
    assert found.keys() == shared | {"lazy_cpu_saved_ratio"}
    assert 0 < found["lazy_runs"] < found["always_runs"]
    assert found["lazy_cpu_saved_ratio"] < 1


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_shared_window_compares_every_setting_on_both_paths() -> None:
    found = measured(run_bench("shared-window", 1, scale=0.02))
    for path in shared_window.PATHS:
        for setting in shared_window.settings():
            assert all(found[f"{path.name}_{setting}_slowdown_p{p}"] > 0.9 for p in shared_window.PERCENTILES)
            assert 0 <= found[f"{path.name}_{setting}_retransmitted_ratio"] < 1
    ratios = {metric for metric in found if metric.endswith("_ratio") and "_to_" in metric}
    assert len(ratios) == len(shared_window.PATHS) * len(shared_window.STATIC) * len(
        shared_window.PERCENTILES
    )


@root
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", ["router", "nat"])
def test_both_families_are_compared_with_and_without_the_generator(name: str) -> None:
    found = measured(run_bench(name, 1, scale=0.02))
    assert found.keys() - {
        f"{m}_xdp_forward_{what}" for m in (name, f"{name}6") for what in ("mpps", "ratio")
    } == {
        f"{metric}_{what}"
        for metric in (name, f"{name}6")
        for what in ("kernel_mpps", "pliant_mpps", "drop_mpps", "ratio", "net_ratio")
    }
    assert all(value > 0 for value in found.values())


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_reaction_measures_every_kind_of_change() -> None:
    found = measured(run_bench("reaction", 1, scale=0.02))
    kinds = {f"reaction_{kind}_ms" for kind in ("rule", "mtu", "netconf", "link", "nft", "interface")}
    assert found.keys() == kinds | {"reaction_ms", "reaction_ms_p99", "reaction_wide_rule_ms", "disabled_ms"}
    assert all(value > 0 for value in found.values())


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_overlay_compares_pods_of_a_node_and_of_two() -> None:
    found = measured(run_bench("overlay", 1, scale=0.1))
    ratios = {
        f"overlay_{at}{kind}_ratio"
        for at in ("node", "wire")
        for kind in ("", "_turns", "_messages", "_bulk")
    }
    assert ratios | {"overlay_bulk_ratio"} <= found.keys()
    assert all(value > 0 for value in found.values())


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_gateway_compares_rules_sets_and_rules_without_state() -> None:
    found = measured(run_bench("gateway", 1, scale=0.02))
    assert found.keys() == {
        f"{metric}_{what}"
        for metric in ("gateway", "gateway_sets", "gateway_stateless", "gateway_counters")
        for what in ("kernel_mpps", "pliant_mpps", "drop_mpps", "ratio", "net_ratio")
    }
    assert all(value > 0 for value in found.values())


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_routes_750k_compares_and_weighs_our_tables() -> None:
    found = measured(run_bench("routes_750k", 1, scale=0.004))
    rates = {f"routes_750k_{what}_mpps" for what in ("kernel", "pliant", "drop")}
    ratios = {"routes_750k_ratio", "routes_750k_net_ratio"}
    tables = {"routes_750k_tables_mb", "routes_750k_tables_growth_bytes"}
    assert found.keys() == rates | ratios | tables
    assert found["routes_750k_tables_growth_bytes"] == 0
    assert all(found[metric] > 0 for metric in rates | ratios | {"routes_750k_tables_mb"})


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_latency_compares_percentiles() -> None:
    found = measured(run_bench("latency", 1, scale=0.02))
    percentiles = {f"latency_{who}_p{p}_us" for who in ("kernel", "pliant") for p in (50, 99)}
    assert found.keys() == percentiles | {"latency_p50_ratio", "latency_p99_ratio"}
    assert all(
        0 < found[f"latency_{who}_p50_us"] <= found[f"latency_{who}_p99_us"] for who in ("kernel", "pliant")
    )


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_modules_measures_every_case_with_the_verdict_it_should_have() -> None:
    found = measured(run_bench("modules", 1, scale=0.05))
    assert found.keys() == {case.metric for case in modules.CASES}
    assert all(
        found[metric] > 0 for metric in ("route4_ns", "route6_ns", "route4_first_ns", "route6_first_ns")
    )


def test_routes_for_benchmarks_are_as_many_as_asked_for_and_all_different() -> None:
    found = routes_750k.prefixes(random.Random(1), 5000)
    assert len(set(map(ipaddress.ip_network, found))) == 5000


@root
@pytest.mark.usefixtures("leaves_nothing")
def test_bridge_compares_few_and_many_stations() -> None:
    found = measured(run_bench("bridge", 1, scale=0.02))
    assert found.keys() == {
        f"{metric}_{what}"
        for metric in ("bridge", "bridge_stations")
        for what in ("kernel_mpps", "pliant_mpps", "drop_mpps", "ratio", "net_ratio")
    }
    assert all(value > 0 for value in found.values())


def test_every_benchmark_has_a_test_of_its_own_here() -> None:
    assert set(benches()) == {
        "agent",
        "apply",
        "attach",
        "bridge",
        "connect",
        "dctcp",
        "effect",
        "gateway",
        "instructions",
        "latency",
        "lazy",
        "modules",
        "nat",
        "off",
        "overhead",
        "overlay",
        "reaction",
        "router",
        "routes_750k",
        "shared-window",
        "startup",
    }


def test_many_policies_load_and_none_is_like_another() -> None:
    services = [f"/made/{letter}.service" for letter in "abc"]
    policies = load_policies(policies_text(9, services), "made", catalogue())
    assert len({(p.spec.match.service, p.prefixes) for p in policies}) == 9
    assert policies[4].tune_values["initial_cwnd"] == initial_cwnd(4, 0)


def test_a_variant_of_a_policy_has_the_same_match_and_another_value() -> None:
    first, second = (
        load_policies(policies_text(3, ["/made/a.service"], variant=variant), "made", catalogue())
        for variant in (0, 1)
    )
    assert [p.spec.match for p in first] == [p.spec.match for p in second]
    assert all(a.tune_values != b.tune_values for a, b in zip(first, second, strict=True))


@root
@needs_wrk
def test_an_interrupted_benchmark_leaves_nothing_behind(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with errors.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "pliant.bench", "connect"], stderr=sink, start_new_session=True
        )
    deadline = time.monotonic() + 60
    while "alternation 1" not in errors.read_text():
        assert process.poll() is None, errors.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(30) != 0
    assert not [c.path for c in cgroups.walk(cgroups.find_root()) if f"pliant-lab-{process.pid}-" in c.path]
    assert not list(Path("/tmp").glob(f"pliant-lab-{process.pid}-*"))


def test_effect_measures_how_often_statements_are_wrong() -> None:
    found = measured(run_bench("effect", 1, scale=0.05))
    ratios = {
        "aa_first_false_alarm_ratio",
        "aa_others_false_alarm_ratio",
        "planted_missed_ratio",
        "planted_seen_ratio",
        "guard_false_alarm_ratio",
    }
    assert found.keys() == ratios | {"guard_harm_held_out_connections"}
    assert all(0 <= found[metric] <= 1 for metric in ratios)
    assert found["guard_harm_held_out_connections"] > 0
