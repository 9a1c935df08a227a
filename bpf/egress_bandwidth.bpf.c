// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Egress bandwidth: how fast the connections of a service may send together.
 *
 * A virtual queue stands for them all: it is drained at the rate of the policy, each packet that leaves adds its length
 * (IP header and payload; of one that the card will cut up, each part's headers too), and nothing is held back in it.
 * Its length is the burst that has gone out ahead of the rate. Three things keep it short:
 *
 *   - Pacing. Every connection is paced at a common level, so that no qdisc is needed and none is first: the level at
 *     which together they send what the policy allows. Who wants less than the level has what he wants, and what he
 *     leaves raises it for the others (max-min fairness). It is corrected about every 20 ms by what was sent since, and
 *     connections follow it once a round trip. A lower limit of the application, or by pacing_rate, holds.
 *   - Marks. Past a first length of the queue packets that are ECN-capable are marked (RFC 3168), and for others TCP is
 *     told of congestion on the spot, so that it reduces its window without a loss.
 *   - Drops. Past a second length packets are refused. They have not left TCP then, which sends them later: there is
 *     nothing to retransmit. This is what holds the rate in the first moments, until connections follow the level.
 *
 * Segments without payload count, but are never refused. What a process sends by other means than TCP is not counted,
 * neither are SYN-ACKs, for which there is no socket yet.
 *
 * Each service that the policy matches on this host has the bandwidth for itself, and what it has below its cgroup
 * shares it. Open connections have their part in it from the start, and are given back their own limit when it goes: it
 * is only for policies with applyTo: live. This is the one feature that runs for every packet that is sent, and once
 * for each round trip. Before Linux 6.12 the kernel does not tell of the round trips of connections that were open
 * before the policy: the virtual queue holds for them, but they are not paced, and the counters have them as refused.
 */
#include <pliant/feature.h>

#define SO_MAX_PACING_RATE	  47
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008
#define NO_LIMIT		  (~0U)
#define NS_PER_S		  1000000000ULL
#define MAX_BUCKETS		  4096
#define LOWEST_LEVEL		  1000 /* bytes a second */
#define SMALL			  128  /* bytes; what carries no payload is not longer */
#define IDLE_INTERVALS		  16   /* without a packet; the level says nothing then */

struct setting {
	__u64 bytes_per_second;
	__u64 mark_ns; /* lengths of the queue, as the time it takes to drain */
	__u64 drop_ns;
	__u64 interval_ns; /* after which the level is corrected */
};

FEATURE_SETTINGS;

struct bucket {
	__u64 drained_at_ns; /* when the virtual queue would be empty */
	__u64 since_ns;	     /* when the level was corrected last */
	__u64 bytes;	     /* sent since then */
	__u64 level;	     /* bytes a second that each connection is paced at */
	__u64 marked;
	__u64 congested; /* packets of which TCP was told of congestion */
	__u64 refused;
};

struct bucket_key {
	__u64 service; /* cgroup id */
	__u64 policy;  /* policy number */
};

/* Of services and policies that are gone the least recently used make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_BUCKETS);
	__type(key, struct bucket_key);
	__type(value, struct bucket);
} buckets SEC(".maps");

struct paced {
	__u32 ours;  /* what we set last, bytes a second */
	__u32 limit; /* what the socket had, or was given since by others */
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct paced);
} paced SEC(".maps");

static __always_inline struct bucket *bucket_of(const struct verdict *verdict, const struct setting *setting)
{
	struct bucket_key key = {.service = verdict->service, .policy = verdict->policy[option_slot]};
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &key);
	struct bucket fresh = {.level = setting->bytes_per_second};

	if (bucket)
		return bucket;
	fresh.since_ns = bpf_ktime_get_ns();
	bpf_map_update_elem(&buckets, &key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&buckets, &key);
}

/* -- connections: pacing */

/* Pace a socket at the level, or as its own limit says if that is lower. */
static __always_inline void follow(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u64 level)
{
	struct paced *kept = bpf_sk_storage_get(&paced, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	__u32 now = 0, rate = level < NO_LIMIT ? level : NO_LIMIT - 1;

	if (!kept || bpf_getsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &now, sizeof(now)))
		return;
	if (!kept->ours || now != kept->ours)
		kept->limit = now;
	if (rate > kept->limit)
		rate = kept->limit;
	if (kept->ours && now == kept->ours && rate - now + now / 32 <= now / 16)
		return; /* near enough */
	if (!bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)))
		kept->ours = rate;
}

