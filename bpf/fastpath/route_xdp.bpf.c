// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Routing in XDP, for one interface. What a check here does not vouch for goes to the kernel as it came.
 */
#include <pliant/fastpath/route4.h>
#include <pliant/fastpath/route6.h>

SEC("xdp") int route_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	__u32 length = end - data;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	if (!is_ours(eth))
		return count(NOT_OURS, length, XDP_PASS);
	if (is_unfinished(ctx))
		return count(UNFINISHED, length, XDP_PASS);
	if (forwards_ipv4 && eth->type == bpf_htons(ETH_P_IP))
		return route4(ctx, eth, end, length);
	if (forwards_ipv6 && eth->type == bpf_htons(ETH_P_IPV6))
		return route6(ctx, eth, end, length);
	return count(NOT_IP, length, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
