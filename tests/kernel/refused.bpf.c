// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A program the verifier refuses.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp") int reads_past_the_packet(struct xdp_md *ctx)
{
	return *(__u8 *)(long)ctx->data_end;
}

char LICENSE[] SEC("license") = "GPL";
