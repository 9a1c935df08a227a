/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a congestion control is made of. Its source has the algorithm, a state of at most PRIVATE_BYTES, and ends by
 * naming itself:
 *
 *	struct pliant_cubic {
 *		struct state state;
 *		...
 *	};
 *
 *	SEC("struct_ops") __u32 BPF_PROG(pliant_cubic_ssthresh, struct sock *sk)
 *	...
 *	SEC(".struct_ops") struct tcp_congestion_ops pliant_cubic = {
 *		.ssthresh = (void *)pliant_cubic_ssthresh,
 *		...
 *	};
 *
 *	CONTROL(pliant_cubic)
 *
 * CONTROL adds two iterators over the TCP sockets of a network namespace. ``move`` gives the connections that run
 * another build of the same name to this one: the kernel replaces a control for new connections only, and leaves open
 * ones with the code they have. ``flows`` writes the state of each connection that runs any build, for people and
 * tests.
 *
 * A connection takes its state along when it moves, if both builds give it the same format. The iterator puts it into
 * the slot of its CPU and chooses the control by name; that calls init(), which looks into the slot.
 */
#ifndef PLIANT_CONGESTION_H
#define PLIANT_CONGESTION_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define SOL_TCP		6
#define TCP_CONGESTION	13
#define TCP_CA_NAME_MAX 16
#define PRIVATE_WORDS	13
#define PRIVATE_BYTES	(PRIVATE_WORDS * 8)

#define TCP_INFINITE_SSTHRESH 0x7fffffff
#define LEAST_WINDOW	      2 /* segments; RFC 5681 3.1, equation 4 */

enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
};

/* The kernel's types, as far as they are looked into; the loader finds the fields (CO-RE). */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

enum tcp_ca_state {
	TCP_CA_Open,
	TCP_CA_Disorder,
	TCP_CA_CWR,
	TCP_CA_Recovery,
	TCP_CA_Loss,
};

enum tcp_ca_event {
	CA_EVENT_TX_START,
	CA_EVENT_CWND_RESTART,
	CA_EVENT_COMPLETE_CWR,
	CA_EVENT_LOSS,
	CA_EVENT_ECN_NO_CE,
	CA_EVENT_ECN_IS_CE,
};

enum tcp_ca_ack_event_flags {
	CA_ACK_ECE = 1 << 2,
};

struct sock_common {
	__be16 skc_dport;
	__u16 skc_num;
	volatile unsigned char skc_state;
};

struct sock {
	struct sock_common __sk_common;
};

struct inet_sock {
	struct sock sk;
};

struct ack_state {
	__u8 pending;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_congestion_ops *icsk_ca_ops;
	__u8 icsk_ca_state : 5;
	struct ack_state icsk_ack;
	__u64 icsk_ca_priv[PRIVATE_WORDS];
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 snd_cwnd;
	__u32 snd_cwnd_clamp;
	__u32 snd_ssthresh;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 prior_cwnd;
	__u32 max_packets_out;
	__u32 srtt_us; /* eight times the smoothed round-trip time */
	__u32 rcv_nxt;
	__u64 tcp_mstamp; /* us */
	__u64 bytes_acked;
	__u8 ecn_flags;
	__u8 is_cwnd_limited : 1;
};

