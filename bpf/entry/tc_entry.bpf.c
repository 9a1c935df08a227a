// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The same as xdp_entry.bpf.c, at tc.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <pliant/fastpath/slots.h>

SEC("tc") int tc_entry(struct __sk_buff *ctx)
{
	go_on(ctx, ctx->ifindex);
	return -1; /* TCX_NEXT: whoever else is at the hook, then the kernel */
}

SEC("tc") int tc_nothing(struct __sk_buff *ctx)
{
	return -1; /* TCX_NEXT */
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
