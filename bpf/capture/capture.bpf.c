// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Capture of the packets that fast paths redirect or drop, which no socket sees: programs that run only while somebody
 * captures, so that fast paths themselves have nothing to do with it.
 *
 * What is redirected is told at the tracepoint xdp_redirect. That does not come with the packet. But when it fires the
 * packet has just been put at the end of the queue of this CPU for the device it leaves by: there it is.
 *
 * What is dropped is told where the attached program ends (fexit): whatever that has gone on to, it ends with the
 * verdict, and the packet is still there. In generic mode, where what is redirected is in no queue, the packet is kept
 * from there until the tracepoint has said where it leaves. Where the kernel has no such hook, that which frees the
 * packet is asked, if it is a socket's buffer: in generic mode, and on a veth device unless another XDP program has
 * sent it there.
 *
 * The filter is classic BPF, interpreted here: what is not asked for never leaves the kernel.
 */
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include <pliant/capture_filter.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct xdp_dev_bulk_queue;

struct bpf_prog_aux {
	__u32 id;
};

struct bpf_prog {
	struct bpf_prog_aux *aux;
};

struct bpf_link {
	struct bpf_prog *prog;
};

struct bpf_xdp_link {
	struct bpf_link link;
};

struct bpf_xdp_entity {
	struct bpf_xdp_link *link;
};

struct net_device {
	int ifindex;
	struct xdp_dev_bulk_queue *xdp_bulkq; /* of each CPU */
	struct bpf_xdp_entity xdp_state[3];   /* by enum bpf_xdp_mode */
};

struct xdp_rxq_info {
	struct net_device *dev;
};

struct xdp_buff {
	void *data;
	void *data_end;
	struct xdp_rxq_info *rxq;
};

struct sk_buff {
	struct net_device *dev;
	unsigned char *head;
	unsigned char *data;
	unsigned int len;
	unsigned int data_len;
	__u16 mac_header;
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

#pragma clang attribute pop

enum bpf_xdp_mode {
	XDP_MODE_SKB,
	XDP_MODE_DRV,
};

enum skb_drop_reason {
	SKB_DROP_REASON_NOT_SPECIFIED,
};

extern const void __per_cpu_offset __ksym __weak;

const volatile __u32 snapshot = CAPTURE_MAX;
const volatile __u32 attached = 0; /* id of the program whose end is looked at */

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

/* How packets that are redirected are come by. */
enum source {
	FROM_QUEUE,
	FROM_PROGRAM, /* kept when it ends */
	NOWHERE,
};

/* Those whose packets are meant. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct running);
	__type(value, __u32); /* enum source */
} watched SEC(".maps");

/* Packets that were seen, wanted, and lost since user space was too slow; and those of the seen that were dropped. */
struct tally {
	__u64 seen;
	__u64 wanted;
	__u64 lost;
	__u64 dropped;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

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

/* Keep a packet for now. So many bytes of it are there in one piece. */
static __always_inline bool keep(struct current *packet, const void *data, __u32 length, __u32 there)
{
	if (there > CAPTURE_MAX)
		there = CAPTURE_MAX;
	packet->head.length = length;
	packet->head.kept = there;
	return !bpf_probe_read_kernel(packet->bytes, there, data);
}

/* Tell of the packet that is kept, if it is asked for. */
static __always_inline void tell(struct current *packet, struct tally *tally, __u32 in, __u32 out, __u32 verdict)
{
	__u32 kept;

	if (!is_wanted(packet))
		return;
	tally->wanted++;
	kept = packet->head.kept;
	if (kept > snapshot)
		kept = snapshot;
	if (kept > CAPTURE_MAX)
		kept = CAPTURE_MAX;
	packet->head.time = bpf_ktime_get_ns();
	packet->head.in = in;
	packet->head.out = out;
	packet->head.verdict = verdict;
	packet->head.kept = kept;
	if (bpf_ringbuf_output(&packets, packet, sizeof(packet->head) + kept, 0))
		tally->lost++;
}

static __always_inline void tell_queued(struct current *packet, struct tally *tally, __u32 in,
					const struct net_device *to)
{
	struct xdp_frame *frame = last_queued(to);
	__u32 length;

	if (!frame) {
		tally->lost++;
		return;
	}
	length = BPF_CORE_READ(frame, len);
	if (keep(packet, BPF_CORE_READ(frame, data), length, length))
		tell(packet, tally, in, BPF_CORE_READ(to, ifindex), XDP_REDIRECT);
}

/* One of the tracepoint's arguments. It is a "const void *", which the verifier of Linux 6.12 does not let be read. */
#define TARGET 2

SEC("tp_btf/xdp_redirect") int BPF_PROG(redirected, const struct net_device *from, const struct bpf_prog *program)
{
	struct running running = {.program = program->aux->id, .ifindex = from->ifindex};
	__u32 zero = 0;
	struct current *packet = bpf_map_lookup_elem(&current_packet, &zero);
	struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);
	__u32 *source = bpf_map_lookup_elem(&watched, &running);
	const void *target = NULL;
	struct net_device *to;

