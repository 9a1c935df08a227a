// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A source and a sink of packets for benchmarks.
 *
 * The source is run by the kernel on frames that it recycles without resetting them (BPF_F_TEST_XDP_LIVE_FRAMES), so it
 * writes each of them whole: the template, a destination that changes from packet to packet, and the checksum that goes
 * with it. The sink counts and drops.
 */
#include <linux/bpf.h>

#include <pliant/fastpath/packet.h>

#define FRAME_MAX 128

const volatile __u8 template[FRAME_MAX] = {0};
const volatile __u32 destinations = 1; /* a power of two: the last octets of the destination count up to it */

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} packets SEC(".maps");

static __u32 sent;

SEC("xdp") int source(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	struct ipv4 *ip = (void *)(eth + 1);
	__u64 *word = data;
	__u32 sum, to;

	if (data + 64 > end)
		return XDP_ABORTED;
	for (int i = 0; i < 5; i++)
		word[i] = ((const volatile __u64 *)template)[i];
	to = bpf_ntohl(ip->to) + (sent++ & (destinations - 1)) * 256;
	ip->to = bpf_htonl(to);
	ip->checksum = 0;
	sum = 0;
	for (int i = 0; i < 10; i++)
		sum += ((__u16 *)ip)[i];
	sum = (sum & 0xffff) + (sum >> 16);
	ip->checksum = ~(sum + (sum >> 16));
	return bpf_redirect_map(&out, 0, XDP_ABORTED);
}

SEC("xdp") int sink(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *counter = bpf_map_lookup_elem(&packets, &zero);

	if (counter)
		(*counter)++;
	return XDP_DROP;
}

SEC("xdp") int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
