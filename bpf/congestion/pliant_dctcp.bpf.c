// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * DCTCP (RFC 8257): slow down by as much as the path is congested. For networks under one administration whose switches
 * mark packets above a threshold (ECN), not for the Internet.
 *
 * The sender keeps alpha, a moving average of the share of bytes that were marked in each window of data, and reduces
 * its window by alpha/2 when it is told of marks, at most once per window: by half when everything is marked, hardly
 * when little is (3.3). To a loss it reacts as any TCP: by half (3.4, 3.5). Otherwise it grows as Reno does.
 *
 * The receiver echoes exactly the marks that came in: ECE is set while packets are marked and clear while they are not.
 * When that changes while an acknowledgement is being delayed, one goes out at once for the packets before the change,
 * and another one for the packet that made it (3.2).
 *
 * The kernel marks the SYN and all other packets as ECN-capable for a control that needs ECN (3.6). A connection whose
 * peer did not agree to ECN is given to Reno, which also takes those marks off it. That may be known only after the
 * control was chosen, and while a BPF program is choosing one no other may be chosen: then it happens before the first
 * data are sent or when the first acknowledgement comes in.
 */
#include <pliant/congestion.h>

#define FORMAT 0xdc7c0001

#define ONE	   (1U << 20) /* alpha is a share of this */
#define GAIN_SHIFT 4	      /* g = 1/16 (4.2) */

/* tp->ecn_flags */
#define TCP_ECN_MODE_RFC3168 (1 << 0)
#define TCP_ECN_DEMAND_CWR   (1 << 2)
#define TCP_ECN_MODE_ACCECN  (1 << 4)
#define TCP_ECN_NEGOTIATED   (TCP_ECN_MODE_RFC3168 | TCP_ECN_MODE_ACCECN)

/* icsk_ack.pending */
#define ICSK_ACK_TIMER (1 << 1)
#define ICSK_ACK_NOW   (1 << 4)

struct pliant_dctcp {
	struct state state;
	__u32 alpha;
	__u64 bytes_acked;   /* all that was acknowledged up to the last acknowledgement */
	__u64 window_acked;  /* in this window of data (DCTCP.BytesAcked) */
	__u64 window_marked; /* (DCTCP.BytesMarked) */
	__u32 window_end;    /* (DCTCP.WindowEnd) */
	__u32 cwnd_before;   /* the last reduction, for one that turns out to be wrong */
	__u32 acknowledged;  /* rcv_nxt as of the packet before the one that comes in */
	__u32 windows;	     /* of data that alpha is made of, since the beginning */
	__u8 heard;	     /* there was one */
	__u8 marked;	     /* it was marked (DCTCP.CE) */
	__u8 told;	     /* the last acknowledgement carried ECE */
	__u8 settled;	     /* the peer has agreed to ECN */
};

static __always_inline void begin_window(struct pliant_dctcp *self, const struct tcp_sock *tp)
{
	self->window_end = tp->snd_nxt;
	self->window_acked = 0;
	self->window_marked = 0;
}

/*
 * Whether the connection stays with DCTCP. After false its state is no longer ours. A connecting socket that chose
 * DCTCP before it was open comes here with its SYN-ACK, before init(): nothing is to be done yet. Where Reno is
 * refused, it stays and is treated like Reno: no marks are echoed to it, so all that it gets to know of are losses.
 */
static __always_inline bool stays(struct sock *sk, struct pliant_dctcp *self)
{
	char reno[] = "reno";

	if (self->state.format != FORMAT)
		return false;
	if (self->settled)
		return true;
	if (tcp_sk(sk)->ecn_flags & TCP_ECN_NEGOTIATED) {
		self->settled = true;
		return true;
	}
	return bpf_setsockopt(sk, SOL_TCP, TCP_CONGESTION, reno, sizeof(reno)) != 0;
}

SEC("struct_ops") void BPF_PROG(pliant_dctcp_init, struct sock *sk)
{
	struct pliant_dctcp *self = private_state(sk);
	const struct pliant_dctcp *moved = moved_state(sk, FORMAT);
	struct tcp_sock *tp = tcp_sk(sk);

	if (moved) {
		self->alpha = moved->alpha;
		self->windows = moved->windows;
		self->marked = moved->marked;
		self->heard = moved->heard;
		self->acknowledged = moved->acknowledged;
		self->cwnd_before = moved->cwnd_before;
	} else {
		self->alpha = ONE; /* 4.2 */
	}
	self->state.format = FORMAT;
	self->bytes_acked = tp->bytes_acked;
	begin_window(self, tp);
	if (sk->__sk_common.skc_state != TCP_SYN_SENT)
		stays(sk, self);
}

