// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Congestion control: which algorithm the connection runs.
 *
 * Chosen as soon as the connection is judged, so that a connecting socket negotiates what its algorithm needs.
 */
#include <pliant/feature.h>

#define TCP_CONGESTION	13
#define TCP_CA_NAME_MAX 16

struct setting {
	char name[TCP_CA_NAME_MAX]; /* ends in NUL */
};

FEATURE_SETTINGS;

SEC("sockops") int congestion_control(struct bpf_sock_ops *ctx)
{
	struct setting *setting;

	if (!is_judged(ctx))
		return 1;
	setting = setting_of(ctx);
	if (!setting)
		return 1;
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_CONGESTION, setting->name, sizeof(setting->name)));
	return 1;
}
