// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Pod to pod at TC (tcx), for one interface: the bridge port of a pod, or the tunnel to other nodes. It runs where
 * packets come in, and sees them whole, before segmentation. What a check here does not vouch for goes to the kernel as
 * it came, and to whoever else is at the hook.
 */
#include <pliant/fastpath/overlay.h>

SEC("tc") int overlay_tc(struct __sk_buff *ctx)
{
	return overlay(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
