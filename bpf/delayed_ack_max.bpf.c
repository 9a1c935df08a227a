// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Maximum delay of an acknowledgement (RFC 1122, 4.2.3.2). The kernel lets a program lower it below its default of
 * 200 ms, not raise it.
 *
 * The kernel adapts the delay to the data's pace from 40 ms on, so what is above that only ends the adaption earlier. A
 * sender whose minimum RTO is below our delay takes a delayed acknowledgement for a loss: lower this together with
 * min_rto, on both ends. Where min_rto is lowered the kernel acknowledges a jiffy before that anyway.
 */
#include <pliant/feature.h>

#define TCP_BPF_DELACK_MAX 1003
#define DELACK_MAX_US	   200000 /* TCP_DELACK_MAX in include/net/tcp.h */

struct setting {
	__u32 microseconds;
};

FEATURE_SETTINGS;

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	return bpf_setsockopt(socket, SOL_TCP, TCP_BPF_DELACK_MAX, (void *)&setting->microseconds,
			      sizeof(setting->microseconds));
}

/* A kernel that cannot be asked (before 6.15) has its default: only a program can set another. */
static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	if (bpf_getsockopt(socket, SOL_TCP, TCP_BPF_DELACK_MAX, &setting->microseconds, sizeof(setting->microseconds)))
		setting->microseconds = DELACK_MAX_US;
	return 0;
}

LIVE_FEATURE(delayed_ack_max)
