// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What is attached to interfaces (XDP), and stays attached: it goes on to the program that is in force on the
 * interface, which is replaced by one write to a table. Where there is none, packets are the kernel's.
 *
 * The same program is attached to all of them: the kernel calls XDP programs by a list of those there are, and waits
 * for a grace period of RCU, with all network configuration locked, whenever one comes to it or goes.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <pliant/fastpath/slots.h>

SEC("xdp") int xdp_entry(struct xdp_md *ctx)
{
	go_on(ctx, ctx->ingress_ifindex);
	return XDP_PASS;
}

/* In force where there is none: the kernel takes a grace period of RCU to empty a slot. */
SEC("xdp") int xdp_nothing(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
