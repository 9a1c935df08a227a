# SPDX-License-Identifier: Apache-2.0
"""``pliant fastpath counters``."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pliant.cli import output as out
from pliant.cli.context import open_host, output_option

if TYPE_CHECKING:
    from pliant.fastpath.counters import Key
    from pliant.fastpath.rule_counts import RuleCount
    from pliant.kernel.packet_counts import Counted

_BEGINS = re.compile(r"\s*(table|chain) (.*?) \{(?: # handle \d+)?$")
_RULE = re.compile(r"\s*(.*) # handle (\d+)$")

Texts = Mapping[tuple[str, str, str, int], str]
"""Rules as nft(8) shows them, by family, table, chain and handle."""


@click.command()
@click.option(
    "--rules",
    is_flag=True,
    help="Of rules of nftables that count: what the kernel has counted, what the fast path has, and the sum.",
)
@output_option("table", "json", "yaml")
@click.pass_context
def counters(ctx: click.Context, rules: bool, output: str) -> None:
    """Show what became of packets, by interface, module, verdict and reason.

    With --rules: what rules of nftables have counted. nft and iptables show the kernel's part of it alone, where
    spec.ruleCounters is 'combined'; 'nft reset' and 'iptables -Z' reset that part.
    """
    from pliant.fastpath.counters import read_counters
    from pliant.fastpath.rule_counts import read_rule_counts

    with open_host(ctx) as host:
        pins = host.fastpath.pins
        if rules:
            _show_rules(read_rule_counts(pins), output)
        else:
            _show(read_counters(pins, host.fastpath.found()), output)


def _show(found: Mapping[Key, Counted], output: str) -> None:
    if output != "table":
        out.data([document(key, one) for key, one in found.items()], output)
        return
    out.table(
        ("interface", "module", "verdict", "reason", "packets", "bytes"),
        [(*key[:3], key.reason or "-", f"{one.packets:,}", f"{one.bytes:,}") for key, one in found.items()],
        nothing="the fast path has counted nothing",
    )


def document(key: Key, one: Counted) -> dict[str, Any]:
    """A counter of an interface as plain data."""
    return {**key._asdict(), "reason": key.reason or None, "packets": one.packets, "bytes": one.bytes}


def _show_rules(found: Sequence[RuleCount], output: str) -> None:
    texts = rule_texts()
    if output != "table":
        out.data([_rule_document(one, texts) for one in found], output)
        return
    out.table(
        ("family", "table", "chain", "handle", "kernel", "fast path", "sum", "bytes", "rule"),
        [_row(one, texts) for one in found],
        nothing="no rule of nftables counts",
    )


def _row(one: RuleCount, texts: Texts) -> tuple[str, ...]:
    counter = one.counter
    return (
        *(counter.family, counter.table, counter.chain, str(counter.handle or "policy")),
        f"{one.kernel.packets:,}",
        "-" if one.fastpath is None else f"{one.fastpath.packets:,}",
        f"{one.sum.packets:,}",
        f"{one.sum.bytes:,}",
        _text(one, texts),
    )


def _rule_document(one: RuleCount, texts: Texts) -> dict[str, Any]:
    counter = one.counter
    return {
        "family": counter.family,
        "table": counter.table,
        "chain": counter.chain,
        "handle": counter.handle or None,
        "counter": counter.place,
        "rule": _text(one, texts) or None,
        "kernel": one.kernel._asdict(),
        "fastpath": None if one.fastpath is None else one.fastpath._asdict(),
        "sum": one.sum._asdict(),
    }


def _text(one: RuleCount, texts: Texts) -> str:
    counter = one.counter
    return texts.get((counter.family, counter.table, counter.chain, counter.handle), "")


def rule_texts() -> Texts:
    """What nft(8) shows of the rules there are; nothing where it is not installed."""
    try:
        shown = subprocess.run(
            ["nft", "-a", "-s", "list", "ruleset"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return read_texts(shown)


def read_texts(shown: str) -> Texts:
    """Read what ``nft -a -s list ruleset`` shows."""
    found: dict[tuple[str, str, str, int], str] = {}
    family = table = chain = ""
    for line in shown.splitlines():
        if begins := _BEGINS.match(line):
            kind, name = begins.groups()
            if kind == "table":
                family, _, table = name.partition(" ")
            chain = name if kind == "chain" else ""
        elif chain and (rule := _RULE.match(line)):
            found[family, table, chain, int(rule[2])] = rule[1]
    return found
