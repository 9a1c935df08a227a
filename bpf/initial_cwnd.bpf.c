// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Initial congestion window: how many segments may be sent before the first acknowledgement.
 *
 * Set when the handshake completes; the kernel refuses it (EINVAL) once data beyond a SYN has been sent, and sets the
 * window itself at that moment, so earlier is too early. A connecting socket has been judged a round trip before that,
 * and the policy may have been replaced meanwhile: what it was given then is kept with the socket until it is used.
 */
#include <pliant/feature.h>

#define TCP_BPF_IW 1001

struct setting {
	__u32 segments;
};

FEATURE_SETTINGS;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct setting);
} connecting SEC(".maps");

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting)
{
	int segments = setting->segments;

	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_IW, &segments, sizeof(segments)));
}

/* Keep what a connecting socket was given, or that it was given nothing: it may be connecting for a second time. */
static __always_inline void keep(struct bpf_sock *sk, const struct setting *setting)
{
	struct setting *kept;

	if (!setting) {
		bpf_sk_storage_delete(&connecting, sk);
		return;
	}
	kept = bpf_sk_storage_get(&connecting, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		*kept = *setting;
}

SEC("sockops") int initial_cwnd(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct setting *setting;

	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		keep(sk, setting_of(ctx));
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		setting = bpf_sk_storage_get(&connecting, sk, 0, 0);
		if (!setting)
			break;
		apply(ctx, setting);
		bpf_sk_storage_delete(&connecting, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		setting = setting_of(ctx);
		if (setting)
			apply(ctx, setting);
		break;
	}
	return 1;
}
