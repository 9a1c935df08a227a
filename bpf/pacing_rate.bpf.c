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

SEC("sockops") int pacing_rate(struct bpf_sock_ops *ctx)
{
	struct setting *setting;
	__u32 rate;

	if (!is_judged(ctx))
		return 1;
	setting = setting_of(ctx);
	if (!setting)
		return 1;
	rate = setting->bytes_per_second;
	count_result(bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)));
	return 1;
}