struct tcp_congestion_ops {
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	void (*set_state)(struct sock *sk, __u8 new_state);
	void (*cwnd_event)(struct sock *sk, enum tcp_ca_event event);
	void (*in_ack_event)(struct sock *sk, __u32 flags);
	__u32 (*undo_cwnd)(struct sock *sk);
	char name[TCP_CA_NAME_MAX];
	__u32 flags;
	void (*init)(struct sock *sk);
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

#define TCP_CONG_NEEDS_ECN 0x2

/* What the kernel's own controls do in these places (net/ipv4/tcp_cong.c). */
extern __u32 tcp_slow_start(struct tcp_sock *tp, __u32 acked) __ksym;
extern void tcp_reno_cong_avoid(struct sock *sk, __u32 ack, __u32 acked) __ksym;

/* What every control's state begins with: which layout the rest has. A changed layout is given another number. */
struct state {
	__u32 format;
};

/* A connection's state on its way from one build to another; ``socket`` is whose it is, 0 for nobody's. */
struct moving {
	__u64 socket;
	__u64 state[PRIVATE_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct moving);
} moving SEC(".maps");

/* What the iterator ``flows`` writes for each connection. */
struct flow {
	__u16 local_port;
	__u16 remote_port;
	__u32 tcp_state;
	__u64 build; /* tells builds apart, and says nothing else */
	__u32 cwnd;
	__u32 ssthresh;
	__u64 state[PRIVATE_WORDS];
};

/* A type that no program names is left out of the object's BTF, where user space reads the layout. */
const struct flow *unused_flow __attribute__((unused));

static __always_inline struct tcp_sock *tcp_sk(struct sock *sk)
{
	return (struct tcp_sock *)sk;
}

static __always_inline void *private_state(struct sock *sk)
{
	return ((struct inet_connection_sock *)sk)->icsk_ca_priv;
}

static __always_inline __u32 largest(__u32 one, __u32 other)
{
	return one > other ? one : other;
}

static __always_inline __u32 smallest(__u32 one, __u32 other)
{
	return one < other ? one : other;
}

/* Whether a sequence number comes after another (RFC 9293 3.4: modulo 2^32). */
static __always_inline bool is_after(__u32 one, __u32 other)
{
	return (__s32)(other - one) < 0;
}

static __always_inline bool in_slow_start(const struct tcp_sock *tp)
{
	return tp->snd_cwnd < tp->snd_ssthresh;
}

/* Whether the window is what limits the sender: else it must not grow (RFC 7661). In slow start half of it is enough.
 */
static __always_inline bool is_window_limited(const struct tcp_sock *tp)
{
	if (in_slow_start(tp))
		return tp->snd_cwnd < 2 * tp->max_packets_out;
	return BPF_CORE_READ_BITFIELD(tp, is_cwnd_limited);
}

/* The state that the connection had under another build, in that format; NULL where it has none. For init(). */
static __always_inline const void *moved_state(struct sock *sk, __u32 format)
{
	__u32 zero = 0;
	struct moving *moved = bpf_map_lookup_elem(&moving, &zero);

	if (!moved || moved->socket != (__u64)sk || ((struct state *)moved->state)->format != format)
		return 0;
	return moved->state;
}

static __always_inline bool runs(const struct tcp_congestion_ops *ops, const char name[TCP_CA_NAME_MAX])
{
	for (int i = 0; i < TCP_CA_NAME_MAX; i++) {
		if (ops->name[i] != name[i])
			return false;
		if (!name[i])
			break;
	}
	return true;
}

/* Have a connection that runs some build of the control run the one that is registered now; write 1 if it changed. */
static __always_inline void move_connection(struct bpf_iter__tcp *ctx, char name[TCP_CA_NAME_MAX])
{
	struct sock_common *common = ctx->sk_common;
	struct inet_connection_sock *connection;
	const struct tcp_congestion_ops *before;
	__u32 zero = 0, one = 1;
	struct moving *slot = bpf_map_lookup_elem(&moving, &zero);

	if (!common || !slot)
		return;
	connection = (struct inet_connection_sock *)bpf_skc_to_tcp_sock(common);
	if (!connection)
		return;
	before = connection->icsk_ca_ops;
	if (!runs(before, name))
		return;
	bpf_core_read(slot->state, sizeof(slot->state), &connection->icsk_ca_priv);
	slot->socket = (__u64)common;
	bpf_setsockopt(common, SOL_TCP, TCP_CONGESTION, name, TCP_CA_NAME_MAX);
	slot->socket = 0;
	if (connection->icsk_ca_ops != before)
		bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
}

static __always_inline void write_flow(struct bpf_iter__tcp *ctx, const char name[TCP_CA_NAME_MAX])
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;
	struct flow flow = {};

	if (!common)
		return;
	tp = bpf_skc_to_tcp_sock(common);
	if (!tp || !runs(tp->inet_conn.icsk_ca_ops, name))
		return;
	flow.local_port = common->skc_num;
	flow.remote_port = __builtin_bswap16(common->skc_dport);
	flow.tcp_state = common->skc_state;
	flow.build = (__u64)tp->inet_conn.icsk_ca_ops;
	flow.cwnd = tp->snd_cwnd;
	flow.ssthresh = tp->snd_ssthresh;
	bpf_core_read(flow.state, sizeof(flow.state), &tp->inet_conn.icsk_ca_priv);
	bpf_seq_write(ctx->meta->seq, &flow, sizeof(flow));
}

/* The iterators of a control, and a check of what it declared. */
#define CONTROL(control)                                                                                     \
	_Static_assert(sizeof(struct control) <= PRIVATE_BYTES, "the kernel has no room for so much state"); \
	_Static_assert(sizeof(#control) <= TCP_CA_NAME_MAX, "the name is too long");                         \
                                                                                                             \
	SEC("iter/tcp") int move(struct bpf_iter__tcp *ctx)                                                  \
	{                                                                                                    \
		char name[TCP_CA_NAME_MAX] = #control;                                                       \
                                                                                                             \
		move_connection(ctx, name);                                                                  \
		return 0;                                                                                    \
	}                                                                                                    \
                                                                                                             \
	SEC("iter/tcp") int flows(struct bpf_iter__tcp *ctx)                                                 \
	{                                                                                                    \
		const char name[TCP_CA_NAME_MAX] = #control;                                                 \
                                                                                                             \
		write_flow(ctx, name);                                                                       \
		return 0;                                                                                    \
	}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
