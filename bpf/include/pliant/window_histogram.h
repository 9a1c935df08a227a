/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Congestion windows, as a histogram that fades: what was seen counts half after ``half_life_ns``, a quarter after
 * twice that. Four buckets an octave: a window is taken for at most a quarter less than it was.
 *
 * Several CPUs write without a lock: a count that is lost to a race is one of many, and all of them fade.
 */
#ifndef PLIANT_WINDOW_HISTOGRAM_H
#define PLIANT_WINDOW_HISTOGRAM_H

#include <pliant/kernel.h>

const volatile __u64 half_life_ns = 2000000000;

#define WINDOW_BUCKETS 40
#define WINDOW_WEIGHT  4096 /* of one window, so that it can be halved a few times */

struct window_histogram {
	__u64 faded_ns; /* up to when it was halved */
	__u32 windows[WINDOW_BUCKETS];
};

static __always_inline __u32 bucket_of(__u32 segments)
{
	__u32 octave = 0, bucket;

	if (segments < 8)
		return segments;
#pragma unroll
	for (int step = 8; step; step /= 2)
		if (segments >> (octave + step))
			octave += step;
	bucket = 8 + (octave - 3) * 4 + (segments >> (octave - 2) & 3);
	return bucket < WINDOW_BUCKETS ? bucket : WINDOW_BUCKETS - 1;
}

static __always_inline __u32 start_of(__u32 bucket)
{
	return bucket < 8 ? bucket : (4 + (bucket & 3)) << ((bucket >> 2) - 1);
}

static __noinline void fade(struct window_histogram *histogram, __u64 now)
{
	__u64 halvings;

	if (!histogram)
		return;
	halvings = (now - histogram->faded_ns) / half_life_ns;
	if (!halvings)
		return;
	histogram->faded_ns += halvings * half_life_ns;
	for (int i = 0; i < WINDOW_BUCKETS; i++)
		histogram->windows[i] = halvings < 32 ? histogram->windows[i] >> halvings : 0;
}

static __always_inline void add_window(struct window_histogram *histogram, __u32 segments)
{
	__u32 bucket = bucket_of(segments), *window;

	barrier_var(bucket); /* the verifier wants to see the check that the compiler finds superfluous */
	if (bucket >= WINDOW_BUCKETS)
		return;
	window = &histogram->windows[bucket];
	if (*window < 1U << 31)
		__sync_fetch_and_add(window, WINDOW_WEIGHT);
}

/* The window, in segments, that so many percent are below; 0 where there is none. */
static __noinline __u32 quantile(const struct window_histogram *histogram, __u32 percent)
{
	__u64 total = 0, below = 0;

	if (!histogram)
		return 0;
	for (int i = 0; i < WINDOW_BUCKETS; i++)
		total += histogram->windows[i];
	for (int i = 0; i < WINDOW_BUCKETS; i++) {
		below += histogram->windows[i];
		if (below * 100 > total * percent)
			return start_of(i);
	}
	return 0;
}

#endif
