// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Minimum retransmission timeout. The kernel lets a program lower it below its default of 200 ms, not raise it.
 */
#include <pliant/feature.h>

#define TCP_BPF_RTO_MIN 1004

struct setting {
	__u32 microseconds;
};

FEATURE_SETTINGS;

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting)
{
	int microseconds;

	if (!setting || !is_judged(ctx))
		return;
	microseconds = setting->microseconds;
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_RTO_MIN, &microseconds, sizeof(microseconds)));
}

FEATURE(min_rto)
