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
 * Three more things are done here, each only where a policy asks for it:
 *   - Options that belong on the SYN are decided when it comes in, once more and without counting, for the listener.
 *   - Open connections are judged by the iterator ``scope_open``; then the iterators of the features act on them.
 *   - Connections of a policy that is measured are watched to their end, see effect.h.
 *
 * Whatever cannot be decided is left to the kernel.
 */
#include <pliant/kernel.h>
#include <pliant/scope.h>
#include <pliant/effect.h>

#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define AF_INET		  2
#define TCP_ESTABLISHED	  1
#define TCP_FIN_WAIT1	  4
#define TCP_FIN_WAIT2	  5
#define TCP_CLOSE_WAIT	  8
#define MAX_CGROUP_DEPTH  24
#define LONGEST_HANDSHAKE 130000000000ULL /* ns; a SYN is sent for 127 s at most, see tcp_syn_retries in tcp(7) */

/*
 * When this program was loaded (CLOCK_MONOTONIC, ns). A socket that becomes established without a verdict soon after
 * was connecting before we came, and is judged then; for as long, those that no policy matches have one, too.
 */
const volatile __u64 loaded_at_ns = 0;

/* Another build was judging when this one was loaded: what was connecting then has been counted by that one. */
const volatile __u32 takes_over = 0;

/*
 * The options whose features are called again, later in the life of a connection: their verdicts are kept. So are those
 * that policies for open connections have won: a connection may be made while the iterators run, after scope's has been
 * where it is and before a feature's comes there, which would take one without a verdict for one to be given back.
 */
const volatile __u32 kept_options = 0;

/* Whether programs may read the kernel's memory by address; they may not where the kernel is locked down for it. */
const volatile bool reads_memory = false;

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

/*
 * The options that some policy in force sets to a value that wants to be asked about a SYN, by callback. Most policies
 * have none, and the three callbacks of each SYN end here: an array, which is read without a call.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALLBACKS);
	__type(key, __u32); /* BPF_SOCK_OPS_*_CB */
	__type(value, __u32);
} asked SEC(".maps");

/* What user space says of open connections. */
enum tuned_entry {
	TUNED_DIGEST, /* of what they were last brought in line with, 0: nothing; 2 while that is done, see reader.py */
	TUNED_ADOPT, /* another build has tuned them: what policies for new connections have given them is taken over */
	TUNED_ENTRIES,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TUNED_ENTRIES);
	__type(key, __u32);
	__type(value, __u64);
} tuned SEC(".maps");

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

/* Who is talking to whom, as the rules see it. */
struct connection {
	__u8 peer[16];
	__u16 local_port, remote_port; /* host byte order */
	__u32 role;		       /* enum role */
};

/* The service of a socket's cgroup: that of the nearest ancestor that has one, which is noted in the verdict. */
static __always_inline struct service *service_of(struct sock *sk, struct verdict *verdict)
{
	struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;
	struct cgroup_subsys_state *css;

	for (int depth = 0; depth < MAX_CGROUP_DEPTH && cgroup; depth++) {
		__u64 id = cgroup->kn->id;
		struct service *service = bpf_map_lookup_elem(&services, &id);

		if (service) {
			verdict->service = id;
			return service;
		}
		css = cgroup->self.parent;
		if (!css)
			break;
		cgroup = css->cgroup;
	}
	return 0;
}

/* The same by copies, for a socket of which only the address is known. */
static __always_inline struct service *service_at(struct sock *sk, struct verdict *verdict)
{
	struct cgroup *cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
	struct cgroup_subsys_state *css;

	for (int depth = 0; depth < MAX_CGROUP_DEPTH && cgroup; depth++) {
		__u64 id = BPF_CORE_READ(cgroup, kn, id);
		struct service *service = bpf_map_lookup_elem(&services, &id);

		if (service) {
			verdict->service = id;
			return service;
		}
		css = BPF_CORE_READ(cgroup, self.parent);
		if (!css)
			break;
		cgroup = BPF_CORE_READ(css, cgroup);
	}
	return 0;
}

