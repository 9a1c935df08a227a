// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Minimum retransmission timeout. The kernel lets a program lower it below its default of 200 ms, not raise it.
 */
#include <pliant/feature.h>

#define TCP_BPF_RTO_MIN 1004
#define RTO_MIN_US	200000 /* TCP_RTO_MIN in include/net/tcp.h */

struct setting {
	__u32 microseconds;
};

FEATURE_SETTINGS;

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	return bpf_setsockopt(socket, SOL_TCP, TCP_BPF_RTO_MIN, (void *)&setting->microseconds,
			      sizeof(setting->microseconds));
}

/* A kernel that cannot be asked (before 6.15) has its default: only a program can set another. */
static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	if (bpf_getsockopt(socket, SOL_TCP, TCP_BPF_RTO_MIN, &setting->microseconds, sizeof(setting->microseconds)))
		setting->microseconds = RTO_MIN_US;
	return 0;
}

LIVE_FEATURE(min_rto)
