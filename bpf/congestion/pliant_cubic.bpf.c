// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * CUBIC (RFC 9438), written to be copied: every step names the section it is from, and the arithmetic is integers
 * throughout. What it does not have is an early way out of slow start (HyStart++, RFC 9406).
 *
 * After a congestion event the window is beta = 0.7 of what it was, W_max. From there it follows a cubic function of
 * the time since, which rises steeply first, is flat where it reaches W_max again (after K), and then rises ever more
 * steeply in search of more:
 *
 *	W_cubic(t) = C * (t - K)^3 + W_max,  K = cbrt((W_max - cwnd_epoch) / C),  C = 0.4
 *
 * Each acknowledgement brings the window closer to where the function will be in one round trip, but by no more than
 * half a window per round trip (4.2, 4.4, 4.5). Where Reno would be faster, which is on short paths, the window is what
 * Reno's would be (4.3). A flow that reaches less than the last time leaves room for others (fast convergence, 4.7).
 *
 * Windows are in 1/1024 of a segment (UNIT), times in milliseconds since the beginning of the epoch.
 */
#include <pliant/congestion.h>

#define FORMAT 0xcb1c0001

#define UNIT_SHIFT  10
#define UNIT	    (1ULL << UNIT_SHIFT)
#define US_PER_MS   1000
#define MS3_PER_2S3 2500000000ULL /* 1/C, with seconds cubed in milliseconds cubed */
#define MOST_MS	    200000	  /* its cube times UNIT still fits into 64 bits */

/* What an undone reduction has to bring back (4.9). */
struct curve {
	__u64 began_us; /* of the epoch (t_epoch); 0: it begins with the next acknowledgement */
	__u64 reno;	/* W_est */
	__u32 k_ms;
	__u32 w_max; /* segments */
	__u32 peak;  /* cwnd_prior: segments, just before the last reduction */
};

struct pliant_cubic {
	struct state state;
	__u32 credit; /* what the window has earned beyond whole segments */
	struct curve now;
	struct curve before;
	__u64 last_ack_us;
	__u8 after_timeout;
};

/*
 * The cube root, to within 1: Newton's method from the power of two above, which is at most twice the root. Without
 * branches, for the verifier would follow both sides of each.
 */
static __always_inline __u32 cube_root(__u64 value)
{
	__u64 root;

	value |= 1;
	root = 1ULL << ((64 - __builtin_clzll(value) + 2) / 3);
	for (int i = 0; i < 6; i++)
		root = (2 * root + value / (root * root)) / 3;
	return root;
}

/* W_cubic(t) (4.2, figure 1). */
static __always_inline __u64 cubic_window(const struct curve *curve, __u64 t_ms)
{
	bool is_before = t_ms < curve->k_ms;
	__u64 distance = is_before ? curve->k_ms - t_ms : t_ms - curve->k_ms;
	__u64 w_max = (__u64)curve->w_max << UNIT_SHIFT, offset;

	if (distance > MOST_MS)
		distance = MOST_MS;
	offset = distance * distance * distance * UNIT / MS3_PER_2S3;
	if (!is_before)
		return w_max + offset;
	return offset < w_max ? w_max - offset : 0;
}

/* A stage of congestion avoidance begins (4.2); after a timeout on the far side of the curve (4.8). */
static __always_inline void begin_epoch(struct pliant_cubic *self, __u64 now_us, __u32 cwnd)
{
	struct curve *curve = &self->now;

	curve->began_us = now_us;
	curve->reno = (__u64)cwnd << UNIT_SHIFT;
	if (self->after_timeout || cwnd >= curve->w_max) {
		curve->w_max = cwnd;
		curve->k_ms = 0;
	} else {
		curve->k_ms = cube_root((curve->w_max - cwnd) * MS3_PER_2S3);
	}
	self->after_timeout = false;
	self->credit = 0;
}

/* W_est (4.3): what Reno with the same beta would have; its increase is 9/17 until the last peak, then 1. */
static __always_inline __u64 reno_window(struct curve *curve, __u32 cwnd, __u32 acked)
{
	__u64 increase = acked * UNIT / cwnd;

	if (curve->reno < (__u64)curve->peak << UNIT_SHIFT)
		increase = increase * 9 / 17; /* 3 * (1 - beta) / (1 + beta) */
	curve->reno += increase;
	return curve->reno;
}

