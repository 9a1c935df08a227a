// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Shared window: the initial congestion window of a new connection, learned from the open ones to the same network
 * (RFC 9040). The value is a cap, in segments. Connections of one service to peers of one prefix (/24, or /48 for
 * IPv6) in one network namespace learn from each other; what they know is forgotten after ten seconds without news.
 *
 * Once a round trip, a connection that is not waiting for its application teaches its group its congestion window (in
 * slow start only where it has come further than what is known), its round-trip time, and that it is active. What all
 * of them together have delivered, at the best of times when there was a queue, is the capacity of the path.
 *
 * A new connection begins with the least of the upper quartile of these windows, its share of the path (capacity times
 * smallest round-trip time, over the active connections, itself and one more: a quarter at most, for slow start doubles
 * it), what losses allow, and the cap; two thirds of the share where the handshake's round trip shows a queue. Where
 * nobody has seen the limit of the path, it is half of the quartile. It is never less than what the kernel would
 * give, 10 segments, nor, while losses allow it, than 44, the 64 KB that a Linux peer takes at first.
 *
 * The first window goes out at once where it is no more than 44 segments, the handshake has seen no queue, and nobody
 * was given a window in the last round trip: then all of the queue is free, whoever else uses the path. It also does
 * where the longest round trip of late shows that the queue has room for 44 segments or all: as much as there is room
 * for, half as much where there is a queue already. Otherwise it is paced, as slow start is where TCP paces itself: it
 * goes out in half a round trip. A slower pacing_rate holds. A connection that was paced once goes on pacing itself,
 * the kernel has no way back, and its CUBIC then finds the end of slow start late.
 *
 * A connection that loses more than a quarter of a first window of more than 10 segments halves what losses allow its
 * group; each whose first window gets through adds half. What it loses later is slow start's fault. The slow start
 * threshold is never shared: what a short connection found congested would hold back a long one (Linux 65e6d90168f3).
 * Where nothing is known, and where the handshake had to be repeated, the connection begins as it would have without:
 * with initial_cwnd, if a policy sets that.
 */
#include <pliant/feature.h>
#include <pliant/path.h>
#include <pliant/window_histogram.h>

#include <bpf/bpf_core_read.h>

#define TCP_BPF_IW	   1001
#define SO_MAX_PACING_RATE 47
#define TCP_FIN_WAIT2	   5
#define TCP_CLOSE	   7
#define NO_LIMIT	   (~0U)
#define MAX_GROUPS	   4096 /* the one that was longest without use goes first */
#define MOST_SEGMENTS	   1000

const volatile __u32 least_segments = 10; /* what the kernel begins with, TCP_INIT_CWND */
const volatile __u32 least_offered_segments = 44;
const volatile __u32 quantile_percent = 75;
const volatile __u32 prefix_bits_v4 = 24;
const volatile __u32 prefix_bits_v6 = 48;
const volatile __u64 expiry_ns = 10000000000; /* without news, nothing is known */
const volatile __u32 tolerated_loss = 4;      /* one in so many segments of the initial window */

struct setting {
	__u32 segments;
};

FEATURE_SETTINGS;

struct group_key {
	__u64 namespace;
	__u64 cgroup;
	__u32 peer[4]; /* the prefix; the rest is zero */
};

struct group {
	__u64 taught_ns; /* when a window was last learned */
	struct window_histogram known;
	struct path path;
	__u64 halved_ns;
	__u32 losses;  /* how often it was halved */
	__u32 allowed; /* segments, after losses; 0: nothing was lost yet */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_GROUPS);
	__type(key, struct group_key);
	__type(value, struct group);
} groups SEC(".maps");

struct flow {
	struct group_key key;
	__u64 begun_ns;
	__u32 cap;
	__u32 granted;	 /* segments; 0: it began as it would have */
	__u32 delivered; /* segments, when it was last looked at */
	__u32 lost;	 /* segments of the first window */
	__u32 counted;	 /* see count_active() */
	__u32 is_judged; /* whether its first window did well is decided */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct flow);
} flows SEC(".maps");

static const struct group nothing_known = {};

/* -- groups */

static __always_inline __u32 masked(__u32 word, int bits)
{
	return bits <= 0 ? 0 : bits >= 32 ? word : word & bpf_htonl(~0U << (32 - bits));
}

static __always_inline void read_key(struct bpf_sock_ops *ctx, struct sock *sk, struct group_key *key)
{
	struct sock_common *common = &sk->__sk_common;
	struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;

	key->namespace = bpf_get_netns_cookie(ctx);
	key->cgroup = cgroup ? cgroup->kn->id : 0;
	if (is_ipv4(sk)) {
		__u32 address =
		    common->skc_family == AF_INET ? common->skc_daddr : common->skc_v6_daddr.in6_u.u6_addr32[3];

		key->peer[2] = bpf_htonl(0xffff);
		key->peer[3] = masked(address, prefix_bits_v4);
		return;
	}
	key->peer[0] = masked(common->skc_v6_daddr.in6_u.u6_addr32[0], prefix_bits_v6);
	key->peer[1] = masked(common->skc_v6_daddr.in6_u.u6_addr32[1], (int)prefix_bits_v6 - 32);
	key->peer[2] = masked(common->skc_v6_daddr.in6_u.u6_addr32[2], (int)prefix_bits_v6 - 64);
	key->peer[3] = masked(common->skc_v6_daddr.in6_u.u6_addr32[3], (int)prefix_bits_v6 - 96);
}

