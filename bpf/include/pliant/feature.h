/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every tuning feature is made of. The simplest sets a socket option that can be read and set at any time. Its
 *source declares the setting, says how the kernel is given it and asked for it, and names itself:
 *
 *	struct setting {
 *		__u32 milliseconds;
 *	};
 *	FEATURE_SETTINGS;
 *
 *	static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
 *	{
 *		return bpf_setsockopt(socket, SOL_TCP, TCP_USER_TIMEOUT, ...);
 *	}
 *
 *	static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
 *	{
 *		return bpf_getsockopt(socket, SOL_TCP, TCP_USER_TIMEOUT, ...);
 *	}
 *
 *	LIVE_FEATURE(user_timeout)
 *
 * That makes two programs: ``user_timeout`` for new connections, and the iterator ``user_timeout_open`` for those open
 * already. What an open connection, or a new one of a policy for both, had before us is kept with the socket, and put
 * back when no such policy sets the option any more.
 *
 * A feature that needs more has an apply() of its own, and is for new connections only:
 *
 *	static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment);
 *	FEATURE(initial_cwnd)
 *
 * It is called for connections on which some policy has won its option, when the connection is judged and at the
 * callbacks that user space's declaration of the feature names; after apply() the program calls the next feature. The
 * setting is NULL when the policy has been replaced in between. Programs return 1 always. They leave ctx->reply alone,
 *for other programs on the hook see it, but for features that answer what the kernel asks there.
 */
#ifndef PLIANT_FEATURE_H
#define PLIANT_FEATURE_H

#include <stdbool.h>

#include <pliant/kernel.h>
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
	FEATURE_RESTORED,  /* an open socket was given back what it had before us */
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

/* When apply() is called. */
enum moment {
	CONNECTING,  /* just judged, before the SYN leaves */
	ACCEPTED,    /* just judged, established: an accepted connection, or one that was connecting before we came */
	ESTABLISHED, /* a connecting socket that was judged before is established now */
	SYN,	     /* a SYN has come in, or is about to leave: the kernel asks for a parameter, see ctx->op */
	LATER,	     /* a callback that the feature has asked for, see ctx->op */
};

/* The connection has just been judged: the time to set what can be set at any time. */
static __always_inline bool is_judged(enum moment moment)
{
	return moment == CONNECTING || moment == ACCEPTED;
}

/* Ask for callbacks (BPF_SOCK_OPS_*_CB_FLAG) of this socket. The call replaces the whole mask: others' flags stay. */
static __always_inline void want_callbacks(struct bpf_sock_ops *ctx, int flags)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | flags);
}

static __always_inline bool is_ipv4(const struct sock *sk)
{
	const struct sock_common *common = &sk->__sk_common;
	const __u32 *word = common->skc_v6_daddr.in6_u.u6_addr32;

	return common->skc_family == AF_INET || (!word[0] && !word[1] && word[2] == bpf_htonl(0xffff));
}

/* The connection's verdict, or NULL. A slot is another connection's unless it was written in this very callback. */
static __always_inline struct verdict *verdict_of(struct bpf_sock_ops *ctx)
{
	bool is_accepted = ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
	struct verdict *verdict = 0;
	struct bpf_sock *sk = ctx->sk;

	if (sk && !is_accepted)
		verdict = bpf_sk_storage_get(&verdicts, sk, 0, 0);
	if (verdict || (sk && !is_accepted && ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB))
		return verdict;
	verdict = accepted_verdict();
	return verdict && verdict->socket == (sk ? (__u64)sk : OF_A_REQUEST) ? verdict : 0;
}

static __always_inline enum moment moment_of(struct bpf_sock_ops *ctx, const struct verdict *verdict)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		return CONNECTING;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		return ACCEPTED;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		return verdict->socket ? ACCEPTED : ESTABLISHED;
	case BPF_SOCK_OPS_TIMEOUT_INIT:
	case BPF_SOCK_OPS_RWND_INIT:
	case BPF_SOCK_OPS_NEEDS_ECN:
		return SYN;
	default:
		return LATER;
	}
}

/*
 * The connection's setting, or NULL: from the feature's table or, where scope has left it for a connection that is
 * being accepted, from there.
 */
#define SETTING_OF                                                                                                     \
	static __always_inline const struct setting *setting_of(struct bpf_sock_ops *ctx,                              \
								const struct verdict *verdict)                         \
	{                                                                                                              \
		struct given *slot = 0;                                                                                \
                                                                                                                       \
		if (sizeof(struct setting) == sizeof(slot->word[0]) && ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) \
			slot = given_settings();                                                                       \
		if (slot && slot->socket == verdict->socket)                                                           \
			return (const struct setting *)&slot->word[option_slot];                                       \
		return bpf_map_lookup_elem(&settings, &verdict->policy[option_slot]);                                  \
	}

/* The program of a feature with an apply() of its own. A macro, for settings and apply() are the feature's. */
#define FEATURE(name)                                                                      \
	SETTING_OF                                                                         \
                                                                                           \
	SEC("sockops") int name(struct bpf_sock_ops *ctx)                                  \
	{                                                                                  \
		struct verdict *verdict = verdict_of(ctx);                                 \
                                                                                           \
		if (!verdict || option_slot >= MAX_OPTIONS)                                \
			return 1;                                                          \
		apply(ctx, setting_of(ctx, verdict), moment_of(ctx, verdict));             \
		run_features(ctx, verdict->won &called_options(ctx->op), option_slot + 1); \
		return 1;                                                                  \
	}

