// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Pacing rate: the fastest the connection may send. TCP paces itself; no particular qdisc is needed.
 */
#include <pliant/feature.h>

#define SO_MAX_PACING_RATE 47

struct setting {
	__u32 bytes_per_second;
};

FEATURE_SETTINGS;

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting)
{
	__u32 rate;

	if (!setting || !is_judged(ctx))
		return;
	rate = setting->bytes_per_second;
	count_result(bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)));
}

FEATURE(pacing_rate)