	if (!packet || !tally || !source || *source == NOWHERE)
		return 0;
	if (bpf_probe_read_kernel(&target, sizeof(target), &ctx[TARGET]) || !target)
		return 0;
	to = BPF_CORE_READ((const struct bpf_dtab_netdev *)target, dev);
	tally->seen++;
	if (*source == FROM_QUEUE)
		tell_queued(packet, tally, running.ifindex, to);
	else if (packet->kept_of == running.ifindex)
		tell(packet, tally, running.ifindex, BPF_CORE_READ(to, ifindex), XDP_REDIRECT);
	else
		tally->lost++;
	packet->kept_of = 0;
	return 0;
}

static __always_inline void tell_dropped(const struct running *running, const void *data, __u32 length, __u32 there)
{
	__u32 zero = 0;
	struct current *packet = bpf_map_lookup_elem(&current_packet, &zero);
	struct tally *tally = bpf_map_lookup_elem(&tallies, &zero);

	if (!packet || !tally)
		return;
	tally->seen++;
	tally->dropped++;
	if (keep(packet, data, length, there))
		tell(packet, tally, running->ifindex, 0, XDP_DROP);
}

/* The attached program has ended, and whatever it has gone on to. */
SEC("?fexit") int BPF_PROG(ended, struct xdp_buff *xdp, int verdict)
{
	struct running running = {.program = attached, .ifindex = BPF_CORE_READ(xdp, rxq, dev, ifindex)};
	unsigned long data = (unsigned long)BPF_CORE_READ(xdp, data);
	__u32 zero = 0, length = (unsigned long)BPF_CORE_READ(xdp, data_end) - data;
	struct current *packet = bpf_map_lookup_elem(&current_packet, &zero);
	__u32 *source;

	if (!packet || (verdict != XDP_DROP && verdict != XDP_REDIRECT))
		return 0;
	source = bpf_map_lookup_elem(&watched, &running);
	if (!source)
		return 0;
	if (verdict == XDP_DROP)
		tell_dropped(&running, (void *)data, length, length);
	else if (*source == FROM_PROGRAM && keep(packet, (void *)data, length, length))
		packet->kept_of = running.ifindex;
	return 0;
}

#define NAME_MAX 26

static __always_inline bool begins_with(const char *name, const char *wanted, __u32 length)
{
	for (__u32 i = 0; i < length; i++)
		if (name[i] != wanted[i])
			return false;
	return true;
}

/* What mode_at() has found, for that takes a microsecond. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64); /* address */
	__type(value, int);
} modes SEC(".maps");

/* Where an address is in a function that frees what XDP programs drop: in which mode these run; else -1. */
static __always_inline int mode_at(__u64 address)
{
	static const char veth[] = "veth_xdp_rcv"; /* and what the compiler has made of it */
	static const char generic[] = "do_xdp_generic";
	static const char inner[] = "netif_receive_generic_xdp"; /* where it is not part of the other */
	char name[NAME_MAX] = {0};

	BPF_SNPRINTF(name, sizeof(name), "%ps", address);
	if (begins_with(name, veth, sizeof(veth) - 1))
		return XDP_MODE_DRV;
	if (begins_with(name, generic, sizeof(generic) - 1) || begins_with(name, inner, sizeof(inner) - 1))
		return XDP_MODE_SKB;
	return -1;
}

static __always_inline bool is_watched(const struct bpf_xdp_link *link, struct running *running)
{
	running->program = link ? BPF_CORE_READ(link, link.prog, aux, id) : 0;
	return bpf_map_lookup_elem(&watched, running);
}

/* Where the end of programs cannot be looked at. */
SEC("?tp_btf/kfree_skb") int BPF_PROG(freed, struct sk_buff *skb, void *location, enum skb_drop_reason reason)
{
	const struct net_device *device = skb->dev;
	const struct bpf_xdp_link *generic, *native;
	__u64 address = (unsigned long)location;
	struct running running;
	unsigned long data, start;
	int mode, *known;
	__u32 length;

	if (!device || reason != bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_NOT_SPECIFIED))
		return 0;
	running.ifindex = device->ifindex;
	generic = device->xdp_state[XDP_MODE_SKB].link;
	native = device->xdp_state[XDP_MODE_DRV].link;
	if (!is_watched(generic, &running) && !is_watched(native, &running))
		return 0;
	known = bpf_map_lookup_elem(&modes, &address);
	mode = known ? *known : mode_at(address);
	if (!known)
		bpf_map_update_elem(&modes, &address, &mode, BPF_ANY);
	if (mode < 0 || !is_watched(mode == XDP_MODE_SKB ? generic : native, &running))
		return 0;
	data = (unsigned long)BPF_CORE_READ(skb, data);
	start = (unsigned long)BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, mac_header);
	length = skb->len + (data - start);
	tell_dropped(&running, (void *)start, length, length - skb->data_len);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
