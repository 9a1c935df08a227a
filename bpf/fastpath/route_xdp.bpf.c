// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Routing in XDP. What a check here does not vouch for goes to the kernel as it came.
 */
#include <pliant/fastpath/route4.h>
#include <pliant/fastpath/route6.h>

/* What becomes of a frame, as counted: by its IP version. */
static __always_inline __u32 route(struct xdp_md *ctx, struct ethernet *eth, void *end, __u32 length)
{
	const struct net_device *device = device_of(ctx);

	if (has_moved(device->nd_net.net))
		return MOVED_AWAY;
	if (!is_for(device, eth))
		return NOT_OURS;
	if (is_unfinished(ctx))
		return UNFINISHED;
	if (forwards_ipv4 && eth->type == bpf_htons(ETH_P_IP))
		return route4(ctx, eth, end, length);
	if (forwards_ipv6 && eth->type == bpf_htons(ETH_P_IPV6))
		return REASONS + route6(ctx, eth, end, length);
	return NOT_IP;
}

SEC("xdp") int route_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	__u32 length = end - data, reason;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	reason = route(ctx, eth, end, length);
	count(ctx->ingress_ifindex, reason, length);
	return xdp_verdict(reason < REASONS ? reason : reason - REASONS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
