// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Scope: which policies apply to this connection, decided once, when the connection is made.
 *
 * A connecting socket is judged before its SYN leaves, an accepted one when its handshake completes; both addresses
 * and both ports are known then. The socket's cgroup, or its nearest ancestor with a policy, gives the service class.
 * Each port shape in use by that class costs one lookup in a trie, whose longest match names the matching policies
 * (user space has already merged those of shorter prefixes into it). Each option goes to the matching policy with the
 * highest priority that sets it. Then the features of the options won run, one calling the next.
 *
 * Whatever cannot be decided is left to the kernel.
 */
#include <pliant/kernel.h>
#include <pliant/scope.h>

#include <stdbool.h>

#include <bpf/bpf_endian.h>

#define AF_INET		 2
#define MAX_CGROUP_DEPTH 24

/* Key of the hash that chooses held-out connections; user space draws one a host. */
const volatile __u64 holdout_key = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u64); /* cgroup id */
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_RULES);
	__type(key, struct rule_key);
	__type(value, struct rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_POLICIES);
	__type(key, __u32); /* policy number */
	__type(value, struct policy);
} policies SEC(".maps");

/* How each judged connection ended. */
enum scope_outcome {
	SCOPE_MATCHED,	/* at least one option was won */
	SCOPE_HELD_OUT, /* policies matched, and every one holds this connection out */
	SCOPE_NO_RULE, /* the service has policies, none for this connection; counted where each ancestor judges, too */
	SCOPE_NO_SERVICE, /* neither the cgroup nor an ancestor has a policy */
	SCOPE_NO_MEMORY,  /* socket storage could not be had */
	SCOPE_OUTCOMES,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCOPE_OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} scope_outcomes SEC(".maps");

static __always_inline void count(__u32 outcome)
{
	__u64 *counter = bpf_map_lookup_elem(&scope_outcomes, &outcome);

	if (counter)
		(*counter)++;
}

static __always_inline struct service *service_of(struct bpf_sock *sk)
{
	struct sock *sock = (struct sock *)bpf_skc_to_tcp_sock(sk);
	struct cgroup *cgroup;
	struct cgroup_subsys_state *css;

	if (!sock)
		return 0;
	cgroup = sock->sk_cgrp_data.cgroup;
	for (int depth = 0; depth < MAX_CGROUP_DEPTH && cgroup; depth++) {
		__u64 id = cgroup->kn->id;
		struct service *service = bpf_map_lookup_elem(&services, &id);

		if (service)
			return service;
		css = cgroup->self.parent;
		if (!css)
			break;
		cgroup = css->cgroup;
	}
	return 0;
}

static __always_inline void read_peer(struct bpf_sock_ops *ctx, __u8 peer[16])
{
	__u32 *word = (__u32 *)peer;

	if (ctx->family == AF_INET) {
		word[0] = 0;
		word[1] = 0;
		word[2] = bpf_htonl(0xffff);
		word[3] = ctx->remote_ip4;
		/* Keeps the two last reads apart: the verifier wants each at its own constant offset. */
		barrier();
	} else {
		word[0] = ctx->remote_ip6[0];
		word[1] = ctx->remote_ip6[1];
		word[2] = ctx->remote_ip6[2];
		word[3] = ctx->remote_ip6[3];
	}
}

/* The finaliser of MurmurHash3: every bit of the input moves every bit of the result. */
static __always_inline __u64 mix(__u64 hash)
{
	hash ^= hash >> 33;
	hash *= 0xff51afd7ed558ccdULL;
	hash ^= hash >> 33;
	hash *= 0xc4ceb9fe1a85ec53ULL;
	hash ^= hash >> 33;
	return hash;
}

static __always_inline __u64 hash_connection(const __u8 peer[16], __u32 local_port, __u32 remote_port)
{
	const __u32 *word = (const __u32 *)peer; /* a key is aligned to no more */
	__u64 network = (__u64)word[0] << 32 | word[1], host = (__u64)word[2] << 32 | word[3];

	return mix(mix(network ^ holdout_key) ^ host ^ ((__u64)local_port << 16 | remote_port));
}

/* Arms of different policies are independent, for the number salts the hash. */
static __always_inline bool is_held_out(const struct policy *policy, __u32 number, __u64 connection)
{
	return policy->holdout && (__u32)mix(connection ^ number) < policy->holdout;
}

/*
 * Whether no better policy holds the option: one of higher priority or, among equals, of a lower number. Functions that
 * are not inlined are verified once, not once for each way to them.
 */
__noinline int is_free(const struct verdict *verdict, __u32 option, __u32 number, __u32 priority)
{
	struct policy *holder;
	__u32 held_by;

	if (!verdict || option >= MAX_OPTIONS || !(verdict->won >> option & 1))
		return 1;
	held_by = verdict->policy[option];
	holder = bpf_map_lookup_elem(&policies, &held_by);
	if (!holder || holder->priority < priority)
		return 1;
	return holder->priority == priority && number < held_by;
}

/*
 * Give one matching policy the options it sets and no better policy holds. Returns whether the connection is treated
 * by it.
 */
