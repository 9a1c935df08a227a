/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a capture tells user space of a packet, and classic BPF: the instructions that filters of packets are compiled
 * to.
 */
#ifndef PLIANT_CAPTURE_H
#define PLIANT_CAPTURE_H

#include <linux/types.h>

#define CAPTURE_MAX 4096 /* bytes of a packet; what XDP has in one piece is less */
#define FILTER_MAX  512	 /* instructions */

/* A packet as it leaves, or is dropped, followed by its first bytes. */
struct captured {
	__u64 time; /* ns, of the monotonic clock */
	__u32 in;   /* indexes of interfaces */
	__u32 out;  /* 0: it is dropped */
	__u32 length;
	__u32 kept;    /* bytes that follow */
	__u32 verdict; /* enum xdp_action */
	__u32 unused;
};

/* struct sock_filter, and the opcodes that libpcap makes (linux/filter.h, linux/bpf_common.h). */
struct classic {
	__u16 code;
	__u8 yes;
	__u8 no;
	__u32 k;
};

#endif
