/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The filter of a capture: classic BPF, as libpcap compiles it, interpreted.
 */
#ifndef PLIANT_CAPTURE_FILTER_H
#define PLIANT_CAPTURE_FILTER_H

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <pliant/capture.h>

const volatile __u32 instructions = 0; /* 0: every packet */
const volatile struct classic filter[FILTER_MAX] = {0};

#define MEMORY 16 /* BPF_MEMWORDS */

/* The packet that the CPU is just dealing with. */
struct current {
	struct captured head;
	__u8 bytes[CAPTURE_MAX];
	__u32 kept_of; /* index of the interface, where it is kept until it is known where it leaves; else 0 */
};

/* A run of the filter. */
struct machine {
	struct current *packet;
	__u32 at;
	__u32 a;
	__u32 x;
	__u32 result;
	__u32 memory[MEMORY];
};

static __always_inline bool load_bytes(const struct current *packet, __u32 at, __u32 size, __u32 *value)
{
	__u32 found = 0;

	if (at >= CAPTURE_MAX || at + size > packet->head.kept)
		return false;
	for (__u32 i = 0; i < 4; i++)
		if (i < size)
			found = found << 8 | packet->bytes[(at + i) & (CAPTURE_MAX - 1)];
	*value = found;
	return true;
}

static __always_inline __u32 calculated(__u32 code, __u32 a, __u32 b)
{
	switch (code & 0xf0) {
	case 0x00:
		return a + b;
	case 0x10:
		return a - b;
	case 0x20:
		return a * b;
	case 0x30:
		return b ? a / b : 0;
	case 0x40:
		return a | b;
	case 0x50:
		return a & b;
	case 0x60:
		return b < 32 ? a << b : 0;
	case 0x70:
		return b < 32 ? a >> b : 0;
	case 0x80:
		return -a;
	case 0x90:
		return b ? a % b : 0;
	default:
		return a ^ b;
	}
}

static __always_inline bool is_so(__u32 code, __u32 a, __u32 b)
{
	switch (code & 0xf0) {
	case 0x10:
		return a == b;
	case 0x20:
		return a > b;
	case 0x30:
		return a >= b;
	default:
		return a & b;
	}
}

static __always_inline bool load_a(struct machine *run, __u32 code, __u32 k)
{
	__u32 size = (code & 0x18) == 0x00 ? 4 : (code & 0x18) == 0x08 ? 2 : 1;

	switch (code & 0xe0) {
	case 0x00:
		run->a = k;
		return true;
	case 0x20:
		return load_bytes(run->packet, k, size, &run->a);
	case 0x40:
		return load_bytes(run->packet, run->x + k, size, &run->a);
	case 0x60:
		run->a = run->memory[k & (MEMORY - 1)];
		return true;
	default:
		run->a = run->packet->head.length;
		return true;
	}
}

static __always_inline bool load_x(struct machine *run, __u32 code, __u32 k)
{
	switch (code & 0xe0) {
	case 0x00:
		run->x = k;
		return true;
	case 0x60:
		run->x = run->memory[k & (MEMORY - 1)];
		return true;
	case 0xa0: /* four times the low half of a byte: the length of an IPv4 header */
		if (!load_bytes(run->packet, k, 1, &run->x))
			return false;
		run->x = (run->x & 15) * 4;
		return true;
	default:
		run->x = run->packet->head.length;
		return true;
	}
}

/* One instruction; jumps only go forwards. What reads beyond the packet ends with "no", as in the kernel. */
static long step(__u32 unused, struct machine *run)
{
	__u32 at = run->at, code, k, operand;
	const volatile struct classic *instruction;

	if (at >= FILTER_MAX || at >= instructions)
		return 1;
	instruction = &filter[at];
	code = instruction->code;
	k = instruction->k;
	operand = code & 0x08 ? run->x : k;
	run->at = at + 1;
	switch (code & 0x07) {
	case 0x00:
		return !load_a(run, code, k);
	case 0x01:
		return !load_x(run, code, k);
	case 0x02:
		run->memory[k & (MEMORY - 1)] = run->a;
		return 0;
	case 0x03:
		run->memory[k & (MEMORY - 1)] = run->x;
		return 0;
	case 0x04:
		run->a = calculated(code, run->a, operand);
		return 0;
	case 0x05:
		if ((code & 0xf0) == 0)
			run->at += k;
		else
			run->at += is_so(code, run->a, operand) ? instruction->yes : instruction->no;
		return 0;
	case 0x06:
		run->result = (code & 0x18) == 0x10 ? run->a : k;
		return 1;
	default:
		if (code & 0x80)
			run->a = run->x;
		else
			run->x = run->a;
		return 0;
	}
}

static __always_inline bool is_wanted(struct current *packet)
{
	struct machine run = {.packet = packet};

	if (!instructions)
		return true;
	bpf_loop(FILTER_MAX, step, &run, 0);
	return run.result;
}

#endif
