// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A source and a sink of packets for benchmarks.
 *
 * The source is run by the kernel on frames that it recycles without resetting them (BPF_F_TEST_XDP_LIVE_FRAMES), so it
 * writes everything into each of them that a router or a bridge may have changed: the first HEAD bytes, of one frame
 * after the other of those that it is given. The sink counts and drops; the timer, a sink too, looks how long each has
 * been on its way, by the time that the source has put behind its headers.
 */
#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define HEAD	 60
#define OUTS_MAX 16
#define STAMP	 42 /* Ethernet, IPv4 and UDP come before it */

#define TIMES_SHIFT 7	 /* times are counted by the 128 ns */
#define TIMES_MAX   4096 /* as much as a value of one CPU can have */

/* Both are powers of two less one; frame n leaves by interface n. */
const volatile __u32 frames_mask = 0;
const volatile __u32 outs_mask = 0;
const volatile bool stamps = false;

struct head {
	__u64 words[HEAD / 8];
	__u32 last;
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct head);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, OUTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} outs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

/* How many packets were how long on their way; in the last all that were longer. */
struct times {
	__u64 counts[TIMES_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct times);
} times SEC(".maps");

static __u32 sent;

SEC("xdp") int source(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 number = sent++, at = number & frames_mask;
	struct head *head = bpf_map_lookup_elem(&frames, &at);
	__u64 *word = data;

	if (!head || data + HEAD > end)
		return XDP_ABORTED;
	for (int i = 0; i < HEAD / 8; i++)
		word[i] = head->words[i];
	*(__u32 *)(word + HEAD / 8) = head->last;
	if (stamps)
		*(__u64 *)(data + STAMP) = bpf_ktime_get_ns();
	return bpf_redirect_map(&outs, number & outs_mask, XDP_ABORTED);
}

SEC("xdp") int sink(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&packets, &zero);

	if (counter)
		(*counter)++;
	return XDP_DROP;
}

SEC("xdp") int timer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct times *counted;
	__u32 zero = 0;
	__u64 units;

	if (data + STAMP + sizeof(__u64) > end)
		return XDP_DROP;
	units = (bpf_ktime_get_ns() - *(__u64 *)(data + STAMP)) >> TIMES_SHIFT;
	counted = bpf_map_lookup_elem(&times, &zero);
	if (units >= TIMES_MAX)
		units = TIMES_MAX - 1;
	if (counted)
		counted->counts[units & (TIMES_MAX - 1)]++; /* which the verifier wants to see */
	return XDP_DROP;
}

SEC("xdp") int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
