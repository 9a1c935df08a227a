// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A program that needs a kernel function that no kernel has.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

extern int pliant_no_such_function(void) __ksym;

SEC("tc") int wants_too_much(struct __sk_buff *skb)
{
	return pliant_no_such_function();
}

char LICENSE[] SEC("license") = "GPL";