__noinline int weigh(struct verdict *verdict, __u32 number, __u64 connection)
{
	struct policy *policy = bpf_map_lookup_elem(&policies, &number);

	if (!verdict || !policy || is_held_out(policy, number, connection))
		return 0;
	for (__u32 option = 0; option < MAX_OPTIONS; option++) {
		if (!(policy->options >> option))
			break;
		if (!(policy->options >> option & 1) || !is_free(verdict, option, number, policy->priority))
			continue;
		verdict->policy[option] = number;
		verdict->won |= 1U << option;
	}
	return 1;
}

/*
 * Count the arm of one matching policy, once all have been weighed: if it has won an option, or would have won one
 * had it not held the connection out. A connection on which better policies leave it nothing counts for neither arm,
 * so that the two differ in nothing but the policy.
 */
__noinline int count_arm(struct verdict *verdict, __u32 number, __u64 connection)
{
	struct policy *policy = bpf_map_lookup_elem(&policies, &number);
	bool held_out;

	if (!verdict || !policy)
		return 0;
	held_out = is_held_out(policy, number, connection);
	for (__u32 option = 0; option < MAX_OPTIONS; option++) {
		bool is_won = verdict->won >> option & 1 && verdict->policy[option] == number;

		if (!(policy->options >> option))
			break;
		if (!(policy->options >> option & 1))
			continue;
		if (held_out ? !is_free(verdict, option, number, policy->priority) : !is_won)
			continue;
		__sync_fetch_and_add(held_out ? &policy->held_out : &policy->treated, 1);
		break;
	}
	return 0;
}

/* Weigh each policy of a rule; returns whether the connection is treated by one. */
__noinline int weigh_all(struct verdict *verdict, const struct rule *rule, __u64 connection)
{
	bool treated = false;

	if (!verdict || !rule)
		return 0;
	for (int i = 0; i < MAX_RULE_POLICIES && rule->policy[i]; i++)
		treated |= weigh(verdict, rule->policy[i], connection);
	return treated;
}

__noinline int count_arms(struct verdict *verdict, const struct rule *rule, __u64 connection)
{
	if (!verdict || !rule)
		return 0;
	for (int i = 0; i < MAX_RULE_POLICIES && rule->policy[i]; i++)
		count_arm(verdict, rule->policy[i], connection);
	return 0;
}

static __always_inline enum scope_outcome judge(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u8 role,
						struct verdict *verdict)
{
	struct rule_key key = {.prefix_bits = RULE_EXACT_BITS + 128, .role = role};
	__u16 local_port = ctx->local_port, remote_port = bpf_ntohl(ctx->remote_port);
	struct service *service = service_of(sk);
	struct rule *matched[SHAPES] = {};
	bool is_matched = false, treated = false;
	__u64 connection;

	if (!service)
		return SCOPE_NO_SERVICE;
	read_peer(ctx, key.peer);
	connection = hash_connection(key.peer, local_port, remote_port);
	key.class[0] = service->class;
	key.class[1] = service->class >> 32;

#pragma unroll /* pointers in an array want constant indices */
	for (__u32 shape = 0; shape < SHAPES; shape++) {
		if (!(service->shapes >> shape & 1))
			continue;
		key.local_port = shape & SHAPE_LOCAL ? local_port : 0;
		key.remote_port = shape & SHAPE_REMOTE ? remote_port : 0;
		matched[shape] = bpf_map_lookup_elem(&rules, &key);
		if (!matched[shape])
			continue;
		is_matched = true;
		treated |= weigh_all(verdict, matched[shape], connection);
	}
	if (!is_matched)
		return SCOPE_NO_RULE;
#pragma unroll
	for (__u32 shape = 0; shape < SHAPES; shape++)
		if (matched[shape])
			count_arms(verdict, matched[shape], connection);
	return treated ? SCOPE_MATCHED : SCOPE_HELD_OUT;
}

/* An accepted connection's features run at once: its verdict passes through this CPU's slot. */
static __always_inline void pass_on(struct bpf_sock *sk, struct verdict *verdict)
{
	struct verdict *slot = accepted_verdict();

	verdict->socket = (__u64)sk;
	if (slot)
		*slot = *verdict;
}

/* Keep a connecting socket's verdict until it is established. It may be connecting again, after a failure. */
static __always_inline void keep(struct bpf_sock *sk, const struct verdict *verdict)
{
	struct verdict *kept;

	kept = bpf_sk_storage_get(&verdicts, sk, 0, verdict->won ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (kept)
		*kept = *verdict;
	else if (verdict->won)
		count(SCOPE_NO_MEMORY);
}

static __always_inline void on_established(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct verdict *verdict = bpf_sk_storage_get(&verdicts, sk, 0, 0);

	if (verdict)
		run_features(ctx, verdict->won, 0);
}

SEC("sockops") int scope(struct bpf_sock_ops *ctx)
{
	bool is_accepted = ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
	struct verdict verdict = {};
	struct bpf_sock *sk;

	/* Most calls are about something else: they end here. */
	if (!is_accepted && ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		on_established(ctx, sk);
		return 1;
	}
	count(judge(ctx, sk, is_accepted ? ROLE_SERVER : ROLE_CLIENT, &verdict));
	if (is_accepted)
		pass_on(sk, &verdict);
	else
		keep(sk, &verdict);
	run_features(ctx, verdict.won, 0);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
