// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Largest receive window: how much the peer may have in flight towards us.
 */
#include <pliant/feature.h>

#define TCP_WINDOW_CLAMP 10

struct setting {
	__u32 bytes;
};

FEATURE_SETTINGS;

SEC("sockops") int receive_window_max(struct bpf_sock_ops *ctx)
{
	struct setting *setting;
	int bytes;

	if (!is_established(ctx))
		return 1;
	setting = setting_of(ctx);
	if (!setting)
		return 1;
	bytes = setting->bytes;
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_WINDOW_CLAMP, &bytes, sizeof(bytes)));
	return 1;
}
