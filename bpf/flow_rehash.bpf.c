// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Flow rehash: from which of a series of retransmission timeouts on the connection takes another path.
 *
 * Routers with several equal paths choose one by a hash of the flow, into which goes IPv6's flow label, and the kernel
 * makes that label from the socket's hash. So a new hash leads away from a path that is broken. By itself the kernel
 * takes a new hash at every timeout (unless net.core.txrehash or SO_TXREHASH is 0), also when a single packet was lost
 * or late. What is left to us is to say at which timeout: those before it keep the hash, and with it the path; it and
 * each one that follows take a new one, also on sockets on which the kernel would not.
 *
 * The callback comes before the kernel changes the hash and sends the segment again. To keep the hash, SO_TXREHASH is
 * switched off there, and on again at the callback for what was sent again, so that it does not outlive the policy.
 * IPv4 carries no label: there the hash decides about our own queues and the source port of tunnels that packets leave
 * through (VXLAN, Geneve), no more.
 */
#include <pliant/feature.h>

#define SO_TXREHASH 74

struct setting {
	__u32 timeouts;
};

FEATURE_SETTINGS;

/* The sockets on which the kernel's own rehash is off for the moment. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} suspended SEC(".maps");

static __always_inline long set_rehash(struct bpf_sock_ops *ctx, int is_on)
{
	return bpf_setsockopt(ctx, SOL_SOCKET, SO_TXREHASH, &is_on, sizeof(is_on));
}

static __always_inline void suspend(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	int is_on = 0;

	if (bpf_getsockopt(ctx, SOL_SOCKET, SO_TXREHASH, &is_on, sizeof(is_on)) || is_on != 1)
		return;
	if (!bpf_sk_storage_get(&suspended, sk, 0, BPF_SK_STORAGE_GET_F_CREATE))
		return;
	want_callbacks(ctx, BPF_SOCK_OPS_RETRANS_CB_FLAG);
	if (set_rehash(ctx, 0))
		bpf_sk_storage_delete(&suspended, sk);
}

static __always_inline void resume(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	if (!bpf_sk_storage_get(&suspended, sk, 0, 0))
		return;
	set_rehash(ctx, 1);
	bpf_sk_storage_delete(&suspended, sk);
}

static __always_inline void on_timeout(struct bpf_sock_ops *ctx, struct bpf_sock *sk, const struct setting *setting)
{
	__u32 timeouts = ctx->args[0] + 1; /* in a row, with this one */

	resume(ctx, sk); /* nothing could be sent at the last timeout */
	if (timeouts < setting->timeouts) {
		suspend(ctx, sk);
		return;
	}
	ctx->sk_txhash = bpf_get_prandom_u32() | 1; /* 0 would mean none */
	count_outcome(FEATURE_APPLIED);
}

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return;
	if (moment == LATER && ctx->op == BPF_SOCK_OPS_RETRANS_CB)
		resume(ctx, sk);
	else if (setting && moment == LATER)
		on_timeout(ctx, sk, setting);
	else if (setting && is_judged(moment))
		want_callbacks(ctx, BPF_SOCK_OPS_RTO_CB_FLAG);
}

FEATURE(flow_rehash)