static __always_inline void write_v4_mapped(__u32 word[4], __u32 address)
{
	word[0] = 0;
	word[1] = 0;
	word[2] = bpf_htonl(0xffff);
	word[3] = address;
}

static __always_inline void read_ends(struct bpf_sock_ops *ctx, struct connection *connection)
{
	__u32 *word = (__u32 *)connection->peer;

	connection->local_port = ctx->local_port;
	connection->remote_port = bpf_ntohl(ctx->remote_port);
	if (ctx->family == AF_INET) {
		write_v4_mapped(word, ctx->remote_ip4);
		/* Keeps the two last reads apart: the verifier wants each at its own constant offset. */
		barrier();
	} else {
		word[0] = ctx->remote_ip6[0];
		word[1] = ctx->remote_ip6[1];
		word[2] = ctx->remote_ip6[2];
		word[3] = ctx->remote_ip6[3];
	}
}

/*
 * The same of an open socket. The kernel does not keep which end opened a connection, but it gives an accepted socket,
 * and no other, the interface that its SYN came in by as that for multicast (tcp_v4_syn_recv_sock()), which no
 * application can change on a TCP socket (ip(7)).
 */
static __always_inline void read_open(struct tcp_sock *tcp, struct connection *connection)
{
	struct inet_sock *inet = &tcp->inet_conn.icsk_inet;
	struct sock_common *common = &inet->sk.__sk_common;
	__u32 *word = (__u32 *)connection->peer;
	bool is_accepted = inet->mc_index;

	connection->local_port = common->skc_num;
	connection->remote_port = bpf_ntohs(common->skc_dport);
	if (common->skc_family == AF_INET) {
		write_v4_mapped(word, common->skc_daddr);
	} else {
		struct ipv6_pinfo *v6 = inet->pinet6;

		word[0] = common->skc_v6_daddr.in6_u.u6_addr32[0];
		word[1] = common->skc_v6_daddr.in6_u.u6_addr32[1];
		word[2] = common->skc_v6_daddr.in6_u.u6_addr32[2];
		word[3] = common->skc_v6_daddr.in6_u.u6_addr32[3];
		is_accepted |= v6 && v6->mcast_oif;
	}
	connection->role = is_accepted ? ROLE_SERVER : ROLE_CLIENT;
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

static __always_inline __u64 hash_connection(const struct connection *connection)
{
	const __u32 *word = (const __u32 *)connection->peer; /* aligned to no more */
	__u64 network = (__u64)word[0] << 32 | word[1], host = (__u64)word[2] << 32 | word[3];

	return mix(mix(network ^ holdout_key) ^ host ^ ((__u64)connection->local_port << 16 | connection->remote_port));
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

/* The first policy that treats a connection has all its options without a question. */
static __always_inline void win_all(struct verdict *verdict, const struct policy *policy, __u32 number)
{
	for (__u32 option = 0; option < MAX_OPTIONS; option++)
		verdict->policy[option] = number; /* means nothing for those it does not set */
	verdict->won = policy->options;
	verdict->live = policy->flags & POLICY_LIVE ? policy->options : 0;
}

/*
 * Give one matching policy the options it sets and no better policy holds. Returns whether the connection is treated
 * by it.
 */
__noinline int weigh(struct verdict *verdict, __u32 number, __u64 hash)
{
	struct policy *policy = bpf_map_lookup_elem(&policies, &number);

	if (!verdict || !policy || is_held_out(policy, number, hash))
		return 0;
	if (!verdict->won) {
		win_all(verdict, policy, number);
		return 1;
	}
	for (__u32 option = 0; option < MAX_OPTIONS; option++) {
		if (!(policy->options >> option))
			break;
		if (!(policy->options >> option & 1) || !is_free(verdict, option, number, policy->priority))
			continue;
		verdict->policy[option] = number;
		verdict->won |= 1U << option;
		if (policy->flags & POLICY_LIVE)
			verdict->live |= 1U << option;
		else
			verdict->live &= ~(1U << option);
	}
	return 1;
}

static __always_inline void watch(struct measured *watched, __u32 number, bool held_out)
{
	for (int i = 0; i < MAX_RULE_POLICIES; i++) {
		if (watched->policy[i])
			continue;
		watched->policy[i] = number;
		watched->held_out |= (__u32)held_out << i;
		break;
	}
}

/*
 * Count the arm of one matching policy, once all have been weighed: if it has won an option, or would have won one
 * had it not held the connection out. A connection on which better policies leave it nothing counts for neither arm,
 * so that the two differ in nothing but the policy. If the policy is measured, the connection will be watched for it.
 */
__noinline int count_arm(const struct verdict *verdict, struct measured *watched, __u32 number, __u64 hash)
{
	struct policy *policy = bpf_map_lookup_elem(&policies, &number);
	bool held_out;

	if (!verdict || !watched || !policy)
		return 0;
	held_out = is_held_out(policy, number, hash);
	for (__u32 option = 0; option < MAX_OPTIONS; option++) {
		bool is_won = verdict->won >> option & 1 && verdict->policy[option] == number;

		if (!(policy->options >> option))
			break;
		if (!(policy->options >> option & 1))
			continue;
		if (held_out ? !is_free(verdict, option, number, policy->priority) : !is_won)
			continue;
		__sync_fetch_and_add(held_out ? &policy->held_out : &policy->treated, 1);
		if (policy->flags & POLICY_MEASURED)
			watch(watched, number, held_out);
		break;
	}
	return 0;
}

/* Weigh each policy of a rule; returns whether the connection is treated by one. */
__noinline int weigh_all(struct verdict *verdict, const struct rule *rule, __u64 hash)
{
	bool treated = false;

	if (!verdict || !rule)
		return 0;
	for (int i = 0; i < MAX_RULE_POLICIES && rule->policy[i]; i++)
		treated |= weigh(verdict, rule->policy[i], hash);
	return treated;
}

__noinline int count_arms(const struct verdict *verdict, struct measured *watched, const struct rule *rule, __u64 hash)
{
	if (!verdict || !watched || !rule)
		return 0;
	for (int i = 0; i < MAX_RULE_POLICIES && rule->policy[i]; i++)
		count_arm(verdict, watched, rule->policy[i], hash);
	return 0;
}

/* Leave a policy's words where the features of a connection that is being accepted find them. */
static __always_inline void give(__u64 socket, const struct policy *policy)
{
	struct given *slot = given_settings();

	if (!slot)
		return;
	slot->socket = socket;
	barrier();
	for (__u32 option = 0; option < MAX_OPTIONS; option++)
		slot->word[option] = policy->word[option];
}

static __always_inline void give_nothing(void)
{
	struct given *slot = given_settings();

	if (slot)
		slot->socket = 0;
}

/*
 * The same where a single policy matches, as it mostly is: there is nothing to weigh it against, so it is looked up
 * once. Returns enum scope_outcome.
 */
static __always_inline int judge_alone(const struct connection *connection, struct verdict *verdict,
				       struct measured *watched, __u32 number)
{
	struct policy *policy = bpf_map_lookup_elem(&policies, &number);
	bool held_out;

	if (!policy)
		return SCOPE_HELD_OUT;
	held_out = policy->holdout && is_held_out(policy, number, hash_connection(connection));
	if (!held_out) {
		win_all(verdict, policy, number);
		if (verdict->socket)
			give(verdict->socket, policy);
	}
	if (watched && policy->options) {
		__sync_fetch_and_add(held_out ? &policy->held_out : &policy->treated, 1);
		if (policy->flags & POLICY_MEASURED)
			watch(watched, number, held_out);
	}
	return held_out ? SCOPE_HELD_OUT : SCOPE_MATCHED;
}

/*
 * Judge a connection of a service. Where ``watched`` is given it is a new one, which counts; where the verdict names a
 * socket its features run at once. Returns enum scope_outcome.
 */
__noinline int judge(const struct service *service, const struct connection *connection, struct verdict *verdict,
		     struct measured *watched)
{
	struct rule_key key = {.prefix_bits = RULE_EXACT_BITS + 128};
	struct rule *matched[SHAPES] = {}, *last = 0;
	bool treated = false;
	int rules_matched = 0;
	__u64 hash;

	if (!service || !connection || !verdict)
		return SCOPE_NO_SERVICE;
	key.class[0] = service->class;
	key.class[1] = service->class >> 32;
	key.role = connection->role;
	__builtin_memcpy(key.peer, connection->peer, sizeof(key.peer));

#pragma unroll /* pointers in an array want constant indices */
	for (__u32 shape = 0; shape < SHAPES; shape++) {
		if (!(service->shapes >> shape & 1))
			continue;
		key.local_port = shape & SHAPE_LOCAL ? connection->local_port : 0;
		key.remote_port = shape & SHAPE_REMOTE ? connection->remote_port : 0;
		matched[shape] = bpf_map_lookup_elem(&rules, &key);
		if (!matched[shape])
			continue;
		last = matched[shape];
		rules_matched++;
	}
	if (!last)
		return SCOPE_NO_RULE;
	if (rules_matched == 1 && !last->policy[1])
		return judge_alone(connection, verdict, watched, last->policy[0]);

	if (verdict->socket)
		give_nothing();
	hash = hash_connection(connection);
#pragma unroll
	for (__u32 shape = 0; shape < SHAPES; shape++)
		if (matched[shape])
			treated |= weigh_all(verdict, matched[shape], hash);
#pragma unroll
	for (__u32 shape = 0; shape < SHAPES; shape++)
		if (matched[shape] && watched)
			count_arms(verdict, watched, matched[shape], hash);
	return treated ? SCOPE_MATCHED : SCOPE_HELD_OUT;
}

/* The verdict of a connection whose features run at once passes through this CPU's slot. */
static __always_inline void pass_on(const struct verdict *verdict)
{
	struct verdict *slot = accepted_verdict();

	if (slot)
		*slot = *verdict;
}

/* Whether a socket that becomes established now may have been connecting before we were loaded. */
static __always_inline bool is_loaded_lately(void)
{
	return bpf_ktime_get_ns() - loaded_at_ns < LONGEST_HANDSHAKE;
}

/* Keep a socket's verdict for later. A connecting one may have one already, from an attempt that failed. */
static __always_inline void keep(void *sk, const struct verdict *verdict, bool must)
{
	struct verdict *kept;

	kept = bpf_sk_storage_get(&verdicts, sk, 0, must ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (kept)
		*kept = *verdict;
	else if (must)
		count(SCOPE_NO_MEMORY);
}

static __always_inline void start_watching(struct bpf_sock_ops *ctx, struct bpf_sock *sk, struct measured *watched)
{
	struct measured *kept;

	count_beginning(watched);
	kept = bpf_sk_storage_get(&measured, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept) {
		count(SCOPE_NO_MEMORY);
		return;
	}
	watched->since_ns = bpf_ktime_get_ns();
	*kept = *watched;
	/* The call replaces the whole mask: other programs' flags stay. */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void on_new(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u32 role, bool is_counted)
{
	struct sock *sock = (struct sock *)tcp_of(ctx, sk);
	bool is_connecting = ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB;
	struct connection connection = {.role = role};
	struct measured watched = {};
	struct verdict verdict = {};
	struct service *service;

	if (!sock)
		return;
	service = service_of(sock, &verdict);
	if (!service) {
		if (is_counted)
			count(SCOPE_NO_SERVICE);
		return;
	}
	read_ends(ctx, &connection);
	if (!is_connecting)
		verdict.socket = (__u64)sk;
	if (is_counted)
		count(judge(service, &connection, &verdict, &watched));
	else
		judge(service, &connection, &verdict, 0);
	if (!is_connecting)
		pass_on(&verdict);
	if (is_connecting)
		keep(sk, &verdict, verdict.won || is_loaded_lately());
	else if (verdict.won & (kept_options | verdict.live))
		keep(sk, &verdict, true);
	if (watched.policy[0])
		start_watching(ctx, sk, &watched);
	run_features(ctx, verdict.won & called_options(ctx->op), 0);
}

static __always_inline void on_established(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct verdict *verdict = bpf_sk_storage_get(&verdicts, sk, 0, 0);

	if (verdict)
		run_features(ctx, verdict->won & called_options(ctx->op), 0);
	else if (is_loaded_lately())
		on_new(ctx, sk, ROLE_CLIENT, !takes_over);
}

static __always_inline void on_state(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct measured *watched;
	struct tcp_sock *tcp;

	if (ctx->args[1] != TCP_CLOSE)
		return;
	watched = bpf_sk_storage_get(&measured, sk, 0, 0);
	tcp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!watched || !tcp)
		return;
	record_end(tcp, watched, ctx->args[0] != TCP_SYN_SENT);
	bpf_sk_storage_delete(&measured, sk);
}

/* The options that want to be asked about this: called for a connecting socket, or for a SYN that has come in. */
static __always_inline bool is_about_syn(__u32 op)
{
	return op == BPF_SOCK_OPS_TIMEOUT_INIT || op == BPF_SOCK_OPS_RWND_INIT || op == BPF_SOCK_OPS_NEEDS_ECN;
}

/* The service of the listener that a SYN has come in to. */
static __always_inline struct service *service_of_request(struct bpf_sock_ops *ctx, struct verdict *verdict)
{
	struct bpf_sock_ops_kern *inside;
	struct sock *listener;

	if (bpf_cast_to_kern_ctx && bpf_rdonly_cast) {
		inside = bpf_cast_to_kern_ctx(ctx);
		listener = inside->sk->__sk_common.skc_listener;
		if (!listener)
			return 0;
		return service_of(bpf_rdonly_cast(listener, bpf_core_type_id_kernel(struct sock)), verdict);
	}
	if (!reads_memory)
		return 0;
	inside = (void *)ctx; /* which it is when the program runs */
	listener = BPF_CORE_READ(inside, sk, __sk_common.skc_listener);
	return listener ? service_at(listener, verdict) : 0;
}

/* A SYN has come in: there is no socket yet, and the service is that of the listener. */
static __always_inline void on_request(struct bpf_sock_ops *ctx, __u32 wanted)
{
	struct connection connection = {.role = ROLE_SERVER};
	struct verdict verdict = {};
	struct service *service;

	service = service_of_request(ctx, &verdict);
	if (!service || !(service->options & wanted))
		return;
	read_ends(ctx, &connection);
	verdict.socket = OF_A_REQUEST;
	judge(service, &connection, &verdict, 0);
	pass_on(&verdict);
	run_features(ctx, verdict.won & wanted, 0);
}

/* A callback that some feature has asked for, of a connection that was judged before. */
static __always_inline void on_later(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	__u32 wanted = called_options(ctx->op);
	struct verdict *verdict;

	if (!wanted)
		return;
	verdict = bpf_sk_storage_get(&verdicts, sk, 0, 0);
	if (verdict)
		run_features(ctx, verdict->won & wanted, 0);
}

SEC("sockops") int scope(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;
	struct bpf_sock *sk;

	if (op == BPF_SOCK_OPS_TCP_LISTEN_CB || op == BPF_SOCK_OPS_BASE_RTT)
		return 1;
	if (is_about_syn(op) && !ctx->is_fullsock) {
		__u32 *wanted = bpf_map_lookup_elem(&asked, &op);

		barrier(); /* nothing of what follows is done for the many that end here */
		if (wanted && *wanted)
			on_request(ctx, *wanted);
		return 1;
	}
	sk = ctx->sk;
	if (!sk)
		return 1;
	switch (op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_new(ctx, sk, ROLE_CLIENT, true);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_new(ctx, sk, ROLE_SERVER, true);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_established(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ctx, sk);
		on_later(ctx, sk);
		break;
	default:
		on_later(ctx, sk);
	}
	return 1;
}

/* Whether data may flow, or might still. */
static __always_inline bool is_open(struct tcp_sock *tcp)
{
	unsigned char state = tcp->inet_conn.icsk_inet.sk.__sk_common.skc_state;

	return state == TCP_ESTABLISHED || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSE_WAIT;
}

/*
 * Policies for new connections do not move on open ones: of these a socket keeps what it was given, where no policy for
 * open connections has won the option since.
 */
__noinline int inherit(struct verdict *verdict, const struct verdict *before)
{
	__u32 entry = TUNED_ADOPT, kept;
	__u64 *adopt;

	if (!verdict)
		return 0;
	adopt = bpf_map_lookup_elem(&tuned, &entry);
	verdict->won &= verdict->live | (adopt && *adopt ? kept_options : 0);
	if (!before)
		return 0;
	kept = before->won & ~before->live & ~verdict->live;
	for (__u32 option = 0; option < MAX_OPTIONS; option++)
		if (kept >> option & 1)
			verdict->policy[option] = before->policy[option];
	verdict->won |= kept;
	return 0;
}

/* Judge an open socket anew, for the features' iterators that follow. It was counted when it was made. */
SEC("iter/tcp") int scope_open(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct verdict verdict = {}, *before;
	struct connection connection = {};
	struct service *service;
	struct tcp_sock *tcp;

	tcp = common ? (struct tcp_sock *)bpf_skc_to_tcp_sock(common) : 0;
	if (!tcp || !is_open(tcp))
		return 0;
	service = service_of((struct sock *)tcp, &verdict);
	if (service) {
		read_open(tcp, &connection);
		judge(service, &connection, &verdict, 0);
	}
	before = bpf_sk_storage_get(&verdicts, tcp, 0, 0);
	inherit(&verdict, before);
	keep(tcp, &verdict, verdict.won);
	return 0;
}

/* Record what a connection has come to that has been open for long. */
SEC("iter/tcp") int scope_sample(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct sample sample = {};
	struct measured *watched;
	struct tcp_sock *tcp;

	tcp = common ? (struct tcp_sock *)bpf_skc_to_tcp_sock(common) : 0;
	if (!tcp || !is_open(tcp))
		return 0;
	watched = bpf_sk_storage_get(&measured, tcp, 0, 0);
	if (!watched || watched->is_sampled || bpf_ktime_get_ns() - watched->since_ns < long_ns)
		return 0;
	watched->is_sampled = 1;
	read_sample(tcp, &sample);
	record_for_all(watched, &sample);
	return 0;
}

/* What another build has counted of one policy, and in one of its arms: written by user space for scope_carry. */
struct carried {
	__u32 policy, arm;
	__u64 treated, held_out;
	struct effect effect;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct carried);
} carried SEC(".maps");

/* Add that to what we have counted. Done here, since connections are being counted meanwhile. */
SEC("syscall") int scope_carry(void *ctx)
{
	struct effect_key key = {};
	struct carried *from;
	struct policy *policy;
	__u64 *sums, *added;
	__u32 zero = 0;
	void *effect;

	from = bpf_map_lookup_elem(&carried, &zero);
	if (!from)
		return 0;
	key.policy = from->policy;
	key.arm = from->arm;
	policy = bpf_map_lookup_elem(&policies, &key.policy);
	if (policy) {
		__sync_fetch_and_add(&policy->treated, from->treated);
		__sync_fetch_and_add(&policy->held_out, from->held_out);
	}
	effect = bpf_map_lookup_elem(&effects, &key);
	if (!effect)
		return 0;
	sums = effect;
	added = (__u64 *)&from->effect;
	for (__u32 i = 0; i < sizeof(struct effect) / sizeof(__u64); i++)
		__sync_fetch_and_add(&sums[i], added[i]);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
