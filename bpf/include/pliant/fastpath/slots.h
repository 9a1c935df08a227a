/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The table by which what is attached to interfaces goes on to the program that is in force on each.
 *
 * Every interface has the slot that its index leads to; of two with the same slot one goes by another program with a
 * table of its own (user space sees to that). Slots are told apart by comparing, each with a tail call of its own: the
 * kernel makes a direct jump of one whose slot is constant, where one that is calculated costs an indirect call.
 */
#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <pliant/fastpath/slot.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

#define GO_ON(slot)                                         \
	case slot:                                          \
		bpf_tail_call_static(ctx, &programs, slot); \
		break;
#define GO_ON_4(slot)  GO_ON(slot) GO_ON((slot) + 1) GO_ON((slot) + 2) GO_ON((slot) + 3)
#define GO_ON_16(slot) GO_ON_4(slot) GO_ON_4((slot) + 4) GO_ON_4((slot) + 8) GO_ON_4((slot) + 12)

/* Returns where there is no program. */
static __always_inline void go_on(void *ctx, __u32 ifindex)
{
	switch (slot_of_interface(ifindex)) {
		GO_ON_16(0)
		GO_ON_16(16)
		GO_ON_16(32)
		GO_ON_16(48)
	}
}
