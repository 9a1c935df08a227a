// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Capture of the packets that fast paths redirect, which no socket sees: a program at the tracepoint xdp_redirect,
 * which runs only while somebody captures, so that fast paths themselves have nothing to do with it.
 *
 * The tracepoint does not come with the packet. But when it fires the packet has just been put at the end of the queue
 * of this CPU for the device it leaves by: there it is. The filter is classic BPF, as libpcap compiles it, interpreted
 * here: what is not asked for never leaves the kernel.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <pliant/capture.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct xdp_dev_bulk_queue;

struct net_device {
	int ifindex;
	struct xdp_dev_bulk_queue *xdp_bulkq; /* of each CPU */
};

struct xdp_frame {
	void *data;
	__u32 len;
};

struct list_head {
	struct list_head *next;
};

struct xdp_dev_bulk_queue {
	struct xdp_frame *q[16];
	struct list_head flush_node;
	struct net_device *dev;
	unsigned int count;
};

struct bpf_net_context {
	struct list_head dev_map_flush_list;
};

struct task_struct {
	struct bpf_net_context *bpf_net_context;
};

struct bpf_dtab_netdev {
	struct net_device *dev;
};

struct bpf_prog_aux {
	__u32 id;
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

#pragma clang attribute pop

extern const void __per_cpu_offset __ksym __weak;

const volatile __u32 instructions = 0; /* 0: every packet */
const volatile struct classic filter[FILTER_MAX] = {0};
const volatile __u32 snapshot = CAPTURE_MAX;

#define MEMORY 16 /* BPF_MEMWORDS */

/* The packet that the CPU is just dealing with. */
struct current {
	struct captured head;
	__u8 bytes[CAPTURE_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct current);
} current_packet SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} packets SEC(".maps");

/* What runs on an interface. */
struct running {
	__u32 program; /* its id */
	__u32 ifindex;
};

/* Those whose packets are meant; the value is of no use. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct running);
	__type(value, __u32);
} watched SEC(".maps");

/* Packets that were seen, wanted, and lost since user space was too slow. */
struct tally {
	__u64 seen;
	__u64 wanted;
	__u64 lost;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

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

#define QUEUES 64 /* that are looked at: a CPU has one for each device that it is just sending to */

/* The queue of this CPU for a device, from its list of queues that have something in them (Linux 6.11). */
static __always_inline struct xdp_dev_bulk_queue *listed(const struct net_device *device)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct list_head *at = task->bpf_net_context->dev_map_flush_list.next;
	struct xdp_dev_bulk_queue *queue;

	for (int i = 0; i < QUEUES; i++) {
		queue = (void *)at - bpf_core_field_offset(struct xdp_dev_bulk_queue, flush_node);
		if (BPF_CORE_READ(queue, dev) == device)
			return queue;
		at = BPF_CORE_READ(at, next);
	}
	return NULL;
}

/* The same for earlier kernels that tell where they keep what each CPU has for itself. */
static __always_inline struct xdp_dev_bulk_queue *of_cpu(const struct net_device *device)
{
	unsigned long offset = 0, cpu = bpf_get_smp_processor_id();

	bpf_probe_read_kernel(&offset, sizeof(offset), &__per_cpu_offset + cpu * sizeof(offset));
	return (void *)BPF_CORE_READ(device, xdp_bulkq) + offset;
}

/* What was put last into this CPU's queue for a device. */
static __always_inline struct xdp_frame *last_queued(const struct net_device *device)
{
	struct xdp_dev_bulk_queue *queue = NULL;
	struct xdp_frame *frame = NULL;
	unsigned int count;

	if (bpf_core_field_exists(struct task_struct, bpf_net_context))
		queue = listed(device);
	else if (&__per_cpu_offset)
		queue = of_cpu(device);
	count = BPF_CORE_READ(queue, count);
	if (!queue || count < 1 || count > 16)
		return NULL;
	bpf_probe_read_kernel(&frame, sizeof(frame),
			      (void *)queue + bpf_core_field_offset(struct xdp_dev_bulk_queue, q) +
				  (count - 1) * sizeof(frame));
	return frame;
}

/* One of the tracepoint's arguments. It is a "const void *", which the verifier of Linux 6.12 does not let be read. */
#define TARGET 2

SEC("tp_btf/xdp_redirect") int BPF_PROG(redirected, const struct net_device *from, const struct bpf_prog *program)
{
	struct running running = {.program = program->aux->id, .ifindex = from->ifindex};
	__u32 zero = 0, length, kept;
	struct current *packet = bpf_map_lookup_elem(&current_packet, &zero);
	struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);
	const void *target = NULL;
	struct net_device *to;
	struct xdp_frame *frame;

	if (!packet || !tally || !bpf_map_lookup_elem(&watched, &running))
		return 0;
	if (bpf_probe_read_kernel(&target, sizeof(target), &ctx[TARGET]) || !target)
		return 0;
	to = BPF_CORE_READ((const struct bpf_dtab_netdev *)target, dev);
	tally->seen++;
	frame = last_queued(to);
	if (!frame) {
		tally->lost++;
		return 0;
	}
	length = kept = BPF_CORE_READ(frame, len);
	if (kept > snapshot)
		kept = snapshot;
	if (kept > CAPTURE_MAX)
		kept = CAPTURE_MAX;
	if (bpf_probe_read_kernel(packet->bytes, kept, BPF_CORE_READ(frame, data)))
		return 0;
	packet->head.length = length;
	packet->head.kept = kept;
	if (!is_wanted(packet))
		return 0;
	tally->wanted++;
	packet->head.time = bpf_ktime_get_ns();
	packet->head.in = from->ifindex;
	packet->head.out = BPF_CORE_READ(to, ifindex);
	if (bpf_ringbuf_output(&packets, packet, sizeof(packet->head) + kept, 0))
		tally->lost++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
