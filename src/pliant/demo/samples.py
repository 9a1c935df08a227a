# SPDX-License-Identifier: Apache-2.0
"""What was measured, and the few numbers that sum it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pliant.lab.fetch import Fetch
from pliant.lab.plot import quantile

ENOUGH_FOR_P99 = 100


@dataclass(frozen=True, slots=True)
class Phase:
    """The fetches of one phase by client and file, and what the server's host counted meanwhile.

    ``near`` and ``far`` map a file's name to its fetches; ``segments_sent`` includes acknowledgements. With
    ``overruns`` the emulated path did not keep up, and the times are not to be trusted.
    """

    name: str
    near: Mapping[str, Sequence[Fetch]]
    far: Mapping[str, Sequence[Fetch]]
    retransmissions: int
    segments_sent: int
    dropped_on_path: int
    overruns: int

    def fetches(self) -> int:
        """How many files were fetched."""
        return sum(len(some) for client in (self.near, self.far) for some in client.values())


@dataclass(frozen=True, slots=True)
class Summary:
    """Completion times in milliseconds and rounds to finish, of one file from one client in one phase."""

    samples: int
    p50_ms: float
    tail_ms: float
    rounds: float

    @property
    def tail_name(self) -> str:
        """What ``tail_ms`` is: the 99th percentile, or the maximum where there are too few samples for one."""
        return tail_name(self.samples)


def tail_name(samples: int) -> str:
    """How the upper end of so many samples may be called."""
    return "P99" if samples >= ENOUGH_FOR_P99 else f"max of {samples}"


def tail_share(samples: int) -> float:
    """Which quantile stands for the upper end of so many samples; 1 is the maximum."""
    return 0.99 if samples >= ENOUGH_FOR_P99 else 1.0


def summarise(fetches: Sequence[Fetch], rtt_s: float) -> Summary:
    """Sum fetches up; ``rtt_s`` is the base round-trip time that a round takes."""
    times_ms = milliseconds(fetches)
    tail = quantile(times_ms, tail_share(len(times_ms)))
    rounds = quantile([fetch.rounds(rtt_s) for fetch in fetches], 0.5)
    return Summary(len(fetches), quantile(times_ms, 0.5), tail, rounds)


def milliseconds(fetches: Sequence[Fetch]) -> list[float]:
    """Completion times."""
    return [fetch.total_s * 1000 for fetch in fetches]
