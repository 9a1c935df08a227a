# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path

from pliant.agent.daemon.metrics import METRICS

DASHBOARD = json.loads((Path(__file__).parents[2] / "packaging/grafana/pliant.json").read_text())
OF_HISTOGRAMS = re.compile(r"_(bucket|sum|count)$")
LABELS = re.compile(r"by \(([a-z_, ]+)\)")
ADDED_BY_PROMETHEUS = {"instance", "le"}


def queries() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return found + [v["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]


def declared(name: str) -> str:
    base = OF_HISTOGRAMS.sub("", name)
    return base if base in METRICS and METRICS[base].type == "histogram" else name


def test_every_metric_that_the_dashboard_asks_for_is_declared() -> None:
    assert len(queries()) > 10
    for query in queries():
        names = {declared(name) for name in re.findall(r"pliant_\w+", query)}
        assert names, query
        assert names <= METRICS.keys(), query


def test_every_label_that_the_dashboard_groups_by_is_one_of_the_metric() -> None:
    for query in queries():
        known = {label for n in re.findall(r"pliant_\w+", query) for label in METRICS[declared(n)].labels}
        for labels in LABELS.findall(query):
            assert set(labels.split(", ")) <= known | ADDED_BY_PROMETHEUS, query


def test_panels_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_names_and_labels_follow_the_rules() -> None:
    for metric in METRICS.values():
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert re.fullmatch(r"pliant_[a-z]+(_[a-z]+)+", metric.name)
        assert metric.help.endswith(".")
