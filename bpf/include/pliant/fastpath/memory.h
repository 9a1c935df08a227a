/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading the kernel's memory where there is no typed pointer to follow: what is read may be changed or freed
 * meanwhile, or be of a type that only a module knows. A read that faults gives zero; nothing can be written.
 */
#ifndef PLIANT_FASTPATH_MEMORY_H
#define PLIANT_FASTPATH_MEMORY_H

#include <linux/types.h>

#include <bpf/bpf_helpers.h>

extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

/* Plain memory at an address (Linux 6.17 lets bpf_rdonly_cast() do that without a type). */
static __always_inline void *peek(const void *address)
{
	return bpf_rdonly_cast(address, 0);
}

#endif
