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
	__type(value, __u32); /* segments */
} connecting SEC(".maps");

static __always_inline void set(struct bpf_sock_ops *ctx, int segments)
{
	count_result(bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_IW, &segments, sizeof(segments)));
}

static __always_inline void keep(struct bpf_sock *sk, __u32 segments)
{
	__u32 *kept = bpf_sk_storage_get(&connecting, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (kept)
		*kept = segments;
}

static __always_inline void set_kept(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	__u32 *kept = bpf_sk_storage_get(&connecting, sk, 0, 0);

	if (!kept)
		return;
	set(ctx, *kept);
	bpf_sk_storage_delete(&connecting, sk);
}

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return;
	if (moment == ESTABLISHED)
		set_kept(ctx, sk);
	else if (setting && moment == CONNECTING)
		keep(sk, setting->segments);
	else if (setting && moment == ACCEPTED)
		set(ctx, setting->segments);
}

FEATURE(initial_cwnd)
