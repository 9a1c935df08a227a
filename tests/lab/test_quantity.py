# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from pliant.errors import PliantError
from pliant.lab import quantity
from pliant.lab.medium import netem_arguments
from pliant.lab.path import PathSpec
from pliant.lab.quantity import Depth


def test_quantities_are_read() -> None:
    assert quantity.rate_bits_per_s("100Mbit") == 100_000_000
    assert quantity.rate_bits_per_s("2.5 gbit") == 2_500_000_000
    assert quantity.time_ns("0.5ms") == 500_000
    assert quantity.share("0.1%") == pytest.approx(0.001)
    assert quantity.depth("30 packets") == Depth(packets=30)
    assert quantity.depth("64KiB") == Depth(bytes=65536)
    assert quantity.depth("2BDP", rate=100_000_000, rtt_ns=80_000_000) == Depth(bytes=2_000_000)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (quantity.rate_bits_per_s, "fast", "'fast' is not a rate"),
        (quantity.rate_bits_per_s, "0Mbit", "above zero"),
        (quantity.time_ns, "10", "'10' is not a time; write it like '40ms'"),
        (quantity.share, "0.1", "write it like '1%'"),
        (quantity.share, "101%", "not a share"),
        (quantity.depth, "1BDP", "both a rate and a delay"),
        (quantity.depth, "3 trucks", "not a queue depth"),
    ],
)
def test_what_cannot_be_read_is_told(read: object, text: str, message: str) -> None:
    assert callable(read)
    with pytest.raises(PliantError, match=message):
        read(text)


def test_queue_holds_one_product_unless_told() -> None:
    assert PathSpec(rate="100Mbit", delay="40ms").settings().queue == Depth(bytes=1_000_000)
    assert PathSpec(rate="100Mbit").settings().queue == Depth(bytes=64_000)
    assert PathSpec(rate="100Mbit").settings(offloads=True).queue == Depth(bytes=256_000)
    assert PathSpec(delay="40ms").settings().queue is None


def test_netem_limit_holds_the_wire_and_the_queue() -> None:
    setting = PathSpec(rate="120Mbit", delay="10ms", loss="1%", queue="50 packets").settings()
    assert netem_arguments(setting) == "delay 10000us loss 1% rate 120000000bit limit 151"
