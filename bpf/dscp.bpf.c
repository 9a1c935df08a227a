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

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	int traffic_class = setting->code_point << 2;

	if (is_ipv4(sk))
		return bpf_setsockopt(socket, SOL_IP, IP_TOS, &traffic_class, sizeof(traffic_class));
	return bpf_setsockopt(socket, SOL_IPV6, IPV6_TCLASS, &traffic_class, sizeof(traffic_class));
}

static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	int traffic_class = 0;
	long result;

	if (is_ipv4(sk))
		result = bpf_getsockopt(socket, SOL_IP, IP_TOS, &traffic_class, sizeof(traffic_class));
	else
		result = bpf_getsockopt(socket, SOL_IPV6, IPV6_TCLASS, &traffic_class, sizeof(traffic_class));
	setting->code_point = (traffic_class & 255) >> 2;
	return result;
}

LIVE_FEATURE(dscp)