static __always_inline struct group *group_of(const struct group_key *key)
{
	struct group *group = bpf_map_lookup_elem(&groups, key);

	if (group)
		return group;
	bpf_map_update_elem(&groups, key, &nothing_known, BPF_NOEXIST);
	return bpf_map_lookup_elem(&groups, key);
}

static __always_inline bool is_expired(const struct group *group, __u64 now)
{
	return now - group->taught_ns > expiry_ns;
}

/* -- teaching */

/*
 * Whether the congestion window is what holds the connection back. The kernel keeps track of that; one that paces
 * itself below its window (BBR) has unsent data all the time instead.
 */
static __always_inline bool uses_its_window(struct tcp_sock *tcp)
{
	if (bpf_core_field_exists(tcp->is_cwnd_limited) && BPF_CORE_READ_BITFIELD(tcp, is_cwnd_limited))
		return true;
	return !tcp->app_limited && (__s32)(tcp->write_seq - tcp->snd_nxt) > (__s32)tcp->mss_cache;
}

static __always_inline void teach_window(struct group *group, struct tcp_sock *tcp, __u64 now)
{
	__u32 segments = tcp->snd_cwnd;

	if (is_expired(group, now)) {
		group->allowed = 0;
		__builtin_memset(&group->known, 0, sizeof(group->known));
		group->known.faded_ns = now;
	}
	group->taught_ns = now;
	fade(&group->known, now);
	if (segments >= tcp->snd_ssthresh || segments >= quantile(&group->known, quantile_percent))
		add_window(&group->known, segments);
}

static __always_inline void teach(struct group *group, struct flow *flow, struct tcp_sock *tcp, __u64 now)
{
	__u32 least_us = tcp->rtt_min.s[0].v, rtt_us = tcp->srtt_us >> 3, delivered = tcp->delivered;
	struct path *path = &group->path;

	roll(path, now);
	if (least_us && least_us != ~0U && (!path->least_rtt_us[0] || least_us < path->least_rtt_us[0]))
		path->least_rtt_us[0] = least_us;
	__sync_fetch_and_add(&path->bytes, (__u64)(delivered - flow->delivered) * tcp->mss_cache);
	flow->delivered = delivered;
	if (!uses_its_window(tcp))
		return;
	count_active(path, &flow->counted);
	if (rtt_us > path->most_rtt_us[0])
		path->most_rtt_us[0] = rtt_us;
	if (has_queue(path, rtt_us))
		path->was_full = 1;
	teach_window(group, tcp, now);
}

/* -- what becomes of a window that was given */

/* Whether so many bytes of the connection are past its first window. */
static __always_inline bool is_past_first(const struct flow *flow, const struct tcp_sock *tcp, __u64 bytes)
{
	return bytes >= (__u64)flow->granted * tcp->mss_cache;
}

/* Segments are sent again, from a sequence number on. */
static __always_inline void punish(struct group *group, struct flow *flow, struct tcp_sock *tcp, __u32 sequence,
				   __u32 segments, __u64 now)
{
	__u32 half = flow->granted / 2;

	if (flow->is_judged || flow->granted <= least_segments)
		return;
	if (is_past_first(flow, tcp, tcp->bytes_acked + (sequence - tcp->snd_una)))
		return;
	flow->lost += segments;
	if (flow->lost <= flow->granted / tolerated_loss)
		return;
	flow->is_judged = 1;
	if (flow->begun_ns < group->halved_ns)
		return; /* it began before the last halving could help it */
	if (group->allowed && group->allowed < half)
		return;
	group->allowed = half > least_segments ? half : least_segments;
	group->halved_ns = now;
	group->losses++;
}

static __always_inline void reward(struct group *group, struct flow *flow, struct tcp_sock *tcp)
{
	if (flow->is_judged || !flow->granted || !is_past_first(flow, tcp, tcp->bytes_acked))
		return;
	flow->is_judged = 1;
	if (group->allowed)
		group->allowed += group->allowed / 2 + 1;
	if (group->allowed > MOST_SEGMENTS)
		group->allowed = 0;
}

/* -- a new connection */

/* A first window in segments, 0 where nothing is known. */
struct offer {
	__u32 segments;
	bool is_burst;
};

static __always_inline __u32 least(__u32 one, __u64 other)
{
	return one < other ? one : (__u32)other;
}

