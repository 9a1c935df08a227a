// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Congestion control: which algorithm the connection runs.
 *
 * Chosen as soon as the connection is judged, so that a connecting socket negotiates what its algorithm needs. A socket
 * that runs the algorithm already is left as it is: choosing it again would start it anew, to no effect.
 */
#include <pliant/kernel.h>
#include <pliant/feature.h>

#define TCP_CONGESTION 13

struct setting {
	char name[TCP_CA_NAME_MAX]; /* ends in NUL */
};

FEATURE_SETTINGS;

static __always_inline bool runs(struct bpf_sock *sk, const char name[TCP_CA_NAME_MAX])
{
	struct inet_connection_sock *connection = (struct inet_connection_sock *)bpf_skc_to_tcp_sock(sk);
	const struct tcp_congestion_ops *ops;

	if (!connection)
		return false;
	ops = connection->icsk_ca_ops;
	for (int i = 0; i < TCP_CA_NAME_MAX; i++) {
		if (ops->name[i] != name[i])
			return false;
		if (!name[i])
			break;
	}
	return true;
}

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting)
{
	struct bpf_sock *sk = ctx->sk;

	if (!setting || !is_judged(ctx))
		return;
	if (sk && runs(sk, setting->name)) {
		count_outcome(FEATURE_APPLIED);
		return;
	}
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_CONGESTION, (void *)setting->name, sizeof(setting->name)));
}

FEATURE(congestion_control)
