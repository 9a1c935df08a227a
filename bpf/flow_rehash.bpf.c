// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Flow rehash: from which of a series of retransmission timeouts on the connection takes another path.
 *
 * Routers with several equal paths choose one by a hash of the flow, into which goes IPv6's flow label, and the kernel
 * makes that label from the socket's hash. So a new hash leads away from a path that is broken. By itself the kernel
 * takes a new hash at every timeout (where net.core.txrehash is 1, its default), also when it was one packet that was
 * lost, or a delay that is no loss. What is left to us is to say at which timeout: those before it keep the hash, and
 * with it the path; it and each one that follows take a new one, also where txrehash is 0.
 *
 * The callback comes when the kernel has changed the hash already and before it sends the segment again, so the old one
 * is written back; SO_TXREHASH would do it, too, but would outlive the policy. What else changes the hash (the peer
 * sending again what we have, PLB) is written back with it at the next timeout. IPv4 carries no label: there the hash
 * decides about our own queues and the source port of tunnels that packets leave through (VXLAN, Geneve), no more.
 */
#include <pliant/feature.h>

struct setting {
	__u32 timeouts;
};

FEATURE_SETTINGS;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} hashes SEC(".maps");

static __always_inline void on_timeout(struct bpf_sock_ops *ctx, __u32 *hash, const struct setting *setting)
{
	__u32 timeouts = ctx->args[0] + 1; /* in a row, with this one */

	if (timeouts < setting->timeouts) {
		ctx->sk_txhash = *hash;
		return;
	}
	*hash = bpf_get_prandom_u32() | 1; /* 0 would mean none */
	ctx->sk_txhash = *hash;
	count_outcome(FEATURE_APPLIED);
}

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 *hash;

	if (!setting || !sk)
		return;
	hash = bpf_sk_storage_get(&hashes, sk, 0, is_judged(moment) ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!hash)
		return;
	if (moment == LATER)
		on_timeout(ctx, hash, setting);
	else
		*hash = ctx->sk_txhash;
	if (is_judged(moment))
		want_callbacks(ctx, BPF_SOCK_OPS_RTO_CB_FLAG);
}

FEATURE(flow_rehash)