/* 3.3: what was acknowledged, how much of it was marked, and after each window of data a new alpha. */
SEC("struct_ops") void BPF_PROG(pliant_dctcp_in_ack_event, struct sock *sk, __u32 flags)
{
	struct pliant_dctcp *self = private_state(sk);
	struct tcp_sock *tp = tcp_sk(sk);
	__u64 acked;

	if (!stays(sk, self))
		return;
	if (sk->__sk_common.skc_state == TCP_SYN_SENT) { /* only now are there sequence numbers */
		self->bytes_acked = tp->bytes_acked;
		begin_window(self, tp);
		return;
	}
	acked = tp->bytes_acked - self->bytes_acked;
	self->bytes_acked = tp->bytes_acked;
	self->window_acked += acked;
	self->told = flags & CA_ACK_ECE ? 1 : 0;
	if (self->told)
		self->window_marked += acked;
	if (!is_after(tp->snd_una, self->window_end))
		return;
	if (self->window_acked) {
		__u64 share = self->window_marked * ONE / self->window_acked;

		self->alpha += (share >> GAIN_SHIFT) - (self->alpha >> GAIN_SHIFT);
		self->alpha = smallest(self->alpha, ONE);
		self->windows++;
	}
	begin_window(self, tp);
}

SEC("struct_ops") __u32 BPF_PROG(pliant_dctcp_ssthresh, struct sock *sk)
{
	struct pliant_dctcp *self = private_state(sk);
	__u32 cwnd = tcp_sk(sk)->snd_cwnd;
	__u32 cut = self->settled && self->told ? (__u64)cwnd * self->alpha / (2 * ONE) : cwnd / 2;

	self->cwnd_before = cwnd;
	return largest(cwnd - cut, LEAST_WINDOW);
}

/*
 * 3.4, 3.5: a loss halves the window, also where marks have reduced it a little within the same window of data; what it
 * was before the reduction began counts, so the two do not add up.
 */
SEC("struct_ops") void BPF_PROG(pliant_dctcp_set_state, struct sock *sk, __u8 new_state)
{
	struct tcp_sock *tp = tcp_sk(sk);

	if (new_state == TCP_CA_Recovery || new_state == TCP_CA_Loss)
		tp->snd_ssthresh = smallest(tp->snd_ssthresh, largest(tp->prior_cwnd / 2, LEAST_WINDOW));
}

SEC("struct_ops") __u32 BPF_PROG(pliant_dctcp_undo_cwnd, struct sock *sk)
{
	struct pliant_dctcp *self = private_state(sk);

	return largest(tcp_sk(sk)->snd_cwnd, self->cwnd_before);
}

SEC("struct_ops") void BPF_PROG(pliant_dctcp_cong_avoid, struct sock *sk, __u32 ack, __u32 acked)
{
	tcp_reno_cong_avoid(sk, ack, acked);
}

static __always_inline void echo(struct tcp_sock *tp, bool marked)
{
	__u8 flags = tp->ecn_flags;

	tp->ecn_flags = marked ? flags | TCP_ECN_DEMAND_CWR : flags & ~TCP_ECN_DEMAND_CWR;
}

/* 3.2: a packet of data has come in. */
static __always_inline void received(struct sock *sk, struct pliant_dctcp *self, bool marked)
{
	struct tcp_sock *tp = tcp_sk(sk);
	__u8 pending = tp->inet_conn.icsk_ack.pending;

	if (marked != self->marked) {
		if (self->heard && pending & ICSK_ACK_TIMER) { /* packets before this one are not acknowledged yet */
			echo(tp, self->marked);
			bpf_tcp_send_ack(tp, self->acknowledged);
			pending = tp->inet_conn.icsk_ack.pending;
		}
		tp->inet_conn.icsk_ack.pending = pending | ICSK_ACK_NOW;
		self->marked = marked;
		echo(tp, marked);
	}
	self->heard = true;
	self->acknowledged = tp->rcv_nxt;
}

SEC("struct_ops") void BPF_PROG(pliant_dctcp_cwnd_event, struct sock *sk, enum tcp_ca_event event)
{
	struct pliant_dctcp *self = private_state(sk);

	if (event == CA_EVENT_ECN_IS_CE)
		received(sk, self, true);
	else if (event == CA_EVENT_ECN_NO_CE)
		received(sk, self, false);
	else if (event == CA_EVENT_TX_START)
		stays(sk, self);
}

SEC(".struct_ops") struct tcp_congestion_ops pliant_dctcp = {
    .init = (void *)pliant_dctcp_init,
    .in_ack_event = (void *)pliant_dctcp_in_ack_event,
    .ssthresh = (void *)pliant_dctcp_ssthresh,
    .set_state = (void *)pliant_dctcp_set_state,
    .undo_cwnd = (void *)pliant_dctcp_undo_cwnd,
    .cong_avoid = (void *)pliant_dctcp_cong_avoid,
    .cwnd_event = (void *)pliant_dctcp_cwnd_event,
    .flags = TCP_CONG_NEEDS_ECN,
    .name = "pliant_dctcp",
};

CONTROL(pliant_dctcp)