static __always_inline void grow(struct tcp_sock *tp, struct pliant_cubic *self, __u32 acked)
{
	__u64 now_us = tp->tcp_mstamp, cwnd = (__u64)tp->snd_cwnd << UNIT_SHIFT, wanted, reno, t_ms;

	if (!self->now.began_us)
		begin_epoch(self, now_us, tp->snd_cwnd);
	t_ms = (now_us - self->now.began_us) / US_PER_MS;
	reno = reno_window(&self->now, tp->snd_cwnd, acked);
	if (cubic_window(&self->now, t_ms) < reno) { /* the Reno-friendly region */
		if (reno > cwnd)
			tp->snd_cwnd = smallest(reno >> UNIT_SHIFT, tp->snd_cwnd_clamp);
		return;
	}
	wanted = cubic_window(&self->now, t_ms + (tp->srtt_us >> 3) / US_PER_MS);
	if (wanted > cwnd + cwnd / 2)
		wanted = cwnd + cwnd / 2;
	if (wanted <= cwnd)
		return;
	self->credit += acked * (wanted - cwnd) / tp->snd_cwnd; /* (4.4, 4.5) */
	tp->snd_cwnd = smallest(tp->snd_cwnd + (self->credit >> UNIT_SHIFT), tp->snd_cwnd_clamp);
	self->credit &= UNIT - 1;
}

SEC("struct_ops") void BPF_PROG(pliant_cubic_init, struct sock *sk)
{
	struct pliant_cubic *self = private_state(sk);
	const struct pliant_cubic *moved = moved_state(sk, FORMAT);

	if (moved) {
		self->now = moved->now;
		self->before = moved->before;
		self->last_ack_us = moved->last_ack_us;
		self->after_timeout = moved->after_timeout;
	}
	self->state.format = FORMAT;
}

SEC("struct_ops") void BPF_PROG(pliant_cubic_cong_avoid, struct sock *sk, __u32 ack, __u32 acked)
{
	struct pliant_cubic *self = private_state(sk);
	struct tcp_sock *tp = tcp_sk(sk);

	self->last_ack_us = tp->tcp_mstamp;
	if (!is_window_limited(tp))
		return;
	if (in_slow_start(tp)) { /* 4.10 */
		acked = tcp_slow_start(tp, acked);
		if (!acked)
			return;
	}
	if (tp->snd_cwnd)
		grow(tp, self, acked);
}

/* The multiplicative decrease (4.6), with fast convergence (4.7). */
SEC("struct_ops") __u32 BPF_PROG(pliant_cubic_ssthresh, struct sock *sk)
{
	struct pliant_cubic *self = private_state(sk);
	__u32 cwnd = tcp_sk(sk)->snd_cwnd;

	self->before = self->now;
	self->now.w_max = cwnd < self->now.w_max ? (__u64)cwnd * 85 / 100 : cwnd; /* (1 + beta) / 2 */
	self->now.peak = cwnd;
	self->now.began_us = 0;
	return largest((__u64)cwnd * 7 / 10, LEAST_WINDOW);
}

SEC("struct_ops") void BPF_PROG(pliant_cubic_set_state, struct sock *sk, __u8 new_state)
{
	struct pliant_cubic *self = private_state(sk);

	if (new_state == TCP_CA_Loss) { /* 4.8 */
		self->now.began_us = 0;
		self->after_timeout = true;
	}
}

/* The reduction was for nothing: packets had come late or in another order (4.9). */
SEC("struct_ops") __u32 BPF_PROG(pliant_cubic_undo_cwnd, struct sock *sk)
{
	struct pliant_cubic *self = private_state(sk);
	__u32 peak = self->now.peak;

	self->now = self->before;
	self->after_timeout = false;
	return largest(tcp_sk(sk)->snd_cwnd, peak);
}

/* Time in which there was nothing to send does not count: the window would jump (4.2, 5.8). */
SEC("struct_ops") void BPF_PROG(pliant_cubic_cwnd_event, struct sock *sk, enum tcp_ca_event event)
{
	struct pliant_cubic *self = private_state(sk);
	__u64 now_us = tcp_sk(sk)->tcp_mstamp;

	if (event != CA_EVENT_TX_START || !self->now.began_us || now_us < self->last_ack_us)
		return;
	self->now.began_us += now_us - self->last_ack_us;
	self->last_ack_us = now_us;
}

SEC(".struct_ops") struct tcp_congestion_ops pliant_cubic = {
    .init = (void *)pliant_cubic_init,
    .cong_avoid = (void *)pliant_cubic_cong_avoid,
    .ssthresh = (void *)pliant_cubic_ssthresh,
    .set_state = (void *)pliant_cubic_set_state,
    .undo_cwnd = (void *)pliant_cubic_undo_cwnd,
    .cwnd_event = (void *)pliant_cubic_cwnd_event,
    .name = "pliant_cubic",
};

CONTROL(pliant_cubic)
