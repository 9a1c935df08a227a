// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Differentiated services code point of what the connection sends (RFC 2474); the two ECN bits stay as they are.
 */
#include <pliant/feature.h>

#define IP_TOS	    1
#define IPV6_TCLASS 67

struct setting {
	__u32 code_point; /* 0 to 63 */
};

FEATURE_SETTINGS;

static __always_inline bool is_v4_mapped(struct bpf_sock_ops *ctx)
{
	return !ctx->remote_ip6[0] && !ctx->remote_ip6[1] && ctx->remote_ip6[2] == bpf_htonl(0xffff);
}

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting)
{
	int traffic_class;

	if (!setting || !is_judged(ctx))
		return;
	traffic_class = setting->code_point << 2;
	if (ctx->family == AF_INET || is_v4_mapped(ctx))
		count_result(bpf_setsockopt(ctx, SOL_IP, IP_TOS, &traffic_class, sizeof(traffic_class)));
	else
		count_result(bpf_setsockopt(ctx, SOL_IPV6, IPV6_TCLASS, &traffic_class, sizeof(traffic_class)));
}

FEATURE(dscp)
