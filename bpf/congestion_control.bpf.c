// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Congestion control: which algorithm the connection runs.
 *
 * Chosen as soon as the connection is judged, so that a connecting socket negotiates what its algorithm needs. A socket
 * that runs the algorithm already is left as it is: choosing it again would start it anew, to no effect.
 *
 * An accepted connection is judged when ECN has been agreed on or not. So where its algorithm needs ECN, the kernel is
 * told so when the SYN comes in.
 */
#define ANSWERS_SYN
#include <pliant/feature.h>

#define TCP_CONGESTION 13

struct setting {
	char name[TCP_CA_NAME_MAX]; /* ends in NUL */
	__u32 needs_ecn;	    /* the algorithm cannot do without */
};

FEATURE_SETTINGS;

/* Both names are filled up with zeros, and are compared as the two words that they are. */
static __always_inline bool runs(struct sock *sk, const char name[TCP_CA_NAME_MAX])
{
	const struct tcp_congestion_ops *ops = ((struct inet_connection_sock *)sk)->icsk_ca_ops;
	const __u64 *running = (const __u64 *)ops->name, *wanted = (const __u64 *)name;

	return running[0] == wanted[0] && running[1] == wanted[1];
}

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	if (runs(sk, setting->name))
		return 0;
	return bpf_setsockopt(socket, SOL_TCP, TCP_CONGESTION, (void *)setting->name, sizeof(setting->name));
}

static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	return bpf_getsockopt(socket, SOL_TCP, TCP_CONGESTION, setting->name, sizeof(setting->name));
}

static __always_inline void answer_syn(struct bpf_sock_ops *ctx, const struct setting *setting)
{
	if (setting->needs_ecn)
		ctx->reply = 1;
}

LIVE_FEATURE(congestion_control)
