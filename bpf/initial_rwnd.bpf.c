// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Initial receive window: how many segments the peer may send before it hears from us again.
 *
 * The kernel asks for it as it makes the SYN, and as it answers one; it multiplies it by the MSS. A window on a SYN or
 * SYN-ACK is never scaled, so what they offer ends at 64 KiB, and the rest comes with the next acknowledgement. On a
 * connecting socket it can only lower the window, which is half the receive buffer otherwise (net.ipv4.tcp_rmem). On an
 * accepted one it can raise it, too, beyond what the buffer has room for at first: the kernel grows the buffer as data
 * comes in. The window goes on as usual from there, see receive_window_max for one that stays.
 *
 * A connection that is accepted by SYN cookie has none: nothing is kept of it to be asked about.
 */
#include <pliant/feature.h>

struct setting {
	__u32 segments;
};

FEATURE_SETTINGS;

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	if (!setting || moment != SYN)
		return;
	ctx->reply = setting->segments;
	count_outcome(FEATURE_APPLIED);
}

FEATURE(initial_rwnd)
