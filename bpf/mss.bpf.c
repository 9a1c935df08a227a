// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Maximum segment size that a connecting socket offers, and keeps to itself (RFC 9293, 3.7.1).
 *
 * Set before the SYN leaves. The peer sends no larger segments, and neither do we: the kernel takes it for both ways.
 * It includes the options that every segment carries, so with timestamps 12 bytes less are payload. Larger than what
 * the route has room for it has no effect.
 *
 * Connections that the service accepts keep what they have (they count as unchanged). Their SYN-ACK carries the MSS of
 * the listener, or of the route (ip route ... advmss), and has left before the connection is judged; the kernel does
 * not look at TCP_MAXSEG again after that.
 */
#include <pliant/feature.h>

#define TCP_MAXSEG 2

struct setting {
	__u32 bytes;
};

FEATURE_SETTINGS;

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	__u32 bytes;

	if (!setting || !is_judged(moment))
		return;
	if (moment == ACCEPTED) {
		count_outcome(FEATURE_UNCHANGED);
		return;
	}
	bytes = setting->bytes;
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_MAXSEG, &bytes, sizeof(bytes)));
}

FEATURE(mss)