/* A live feature that the kernel also asks about a SYN defines ANSWERS_SYN before this header, and answer_syn(). */
#ifdef ANSWERS_SYN
#define ANSWER_SYN(ctx, setting) answer_syn(ctx, setting)
#else
#define ANSWER_SYN(ctx, setting) ((void)0)
#endif

/*
 * The programs of a feature that acts on open connections, too. What a socket had before us is remembered only where a
 * policy for open connections has won the option.
 */
#define LIVE_FEATURE(name)                                                                                \
	struct previous {                                                                                 \
		__u32 policy;		/* whose setting is in its place */                               \
		struct setting setting; /* what was there before */                                       \
	};                                                                                                \
                                                                                                          \
	struct {                                                                                          \
		__uint(type, BPF_MAP_TYPE_SK_STORAGE);                                                    \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                     \
		__type(key, int);                                                                         \
		__type(value, struct previous);                                                           \
	} previous SEC(".maps");                                                                          \
                                                                                                          \
	SETTING_OF                                                                                        \
                                                                                                          \
	/* Set the option for a policy, remembering what was there unless a policy of ours set that. */   \
	static __always_inline void tune(void *socket, void *owner, struct sock *sk, __u32 policy,        \
					 const struct setting *setting)                                   \
	{                                                                                                 \
		struct previous *before = bpf_sk_storage_get(&previous, owner, 0, 0);                     \
                                                                                                          \
		if (before && before->policy == policy)                                                   \
			return;                                                                           \
		if (!before) {                                                                            \
			before = bpf_sk_storage_get(&previous, owner, 0, BPF_SK_STORAGE_GET_F_CREATE);    \
			if (!before || get_option(socket, sk, &before->setting)) {                        \
				if (before)                                                               \
					bpf_sk_storage_delete(&previous, owner);                          \
				count_outcome(FEATURE_UNCHANGED); /* it could not be taken back */        \
				return;                                                                   \
			}                                                                                 \
		}                                                                                         \
		before->policy = policy;                                                                  \
		count_result(set_option(socket, sk, setting));                                            \
	}                                                                                                 \
                                                                                                          \
	static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting,        \
					  const struct verdict *verdict, enum moment moment)              \
	{                                                                                                 \
		struct bpf_sock *owner = ctx->sk;                                                         \
		struct sock *sk;                                                                          \
                                                                                                          \
		if (!setting)                                                                             \
			return;                                                                           \
		if (moment == SYN)                                                                        \
			ANSWER_SYN(ctx, setting);                                                         \
		if (!owner || !is_judged(moment))                                                         \
			return;                                                                           \
		sk = (struct sock *)tcp_of(ctx, owner);                                                   \
		if (!sk)                                                                                  \
			return;                                                                           \
		if (verdict->live >> option_slot & 1)                                                     \
			tune(ctx, owner, sk, verdict->policy[option_slot], setting);                      \
		else                                                                                      \
			count_result(set_option(ctx, sk, setting));                                       \
	}                                                                                                 \
                                                                                                          \
	SEC("sockops") int name(struct bpf_sock_ops *ctx)                                                 \
	{                                                                                                 \
		struct verdict *verdict = verdict_of(ctx);                                                \
                                                                                                          \
		if (!verdict || option_slot >= MAX_OPTIONS)                                               \
			return 1;                                                                         \
		apply(ctx, setting_of(ctx, verdict), verdict, moment_of(ctx, verdict));                   \
		run_features(ctx, verdict->won &called_options(ctx->op), option_slot + 1);                \
		return 1;                                                                                 \
	}                                                                                                 \
                                                                                                          \
	SEC("iter/tcp") int name##_open(struct bpf_iter__tcp *ctx)                                        \
	{                                                                                                 \
		struct sock_common *common = ctx->sk_common;                                              \
		struct setting *setting = 0;                                                              \
		struct previous *before;                                                                  \
		struct verdict *verdict;                                                                  \
		struct sock *sk;                                                                          \
                                                                                                          \
		if (!common || option_slot >= MAX_OPTIONS)                                                \
			return 0;                                                                         \
		sk = (struct sock *)bpf_skc_to_tcp_sock(common);                                          \
		if (!sk)                                                                                  \
			return 0;                                                                         \
		verdict = bpf_sk_storage_get(&verdicts, sk, 0, 0);                                        \
		if (verdict && verdict->live >> option_slot & 1)                                          \
			setting = bpf_map_lookup_elem(&settings, &verdict->policy[option_slot]);          \
		if (setting) {                                                                            \
			tune(sk, sk, sk, verdict->policy[option_slot], setting);                          \
			return 0;                                                                         \
		}                                                                                         \
		before = bpf_sk_storage_get(&previous, sk, 0, 0);                                         \
		if (!before)                                                                              \
			return 0;                                                                         \
		count_outcome(set_option(sk, sk, &before->setting) ? FEATURE_REFUSED : FEATURE_RESTORED); \
		bpf_sk_storage_delete(&previous, sk);                                                     \
		return 0;                                                                                 \
	}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