static __always_inline struct offer offer_to(struct group *group, struct flow *flow, struct tcp_sock *tcp, __u64 now)
{
	__u32 segments, mss = tcp->mss_cache, rtt_us = tcp->srtt_us >> 3;
	struct path *path = &group->path;
	__u64 share, room;
	bool is_queued;

	if (is_expired(group, now) || !mss || !rtt_us || tcp->total_retrans)
		return (struct offer){0, false};
	roll(path, now);
	fade(&group->known, now);
	segments = quantile(&group->known, quantile_percent);
	if (!segments)
		return (struct offer){0, false};
	share = share_of(path) * least_rtt_of(path) / 1000000 / mss;
	room = room_of(path, rtt_us, now) / mss;
	is_queued = has_queue(path, rtt_us);
	if (is_queued) {
		share = share * 2 / 3;
		room /= 2;
	}
	segments = least(segments, capacity_of(path) ? share : segments / 2);
	if (segments < least_offered_segments)
		segments = least_offered_segments;
	if (group->allowed)
		segments = least(segments, group->allowed);
	segments = least(segments, flow->cap);
	if (segments < least_segments)
		segments = least_segments;
	if (!is_queued && segments <= least_offered_segments && !is_promised(path, rtt_us, now))
		return (struct offer){segments, true};
	if (room >= least(segments, least_offered_segments))
		return (struct offer){least(segments, room), true};
	return (struct offer){segments, false};
}

/*
 * Have TCP pace the connection itself, as it does once there has been any limit. It reckons the rate of an accepted
 * one anew right after this callback; that of a connecting one is still that of ten segments until the first
 * acknowledgement.
 */
static __always_inline void pace(struct bpf_sock_ops *ctx)
{
	__u32 limit, hardly_any = NO_LIMIT - 1, none = NO_LIMIT;

	if (bpf_getsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &limit, sizeof(limit)) || limit != NO_LIMIT)
		return; /* it is paced already */
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &hardly_any, sizeof(hardly_any));
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &none, sizeof(none));
}

static __always_inline void begin(struct bpf_sock_ops *ctx, struct tcp_sock *tcp, struct flow *flow)
{
	__u64 now = bpf_ktime_get_ns();
	struct group *group;
	struct offer offer;
	int segments;
	long refused;

	read_key(ctx, (struct sock *)tcp, &flow->key);
	flow->begun_ns = now;
	flow->delivered = tcp->delivered;
	want_callbacks(ctx, BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RETRANS_CB_FLAG);
	group = group_of(&flow->key);
	if (!group)
		return;
	offer = offer_to(group, flow, tcp, now);
	if (!offer.segments) {
		count_outcome(FEATURE_UNCHANGED);
		return;
	}
	segments = offer.segments;
	refused = bpf_setsockopt(ctx, SOL_TCP, TCP_BPF_IW, &segments, sizeof(segments));
	count_result(refused);
	if (refused)
		return;
	flow->granted = segments;
	count_active(&group->path, &flow->counted);
	promise(&group->path, (__u64)segments * tcp->mss_cache, tcp->srtt_us >> 3, now);
	if (!offer.is_burst)
		pace(ctx);
}

/* -- callbacks */

static __always_inline void on_later(struct bpf_sock_ops *ctx, struct tcp_sock *tcp, struct flow *flow)
{
	struct group *group = group_of(&flow->key);
	__u64 now = bpf_ktime_get_ns();

	if (!group)
		return;
	switch (ctx->op) {
	case BPF_SOCK_OPS_RTT_CB:
		teach(group, flow, tcp, now);
		reward(group, flow, tcp);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		punish(group, flow, tcp, ctx->args[0], ctx->args[1], now);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] != TCP_CLOSE && ctx->args[1] != TCP_FIN_WAIT2)
			break;
		roll(&group->path, now);
		count_ended(&group->path, &flow->counted);
		reward(group, flow, tcp);
		break;
	}
}

static __always_inline struct flow *begun_flow(struct bpf_sock *sk, const struct setting *setting)
{
	struct flow *flow;

	if (!setting)
		return 0;
	flow = bpf_sk_storage_get(&flows, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!flow)
		return 0;
	__builtin_memset(flow, 0, sizeof(*flow)); /* a socket that connects again */
	flow->cap = setting->segments;
	return flow;
}

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp;
	struct flow *flow;

	if (!sk)
		return;
	if (is_judged(moment))
		flow = begun_flow(sk, setting);
	else
		flow = bpf_sk_storage_get(&flows, sk, 0, 0);
	tcp = (struct tcp_sock *)bpf_skc_to_tcp_sock(sk);
	if (!flow || !tcp)
		return;
	if (moment == ACCEPTED || moment == ESTABLISHED)
		begin(ctx, tcp, flow);
	else if (moment == LATER && flow->begun_ns)
		on_later(ctx, tcp, flow);
}

FEATURE(shared_window)
