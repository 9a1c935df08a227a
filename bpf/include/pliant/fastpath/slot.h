/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The place of an interface in tables that several share, by its index. Of two with the same slot one has tables of its
 * own, which user space sees to.
 */
#ifndef PLIANT_FASTPATH_SLOT_H
#define PLIANT_FASTPATH_SLOT_H

#include <linux/types.h>

#define SLOTS 64

static __always_inline __u32 slot_of_interface(__u32 ifindex)
{
	return ifindex % SLOTS;
}

#endif
