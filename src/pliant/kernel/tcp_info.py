# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells about a TCP connection: ``struct tcp_info`` (tcp(7)), by the names of its fields."""

from __future__ import annotations

import struct

# struct tcp_info as of Linux 5.5 (linux/tcp.h); later kernels only append, and give back as much as is asked.
_LAYOUT = struct.Struct("=8B24I4Q6I4Q2I2Q4I")
_NAMES = (  # noqa: SIM905 - a list of 57 names would take as many lines
    "state ca_state retransmits probes backoff options wscale flags "
    "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets "
    "last_data_sent last_ack_sent last_data_recv last_ack_recv "
    "pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss reordering rcv_rtt rcv_space total_retrans "
    "pacing_rate max_pacing_rate bytes_acked bytes_received "
    "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out "
    "delivery_rate busy_time rwnd_limited sndbuf_limited delivered delivered_ce "
    "bytes_sent bytes_retrans dsack_dups reord_seen rcv_ooopack snd_wnd"
).split()

TCP_INFO_BYTES = _LAYOUT.size
"""How much of the structure is read."""

STATES = (
    "unknown",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
)
"""The states of a TCP socket by number (net/tcp_states.h)."""

OPTION_ECN = 8
"""TCPI_OPT_ECN: in the field ``options`` of a connection that has negotiated ECN."""

NO_MIN_RTT = 2**32 - 1
"""The value of ``min_rtt`` while no round trip was measured."""


def unpack_tcp_info(raw: bytes) -> dict[str, int]:
    """Return tcp_info by field, without the prefix ``tcpi_``; fields an old kernel lacks are 0."""
    whole = raw[:TCP_INFO_BYTES].ljust(TCP_INFO_BYTES, b"\0")
    return dict(zip(_NAMES, _LAYOUT.unpack(whole), strict=True))


def state_name(number: int) -> str:
    """Return the name of a socket's state; the number itself where a newer kernel has a state more."""
    return STATES[number] if number < len(STATES) else str(number)
