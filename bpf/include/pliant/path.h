/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What connections that share a path have found out about it: what it delivers to all of them, its round-trip time
 * with an empty and with a full queue, and how many are at work on it.
 *
 * Time goes in epochs of a few round trips, over which bytes and connections are counted, and in turns of
 * ``turn_ns``, after two of which a largest or smallest value is forgotten. Capacity is the most that was delivered in
 * one epoch, of those in which somebody saw a queue: others say nothing about the limit.
 *
 * Several CPUs write without a lock, see window_histogram.h.
 */
#ifndef PLIANT_PATH_H
#define PLIANT_PATH_H

#include <stdbool.h>

#include <pliant/kernel.h>

const volatile __u64 turn_ns = 5000000000;
const volatile __u32 epoch_rounds = 2;
const volatile __u64 shortest_epoch_ns = 20000000;

struct path {
	__u64 epoch_ns; /* when this epoch began */
	__u64 bytes;	/* delivered in it */
	__u32 epoch;	/* its number */
	__u32 active;	/* connections seen at work in it */
	__u32 active_before;
	__u32 was_full;	       /* somebody saw a queue in it */
	__u64 turned_ns;       /* when this turn began; of the next three, [0] is of it and [1] of the one before */
	__u64 capacity[2];     /* bytes a second; 0: unknown */
	__u32 least_rtt_us[2]; /* 0: unknown */
	__u32 most_rtt_us[2];
	__u64 promised_ns; /* when the last new connection was given a window */
	__u64 promised;	   /* bytes of windows given since none was for a round trip */
};

static __always_inline __u64 capacity_of(const struct path *path)
{
	return path->capacity[0] > path->capacity[1] ? path->capacity[0] : path->capacity[1];
}

static __always_inline __u32 least_rtt_of(const struct path *path)
{
	__u32 one = path->least_rtt_us[0], other = path->least_rtt_us[1];

	return !one || (other && other < one) ? other : one;
}

static __always_inline __u32 most_rtt_of(const struct path *path)
{
	return path->most_rtt_us[0] > path->most_rtt_us[1] ? path->most_rtt_us[0] : path->most_rtt_us[1];
}

/* Whether a round-trip time says that there is a queue: an eighth more than the least, as HyStart has it. */
static __always_inline bool has_queue(const struct path *path, __u32 rtt_us)
{
	__u32 least = least_rtt_of(path);

	return least && rtt_us > least + least / 8;
}

static __always_inline void turn(struct path *path, __u64 now)
{
	bool is_next = now - path->turned_ns < 2 * turn_ns;

	if (now - path->turned_ns < turn_ns)
		return;
	path->turned_ns = now;
	path->capacity[1] = is_next ? path->capacity[0] : 0;
	path->least_rtt_us[1] = is_next ? path->least_rtt_us[0] : 0;
	path->most_rtt_us[1] = is_next ? path->most_rtt_us[0] : 0;
	path->capacity[0] = 0;
	path->least_rtt_us[0] = 0;
	path->most_rtt_us[0] = 0;
}

/* Begin a new epoch where it is time; one of two CPUs that come at once does it. */
static __noinline void roll(struct path *path, __u64 now)
{
	__u64 began, length, since, rate;

	if (!path)
		return;
	turn(path, now);
	began = path->epoch_ns;
	since = now - began;
	length = (__u64)least_rtt_of(path) * 1000 * epoch_rounds;
	if (length < shortest_epoch_ns)
		length = shortest_epoch_ns;
	if (since < length || __sync_val_compare_and_swap(&path->epoch_ns, began, now) != began)
		return;
	rate = path->bytes * 1000 / (since / 1000000);
	if (path->was_full && rate > path->capacity[0])
		path->capacity[0] = rate;
	path->active_before = since < 2 * length ? path->active : 0;
	path->active = 0;
	path->bytes = 0;
	path->was_full = 0;
	path->epoch++;
}

/* A connection is at work. ``counted`` is its own: the epoch in which it was last counted, plus one. */
static __always_inline void count_active(struct path *path, __u32 *counted)
{
	if (*counted == path->epoch + 1)
		return;
	*counted = path->epoch + 1;
	__sync_fetch_and_add(&path->active, 1);
}

/* One that has ended is not at work any more, not even in the epoch before. */
static __always_inline void count_ended(struct path *path, __u32 *counted)
{
	if (*counted == path->epoch + 1 && path->active)
		__sync_fetch_and_add(&path->active, -1);
	else if (*counted && *counted == path->epoch && path->active_before)
		__sync_fetch_and_add(&path->active_before, -1);
	*counted = 0;
}

/*
 * What is one more connection's share, in bytes a second; 0 where the capacity is not known. One is left over, and a
 * quarter of it is the most: slow start doubles that, and when half a round trip of acknowledgements comes in one
 * piece, HyStart ends it. Then the path is full, and the queue still empty.
 */
static __always_inline __u64 share_of(const struct path *path)
{
	__u32 active = path->active > path->active_before ? path->active : path->active_before;

	return capacity_of(path) / (active > 2 ? active + 2 : 4);
}

/* Whether somebody was given a window in the last round trip: nobody can have seen yet what became of it. */
static __always_inline bool is_promised(const struct path *path, __u32 rtt_us, __u64 now)
{
	return now - path->promised_ns < rtt_us * 1000ULL;
}

/*
 * What the queue has room for, in bytes, as a connection sees whose round trip has just taken ``rtt_us``: what the path
 * delivers in the time that is left to the longest round trip, less what is promised.
 */
static __always_inline __u64 room_of(const struct path *path, __u32 rtt_us, __u64 now)
{
	__u32 most = most_rtt_of(path);
	__u64 room = most > rtt_us ? capacity_of(path) * (most - rtt_us) / 1000000 : 0;

	if (!is_promised(path, rtt_us, now))
		return room;
	return room > path->promised ? room - path->promised : 0;
}

static __always_inline void promise(struct path *path, __u64 bytes, __u32 rtt_us, __u64 now)
{
	if (!is_promised(path, rtt_us, now))
		path->promised = 0;
	path->promised_ns = now;
	path->promised += bytes;
}

#endif
