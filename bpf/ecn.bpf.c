// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * ECN: the connection asks for explicit congestion notification when it is made (RFC 3168), whatever net.ipv4.tcp_ecn
 * says on this host.
 *
 * It takes a policy at each end. A SYN that asks at a program's word leaves as ECN-capable itself (ECT), as those of
 * DCTCP do, for which a Linux server does not agree to ECN unless its own congestion control, route or policy says so.
 * On the server the policy agrees for any client that asks, also where net.ipv4.tcp_ecn is 0. Connections on which the
 * other end does not agree go on without, and are counted as unchanged.
 */
#include <pliant/feature.h>

#define TCP_ECN_OK 1 /* both ends have agreed to it */

struct setting {
	__u32 is_on;
};

FEATURE_SETTINGS;

static __always_inline bool has_ecn(struct bpf_sock *sk)
{
	struct tcp_sock *tcp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);

	return tcp && tcp->ecn_flags & TCP_ECN_OK;
}

/* The kernel asks more than once about a SYN that comes in, so connections are counted when they are established. */
static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	struct bpf_sock *sk = ctx->sk;

	if (!setting)
		return;
	if (moment == SYN)
		ctx->reply = setting->is_on;
	else if (sk && (moment == ACCEPTED || moment == ESTABLISHED))
		count_outcome(has_ecn(sk) ? FEATURE_APPLIED : FEATURE_UNCHANGED);
}

FEATURE(ecn)
