// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Send buffer: how much memory what was written, and is not acknowledged yet, may take.
 *
 * Setting it locks it: the kernel no longer fits the buffer to the path, which it otherwise does up to the last value
 * of net.ipv4.tcp_wmem. Smaller than twice the bandwidth-delay product it is the limit of throughput. No interface
 * unlocks it for a program (SO_BUF_LOCK is for applications only), so it cannot be taken back, and is for new
 * connections only. An application that sets SO_SNDBUF itself after this has its way.
 *
 * The other buffer is what receive_window_max sets.
 */
#include <pliant/feature.h>

#define SO_SNDBUF 7

struct setting {
	__u32 bytes;
};

FEATURE_SETTINGS;

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	__u32 half;

	if (!setting || !is_judged(moment))
		return;
	half = setting->bytes / 2; /* the kernel doubles what it is given, see socket(7) */
	count_result(bpf_setsockopt(ctx, SOL_SOCKET, SO_SNDBUF, &half, sizeof(half)));
}

FEATURE(send_buffer)
