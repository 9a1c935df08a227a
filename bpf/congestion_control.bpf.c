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

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting)
{
	if (!setting || !is_judged(ctx))
		return;
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_CONGESTION, (void *)setting->name, sizeof(setting->name)));
}

FEATURE(congestion_control)
