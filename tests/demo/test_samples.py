# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pliant.demo.samples import summarise
from pliant.lab import Fetch


def fetches(count: int) -> list[Fetch]:
    return [
        Fetch("http://x/1", 1, connect_s=0.1, first_byte_s=0.2, total_s=0.1 + (i + 1) / 100)
        for i in range(count)
    ]


def test_p99_is_given_from_a_hundred_samples_on() -> None:
    summary = summarise(fetches(100), rtt_s=0.1)
    assert summary.tail_name == "P99"
    assert round(summary.tail_ms, 1) == 1090.1


def test_fewer_samples_give_their_maximum_under_its_own_name() -> None:
    summary = summarise(fetches(99), rtt_s=0.1)
    assert summary.tail_name == "max of 99"
    assert round(summary.tail_ms) == 1090


def test_rounds_count_from_the_end_of_the_handshake() -> None:
    assert round(summarise(fetches(1), rtt_s=0.005).rounds, 3) == 2
