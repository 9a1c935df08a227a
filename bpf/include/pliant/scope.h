/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the scope program, the features and user space share: who matches what, and what was decided.
 *
 *   services   cgroup id            -> the service class of its sockets, and which port shapes its rules use
 *   rules      (class, role, ports, peer prefix) -> the policies that match, by longest prefix of the peer
 *   policies   policy               -> priority, options it sets, share held out
 *   verdicts   socket               -> the options won, and by which policy, where that is needed later
 *   accepted   CPU                  -> the same for the connection that is being accepted there
 *   given      CPU                  -> its settings, where a single policy gives them all
 *   features   option               -> the program that sets it
 *
 * A policy number names one version of one policy for ever: a changed policy gets a new number and the rules move
 * over to it, one atomic replacement each, so nothing that a connection may be reading is changed in place.
 *
 * User space reads these layouts from the objects' BTF; they are declared nowhere else.
 */
#ifndef PLIANT_SCOPE_H
#define PLIANT_SCOPE_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include <pliant/kernel.h>

#define MAX_OPTIONS	  32 /* tuning options that can be told apart; a slot is given out at load time */
#define MAX_RULE_POLICIES 8  /* policies in one rule; more is refused when policies are compiled */

/* Upper bounds only: no map allocates before it grows. */
#define MAX_POLICIES 65536
#define MAX_SERVICES 16384
#define MAX_RULES    (1024 * 1024)

enum role {
	ROLE_SERVER = 1,
	ROLE_CLIENT = 2,
};

/* Port shapes: which ports a rule's key carries. A service's mask says which of the four need looking up. */
enum shape {
	SHAPE_LOCAL = 1 << 0,
	SHAPE_REMOTE = 1 << 1,
	SHAPES = 4,
};

struct service {
	__u64 class;
	__u32 shapes;  /* bit (1 << shape) for each combination of enum shape in use */
	__u32 options; /* bit per option slot that any of its policies sets */
};

/* A trie's key: bits that must be equal, then the peer. IPv4 is written as v4-mapped IPv6 (RFC 4291 2.5.5.2). */
struct rule_key {
	__u32 prefix_bits;
	__u32 class[2];
	__u16 local_port;  /* host byte order; 0: any */
	__u16 remote_port; /* host byte order; 0: any */
	__u8 role;
	__u8 reserved[3];
	__u8 peer[16];
};

#define RULE_EXACT_BITS 128 /* bits before the peer */

struct rule {
	__u32 policy[MAX_RULE_POLICIES]; /* 0 ends the list */
};

enum policy_flag {
	POLICY_LIVE = 1 << 0,	  /* it is for connections that are open already, too */
	POLICY_MEASURED = 1 << 1, /* what becomes of its connections is recorded, see effect.h */
};

struct policy {
	__u32 priority;
	__u32 options; /* bit per option slot it sets */
	__u32 holdout; /* held out if the connection's hash is below this; 0: nobody */
	__u32 flags;   /* enum policy_flag */
	/* The setting of each option it sets, by slot, where that is one word: the same as in the feature's table. */
	__u32 word[MAX_OPTIONS];
	/* The rest belongs to the kernel side: user space writes zero once, and only reads after that. */
	__u64 treated;	/* connections that it has won an option of */
	__u64 held_out; /* connections that it left alone, and would have won an option of */
};

struct verdict {
	__u64 socket;		   /* whose it is, for the verdicts of a CPU: the kernel's address, or OF_A_REQUEST */
	__u32 won;		   /* bit per option slot that some policy has won */
	__u32 policy[MAX_OPTIONS]; /* the policy, where the option was won */
	__u32 live;		   /* bit per option slot that a policy for open connections has won */
	__u64 service;		   /* the cgroup it was judged as a socket of: the id of that or an ancestor */
};

#define OF_A_REQUEST 1 /* a connection of which there is no socket yet, only a SYN */

/*
 * Which options want their feature called at a callback, by BPF_SOCK_OPS_*_CB, beyond the moment a connection is
 * judged. User space fills it in from what the features declare, in every object alike.
 */
#define CALLBACKS 16
const volatile __u32 callback_options[CALLBACKS] = {};

/*
 * A connecting socket is judged a round trip before it is established, so its verdict is kept with it. An accepted one
 * is judged when it is established, and the features run at once, on the same CPU, with softirqs off: its verdict
 * passes through a slot of the CPU. Storage would cost it more than all the rest together (2 of 4.7 us were measured);
 * it is used where an option that was won asks for later callbacks, and for open connections.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct verdict);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct verdict);
} accepted SEC(".maps");

/*
 * The words of the policy that has won all options of a connection which is being accepted. Each feature would find its
 * own in its table, but that is a call and some lines of the cache for each, and scope has the policy at hand.
 */
struct given {
	__u64 socket; /* whose they are; written first, so that what comes in between is seen */
	__u32 word[MAX_OPTIONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct given);
} given SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, MAX_OPTIONS);
	__type(key, __u32);
	__type(value, __u32);
} features SEC(".maps");

/*
 * The slot of this CPU. Fast Open may complete a handshake with softirqs on, and another one may then come in between:
 * whoever reads the slot checks that it is still about his socket, and leaves the connection to the kernel if not.
 */
static __always_inline struct verdict *accepted_verdict(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&accepted, &zero);
}

static __always_inline struct given *given_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&given, &zero);
}

/* The options whose features run at a callback: all when the connection is judged, then those that asked for it. */
static __always_inline __u32 called_options(__u32 op)
{
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB || op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return ~0U;
	return op < CALLBACKS ? callback_options[op] : 0;
}

/*
 * Run the features of some options, from slot ``first`` on. Each calls the next: the first one does not return. The
 * slots are tried one after another, for BPF has no instruction that finds a bit, and a table would be one more line of
 * the cache in every program.
 */
static __always_inline void run_features(struct bpf_sock_ops *ctx, __u32 options, __u32 first)
{
	for (__u32 slot = first; slot < MAX_OPTIONS && options >> slot; slot++)
		if (options >> slot & 1)
			bpf_tail_call(ctx, &features, slot); /* returns only where there is no such program */
}

/* Linux 6.2: what the kernel has behind its interface, and a pointer of a stated type to read through. */
void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;
void *bpf_rdonly_cast(const void *pointer, __u32 btf_id) __ksym __weak;

/*
 * A callback's socket, to read in; ``sk`` is ctx->sk, and not NULL. Both functions of Linux 6.2 are types to the
 * verifier and nothing to the processor, where the helper is a call, which costs more than most of what is read.
 */
static __always_inline struct tcp_sock *tcp_of(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct bpf_sock_ops_kern *inside;

	if (!bpf_cast_to_kern_ctx || !bpf_rdonly_cast)
		return (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	inside = bpf_cast_to_kern_ctx(ctx);
	return bpf_rdonly_cast(inside->sk, bpf_core_type_id_kernel(struct tcp_sock));
}

#endif