SEC("sockops") int egress_bandwidth(struct bpf_sock_ops *ctx)
{
	struct verdict *verdict = verdict_of(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct setting *setting;
	struct bucket *bucket;

	if (!verdict || option_slot >= MAX_OPTIONS)
		return 1;
	setting = bpf_map_lookup_elem(&settings, &verdict->policy[option_slot]);
	if (setting && sk && is_judged(moment_of(ctx, verdict))) {
		want_callbacks(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
		count_outcome(FEATURE_APPLIED);
	} else if (setting && sk && ctx->op == BPF_SOCK_OPS_RTT_CB) {
		bucket = bucket_of(verdict, setting);
		if (bucket)
			follow(ctx, sk, bucket->level);
	}
	run_features(ctx, verdict->won & called_options(ctx->op), option_slot + 1);
	return 1;
}

/*
 * Give an open socket back its limit; if the policy is still there the socket follows the level again after its next
 * round trip. So whoever sets the limit after this (pacing_rate) finds, and gives back, the socket's own.
 */
static __always_inline void release(struct sock *sk)
{
	struct paced *kept = bpf_sk_storage_get(&paced, sk, 0, 0);
	__u32 now = 0;

	if (!kept)
		return;
	if (!bpf_getsockopt(sk, SOL_SOCKET, SO_MAX_PACING_RATE, &now, sizeof(now)) && now == kept->ours)
		bpf_setsockopt(sk, SOL_SOCKET, SO_MAX_PACING_RATE, &kept->limit, sizeof(kept->limit));
	bpf_sk_storage_delete(&paced, sk);
}

static __always_inline long want_round_trips(struct sock *sk)
{
	int flags = 0;
	long result = bpf_getsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));

	if (result || flags & BPF_SOCK_OPS_RTT_CB_FLAG)
		return result;
	flags |= BPF_SOCK_OPS_RTT_CB_FLAG;
	return bpf_setsockopt(sk, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
}

SEC("iter/tcp") int egress_bandwidth_open(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct verdict *verdict;
	struct sock *sk;
	bool was_paced;

	sk = common ? (struct sock *)bpf_skc_to_tcp_sock(common) : 0;
	if (!sk || option_slot >= MAX_OPTIONS)
		return 0;
	was_paced = bpf_sk_storage_get(&paced, sk, 0, 0);
	release(sk);
	verdict = bpf_sk_storage_get(&verdicts, sk, 0, 0);
	if (verdict && verdict->live >> option_slot & 1)
		count_result(want_round_trips(sk));
	else if (was_paced)
		count_outcome(FEATURE_RESTORED);
	return 0;
}

/* -- packets: the virtual queue */

/* Bytes at the IP layer once the packet has been cut up: every part has headers like those of the whole. */
static __always_inline __u64 length_of(struct __sk_buff *skb)
{
	__u32 segments = skb->gso_segs, header;
	__u8 first = 0, offset = 0;

	if (segments < 2 || bpf_skb_load_bytes(skb, 0, &first, sizeof(first)))
		return skb->len;
	header = first >> 4 == 4 ? (first & 15) * 4 : 40;
	if (bpf_skb_load_bytes(skb, header + 12, &offset, sizeof(offset)))
		return skb->len;
	return skb->len + (__u64)(segments - 1) * (header + (offset >> 4) * 4);
}

/*
 * Correct the level by how much was sent, against what should have been: what the rate allows, less a quarter of the
 * queue. Half the way at once, for a few large packets make an interval uneven. The one who moves since_ns on does it.
 */
static __always_inline void correct(struct bucket *bucket, const struct setting *setting, __u64 now)
{
	__u64 since = bucket->since_ns, elapsed = now - since, queue = 0, rate = setting->bytes_per_second;
	__u64 sent, wanted, level = bucket->level;

	if ((__s64)elapsed < (__s64)setting->interval_ns)
		return;
	if (__sync_val_compare_and_swap(&bucket->since_ns, since, now) != since)
		return;
	sent = __sync_fetch_and_and(&bucket->bytes, 0) | 1;
	if (elapsed > IDLE_INTERVALS * setting->interval_ns) {
		bucket->level = rate;
		return;
	}
	if (bucket->drained_at_ns > now)
		queue = bucket->drained_at_ns - now;
	wanted = elapsed > queue / 2 ? elapsed - queue / 4 : elapsed / 2;
	wanted = wanted * (rate / 1000) / (NS_PER_S / 1000);
	if (wanted > 2 * sent)
		wanted = 2 * sent;
	if (wanted < sent / 2)
		wanted = sent / 2;
	level = (level + level * wanted / sent) / 2;
	if (level > rate)
		level = rate;
	bucket->level = level > LOWEST_LEVEL ? level : LOWEST_LEVEL;
}

/* What becomes of a packet: the return values of a program at this hook (the second bit tells TCP of congestion). */
enum fate {
	PASS = 1,
	REFUSE = 2,
	PASS_CONGESTED = 3,
};

static __always_inline enum fate charge(struct __sk_buff *skb, struct bucket *bucket, const struct setting *setting)
{
	__u64 now = bpf_ktime_get_ns(), before = bucket->drained_at_ns, length = length_of(skb), cost, queue;

	if (before < now)
		__sync_val_compare_and_swap(&bucket->drained_at_ns, before, now);
	cost = length * NS_PER_S / setting->bytes_per_second;
	queue = __sync_fetch_and_add(&bucket->drained_at_ns, cost) - now;
	if ((__s64)queue > (__s64)setting->drop_ns && skb->len > SMALL) {
		__sync_fetch_and_sub(&bucket->drained_at_ns, cost);
		__sync_fetch_and_add(&bucket->refused, 1);
		return REFUSE;
	}
	__sync_fetch_and_add(&bucket->bytes, length);
	correct(bucket, setting, now);
	if ((__s64)queue <= (__s64)setting->mark_ns)
		return PASS;
	if (bpf_skb_ecn_set_ce(skb)) {
		__sync_fetch_and_add(&bucket->marked, 1);
		return PASS;
	}
	__sync_fetch_and_add(&bucket->congested, 1);
	return PASS_CONGESTED;
}

SEC("cgroup_skb/egress") int egress_bandwidth_packet(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct setting *setting;
	struct verdict *verdict;
	struct bucket *bucket;

	sk = sk ? bpf_sk_fullsock(sk) : 0;
	verdict = sk ? bpf_sk_storage_get(&verdicts, sk, 0, 0) : 0;
	if (!verdict || option_slot >= MAX_OPTIONS || !(verdict->won >> option_slot & 1))
		return PASS;
	setting = bpf_map_lookup_elem(&settings, &verdict->policy[option_slot]);
	if (!setting || !setting->bytes_per_second)
		return PASS;
	bucket = bucket_of(verdict, setting);
	return bucket ? charge(skb, bucket, setting) : PASS;
}
