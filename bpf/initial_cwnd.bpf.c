// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Initial congestion window: how many segments may be sent before the first acknowledgement.
 *
 * Set when the handshake completes; the kernel refuses it (EINVAL) once data beyond a SYN has been sent.
 */
#include <pliant/feature.h>

#define TCP_BPF_IW 1001

struct setting {
	__u32 segments;
};

FEATURE_SETTINGS;

SEC("sockops") int initial_cwnd(struct bpf_sock_ops *ctx)
{
	struct setting *setting;
	int segments;

	if (!is_established(ctx))
		return 1;
	setting = setting_of(ctx);
	if (!setting)
		return 1;
	segments = setting->segments;
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_IW, &segments, sizeof(segments)));
	return 1;
}
