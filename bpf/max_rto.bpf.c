// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Maximum retransmission timeout: where exponential backoff ends (RFC 6298, 2.5).
 *
 * The kernel's is 120 s (net.ipv4.tcp_rto_max_ms). With a lower one, a connection over a path that was down for minutes
 * goes on within that time of the path's return. The kernel takes 1 s or more, from Linux 6.15 on. Giving up comes with
 * it, for net.ipv4.tcp_retries2 is taken as the time that so many retransmissions last with this maximum.
 */
#include <pliant/feature.h>

#define TCP_RTO_MAX_MS 44

struct setting {
	__u32 milliseconds;
};

FEATURE_SETTINGS;

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	return bpf_setsockopt(socket, SOL_TCP, TCP_RTO_MAX_MS, (void *)&setting->milliseconds,
			      sizeof(setting->milliseconds));
}

static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	return bpf_getsockopt(socket, SOL_TCP, TCP_RTO_MAX_MS, &setting->milliseconds, sizeof(setting->milliseconds));
}

LIVE_FEATURE(max_rto)
