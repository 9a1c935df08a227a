// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * SYN timeout: after how long an unanswered SYN, or SYN-ACK, is sent again; the kernel's own is a second (RFC
 * 6298, 2.1).
 *
 * The time doubles with each attempt, on a connecting socket after the first net.ipv4.tcp_syn_linear_timeouts of them
 * (Linux 6.5; 4). The number of attempts stays, net.ipv4.tcp_syn_retries and tcp_synack_retries, so a connection that
 * cannot be made is given up sooner, too. Shorter than the round trip it only makes duplicates; and a handshake that
 * needed more than one leaves a window of one segment to begin with.
 *
 * The kernel asks for it in jiffies, whose length a program does not know: user space does.
 */
#include <pliant/feature.h>

struct setting {
	__u32 jiffies;
};

FEATURE_SETTINGS;

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	if (!setting || moment != SYN)
		return;
	ctx->reply = setting->jiffies;
	count_outcome(FEATURE_APPLIED);
}

FEATURE(syn_timeout)
