// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Pod to pod at TC (tcx): on the bridge ports of pods, or the tunnel to other nodes. It runs where
 * packets come in, and sees them whole, before segmentation. What a check here does not vouch for goes to the kernel as
 * it came, and to whoever else is at the hook.
 */
#include <pliant/fastpath/overlay.h>

SEC("tc") int overlay_tc(struct __sk_buff *ctx)
{
	__u32 length = ctx->len;
	struct pod_flow *flow = NULL;
	enum reason reason = overlay(ctx, &flow);

	count(ctx->ifindex, reason, length);
	return reason == FORWARDED && flow ? send(ctx, flow) : TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
