// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Bridging in XDP. What a check here does not vouch for goes to the kernel as it came.
 */
#include <pliant/fastpath/bridge.h>

SEC("xdp") int bridge_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = data;
	enum reason reason;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	reason = bridge(ctx, eth, end, end - data);
	count(ctx->ingress_ifindex, reason, end - data);
	return xdp_verdict(reason);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
