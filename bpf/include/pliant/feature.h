/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every tuning feature is made of. A feature's source declares its setting, says what to do with it, and names
 * itself:
 *
 *	struct setting {
 *		__u32 segments;
 *	};
 *	FEATURE_SETTINGS;
 *
 *	static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting)
 *	{
 *		if (setting && is_judged(ctx))
 *			...
 *	}
 *
 *	FEATURE(initial_cwnd)
 *
 * The program is called for connections on which some policy has won its option, when the connection is judged and,
 * for a connecting socket, once more when it is established; after apply() it calls the next feature. The setting is
 * NULL when the policy has been replaced in between. Programs return 1 always and never touch ctx->reply: other
 * programs on the same hook see what they would see without us.
 */
#ifndef PLIANT_FEATURE_H
#define PLIANT_FEATURE_H

#include <stdbool.h>

#include <pliant/scope.h>

#include <bpf/bpf_endian.h>

#define AF_INET	   2
#define AF_INET6   10
#define SOL_SOCKET 1
#define SOL_IP	   0
#define SOL_IPV6   41
#define SOL_TCP	   6

/* The feature's place in a verdict, given out by user space when the object is loaded. */
const volatile __u32 option_slot = 0;

enum feature_outcome {
	FEATURE_APPLIED,
	FEATURE_REFUSED,   /* the kernel refused the value for this socket; errors holds the last errno */
	FEATURE_UNCHANGED, /* the socket cannot have it (see the feature), and was left alone */
	FEATURE_OUTCOMES,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FEATURE_OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} outcomes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} last_errno SEC(".maps");

/* The feature's settings by policy; ``struct setting`` is the feature's own. */
#define FEATURE_SETTINGS                                \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_HASH);        \
		__uint(map_flags, BPF_F_NO_PREALLOC);   \
		__uint(max_entries, MAX_POLICIES);      \
		__type(key, __u32); /* policy number */ \
		__type(value, struct setting);          \
	} settings SEC(".maps")

static __always_inline void count_outcome(__u32 outcome)
{
	__u64 *counter = bpf_map_lookup_elem(&outcomes, &outcome);

	if (counter)
		(*counter)++;
}

/* Count a helper's result: zero or a negative errno. */
static __always_inline void count_result(long result)
{
	__u32 zero = 0, *error;

	count_outcome(result ? FEATURE_REFUSED : FEATURE_APPLIED);
	if (!result)
		return;
	error = bpf_map_lookup_elem(&last_errno, &zero);
	if (error)
		*error = -result;
}

/* The connection has just been judged: before the SYN of a connecting socket, established for an accepted one. */
static __always_inline bool is_judged(const struct bpf_sock_ops *ctx)
{
	return ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB || ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB;
}

/* The connection's verdict, or NULL. */
static __always_inline struct verdict *verdict_of(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct verdict *verdict;

	if (!sk)
		return 0;
	if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return bpf_sk_storage_get(&verdicts, sk, 0, 0);
	verdict = accepted_verdict();
	return verdict && verdict->socket == (__u64)sk ? verdict : 0;
}

/* The program of a feature. A macro, for settings and apply() are declared by the feature. */
#define FEATURE(name)                                                                    \
	SEC("sockops") int name(struct bpf_sock_ops *ctx)                                \
	{                                                                                \
		struct verdict *verdict = verdict_of(ctx);                               \
		struct setting *setting;                                                 \
                                                                                         \
		if (!verdict || option_slot >= MAX_OPTIONS)                              \
			return 1;                                                        \
		setting = bpf_map_lookup_elem(&settings, &verdict->policy[option_slot]); \
		apply(ctx, setting);                                                     \
		run_features(ctx, verdict->won, option_slot + 1);                        \
		return 1;                                                                \
	}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
