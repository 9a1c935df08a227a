/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of connections, by policy and arm: the evidence of what a policy is worth.
 *
 *   measured   socket        -> since when it is watched, and for which policies in which arm
 *   effects    (policy, arm) -> how many connections there were, and a histogram of each metric
 *
 * Each connection gives at most one sample to each metric, so samples are independent: when it ends or, if it lives
 * long, when it is ``long_ns`` old (what it had by then; its completion is recorded when it comes).
 */
#ifndef PLIANT_EFFECT_H
#define PLIANT_EFFECT_H

#include <pliant/kernel.h>
#include <pliant/scope.h>

#include <stdbool.h>

#define MAX_EFFECTS  4096 /* upper bound only: entries are made with their policy */
#define TCP_SYN_SENT 2
#define TCP_CLOSE    7

const volatile __u64 long_ns = 30000000000ULL;

enum effect_arm {
	ARM_TREATED,
	ARM_HELD_OUT,
};

enum effect_metric {
	COMPLETION_US,	   /* from the moment it is judged to its end */
	GOODPUT,	   /* bytes a second, both ways, over the time to completion */
	DELIVERY_RATE,	   /* bytes a second, the kernel's latest sample (tcp_rate.c) */
	SRTT_US,	   /* smoothed round-trip time, the latest */
	MIN_RTT_US,	   /* smallest round-trip time of the last minutes */
	RETRANSMITTED_PPM, /* of the data segments that it sent */
	BYTES,		   /* acknowledged by the peer and received from it */
	METRICS,
};

/* Eight buckets an octave: the lowest bits of each are exact integers, and none is wider than an eighth of its start.
 */
#define BUCKETS 256

struct histogram {
	__u64 count;
	__u64 sum;
	__u64 buckets[BUCKETS];
};

struct effect_key {
	__u32 policy; /* policy number */
	__u32 arm;
};

struct effect {
	__u64 connections; /* judged, in this arm */
	__u64 failures;	   /* of those that a socket of ours opened: never established */
	struct histogram metric[METRICS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_EFFECTS);
	__type(key, struct effect_key);
	__type(value, struct effect);
} effects SEC(".maps");

struct measured {
	__u64 since_ns;
	__u32 policy[MAX_RULE_POLICIES]; /* 0 ends the list */
	__u32 held_out;			 /* bit per place in the list */
	__u32 is_sampled;		 /* everything but its completion is recorded */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct measured);
} measured SEC(".maps");

static __always_inline __u32 bucket_of(__u64 value)
{
	__u32 msb = 0, bucket;

	if (value < 8)
		return value;
#pragma unroll
	for (int step = 32; step; step /= 2)
		if (value >> (msb + step))
			msb += step;
	bucket = ((msb - 2) << 3) + (value >> (msb - 3) & 7);
	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static __always_inline void add(struct histogram *histogram, __u64 value)
{
	__sync_fetch_and_add(&histogram->count, 1);
	__sync_fetch_and_add(&histogram->sum, value);
	__sync_fetch_and_add(&histogram->buckets[bucket_of(value) & (BUCKETS - 1)], 1);
}

/* A connection's sample of each metric; which of them it has is a bit mask. */
struct sample {
	__u64 value[METRICS];
	__u32 has;
	__u32 has_failed;
};

static __always_inline void note(struct sample *sample, enum effect_metric metric, __u64 value)
{
	sample->value[metric] = value;
	sample->has |= 1U << metric;
}

static __always_inline void read_sample(struct tcp_sock *tcp, struct sample *sample)
{
	if (tcp->rate_interval_us && tcp->rate_delivered)
		note(sample, DELIVERY_RATE,
		     (__u64)tcp->rate_delivered * tcp->mss_cache * 1000000 / tcp->rate_interval_us);
	if (tcp->srtt_us)
		note(sample, SRTT_US, tcp->srtt_us >> 3);
	if (tcp->rtt_min.s[0].v != ~0U)
		note(sample, MIN_RTT_US, tcp->rtt_min.s[0].v);
	if (tcp->data_segs_out)
		note(sample, RETRANSMITTED_PPM, (__u64)tcp->total_retrans * 1000000 / tcp->data_segs_out);
	note(sample, BYTES, tcp->bytes_acked + tcp->bytes_received);
}

static __always_inline void read_completion(struct tcp_sock *tcp, __u64 since_ns, struct sample *sample)
{
	__u64 elapsed_us = (bpf_ktime_get_ns() - since_ns) / 1000;
	__u64 bytes = tcp->bytes_acked + tcp->bytes_received;

	note(sample, COMPLETION_US, elapsed_us);
	if (elapsed_us && bytes)
		note(sample, GOODPUT, bytes * 1000000 / elapsed_us);
}

/* Add a sample to one policy's arm. Verified once, for it is not inlined. */
__noinline int record(const struct effect_key *key, const struct sample *sample)
{
	struct effect_key wanted; /* on the stack, as Linux before 6.3 wants a key */
	struct effect *effect;

	if (!key || !sample)
		return 0;
	wanted = *key;
	effect = bpf_map_lookup_elem(&effects, &wanted);
	if (!effect)
		return 0;
	if (sample->has_failed) {
		__sync_fetch_and_add(&effect->failures, 1);
		return 0;
	}
	for (int i = 0; i < METRICS; i++)
		if (sample->has >> i & 1)
			add(&effect->metric[i], sample->value[i]);
	return 0;
}

static __always_inline void record_for_all(const struct measured *watched, const struct sample *sample)
{
	for (int i = 0; i < MAX_RULE_POLICIES && watched->policy[i]; i++) {
		struct effect_key key = {.policy = watched->policy[i], .arm = watched->held_out >> i & 1};

		record(&key, sample);
	}
}

/* Count a connection that begins, in each of its arms. */
static __always_inline void count_beginning(const struct measured *watched)
{
	for (int i = 0; i < MAX_RULE_POLICIES && watched->policy[i]; i++) {
		struct effect_key key = {.policy = watched->policy[i], .arm = watched->held_out >> i & 1};
		struct effect *effect = bpf_map_lookup_elem(&effects, &key);

		if (effect)
			__sync_fetch_and_add(&effect->connections, 1);
	}
}

/* A watched connection has ended; one that was never established has failed. */
static __always_inline void record_end(struct tcp_sock *tcp, const struct measured *watched, bool was_established)
{
	struct sample sample = {.has_failed = !was_established};

	if (was_established) {
		if (!watched->is_sampled)
			read_sample(tcp, &sample);
		read_completion(tcp, watched->since_ns, &sample);
	}
	record_for_all(watched, &sample);
}

#endif
