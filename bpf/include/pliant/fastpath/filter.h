/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What nftables says of a flow that is forwarded: the ruleset as rows, which user space has compiled
 * (src/pliant/fastpath/ruleset_compile.py), asked once when the flow's way is looked for.
 *
 * A row tests something of the packet, or says where to go on. Rows end in an acceptance, or in leaving the flow to the
 * kernel: since it is dropped, or because a rule that it comes to has to see it, or is not understood. Nothing here
 * changes what the kernel would do with a packet that it is left. Which rules count the packet is kept with its flow,
 * where that is asked for (counts_rules); else what comes to such a rule is the kernel's.
 *
 * The tables have two halves, of which one is in force. They are those of a generation of the kernel's ruleset, and as
 * soon as the kernel has another one they say nothing: all is the kernel's until user space has compiled that. Where
 * the kernel does not show its generation (before Linux 6.17) a change is in force once user space has reacted.
 */
#ifndef PLIANT_FASTPATH_FILTER_H
#define PLIANT_FASTPATH_FILTER_H

#include <pliant/fastpath/way.h>

#define ROWS_MAX     8192 /* a power of two, of each half */
#define STEPS_MAX    1024
#define JUMPS_MAX    16 /* NFT_JUMP_STACK_SIZE */
#define VIEW_WORDS   32
#define KEY_WORDS    10
#define WINDOW_WORDS 4
#define MEMBERS_MAX  131072
#define PREFIXES_MAX 1048576
#define BPF_LOCAL    0 /* index of what is the CPU's own */
#define TCP_SIGNALS  7 /* FIN, SYN, RST */
#define TCP_FLAGS_AT 13
#define TCP_BYTES    20
#define ICMP_BYTES   4
#define NO_PREALLOC  1 /* BPF_F_NO_PREALLOC */
#define RULE_SLOTS   4096
#define NAME_BYTES   256 /* NFT_NAME_MAXLEN */

const volatile bool follows_ruleset = false; /* the tables below are kept */
const volatile bool filters_ipv4 = false;    /* and are asked; if not they have to be empty */
const volatile bool filters_ipv6 = false;
const volatile bool counts_rules = false; /* for rules that count; if not what comes to them is the kernel's */

/* What a packet is as the forward hook sees it: words as nftables has them in its registers. */
enum view {
	VIEW_FROM = 0,
	VIEW_TO = 4,
	VIEW_PORT_FROM = 8, /* of ICMP: type and code */
	VIEW_PORT_TO = 9,
	VIEW_PROTOCOL = 10,
	VIEW_CLASS = 11, /* IPv4: TOS without ECN; IPv6: the header's first word without version and ECN */
	VIEW_IN = 12,
	VIEW_OUT = 13,
	VIEW_CT_STATE = 14, /* a bit, as "ct state" has it */
	VIEW_CT_STATUS = 15,
	VIEW_CT_MARK = 16,
	VIEW_CT_DIRECTION = 17,
	VIEW_HAS_PORTS = 18,
	VIEW_IN_NAME = 20,
	VIEW_OUT_NAME = 24,
};

enum row_kind {
	ROW_LEAVE,  /* to the kernel; target: enum leave */
	ROW_EQUAL,  /* four words from `at` on, masked, are `value` */
	ROW_RANGE,  /* four words from `at` on, masked, as one big-endian number, are from value to last */
	ROW_MEMBER, /* the words listed in `words`, as many as `at`, are in the set `target` */
	ROW_PREFIX, /* `words[1]` bytes from the word `at` on are in the set `target` */
	ROW_GOTO,
	ROW_CALL,
	ROW_RETURN,
	ROW_ENTER,  /* a base chain: what accepts goes on at target, its policy is at `otherwise` */
	ROW_ACCEPT, /* by this base chain */
	ROW_DONE,   /* accepted by all; here and where it leaves, otherwise: enum guard */
	ROW_BEGIN,  /* target: the first row; otherwise: enum begins */
	ROW_COUNT,  /* a rule counts the packet, in the slot `target` */
};

enum leave {
	LEAVE_UNDECIDED,
	LEAVE_DROPPED, /* the packet may be dropped here */
	LEAVE_REFUSED, /* it is the kernel's to drop, since it would not have counted it as forwarded */
};

enum row_flag { ROW_INVERTED = 1 };

enum guard { GUARD_TCP_SIGNALS = 1 }; /* holds for TCP without SYN, FIN, RST */

enum begins {
	BEGINS_EMPTY = 1, /* everything is accepted */
	BEGINS_TRACKED,	  /* connections matter, which the program has to follow */
};

struct row {
	__u8 kind;
	__u8 at;
	__u8 flags;
	__u8 padding;
	__u16 otherwise; /* the row for what does not apply */
	__u16 target;
	__u32 mask[WINDOW_WORDS]; /* or the bytes that `words` stands for */
	__u32 value[WINDOW_WORDS];
	__u32 last[WINDOW_WORDS];
};

struct member_key {
	__u32 half;
	__u32 set;
	__u32 words[KEY_WORDS];
};

struct prefix_key {
	__u32 length; /* bits, of all that follows */
	__u16 half;
	__u16 set;
	__u32 words[WINDOW_WORDS];
};

/* The half comes before the generation: a half is complete before it is named here. */
struct ruleset_state {
	__u32 half;
	__u32 generation;
	__u64 digest; /* for user space */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ruleset_state);
} ruleset SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * ROWS_MAX);
	__type(key, __u32);
	__type(value, struct row);
} ruleset_rows SEC(".maps");

/* Elements of sets; the value is the row to go on at, 0: the next. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MEMBERS_MAX);
	__uint(map_flags, NO_PREALLOC);
	__type(key, struct member_key);
	__type(value, __u32);
} set_members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PREFIXES_MAX);
	__uint(map_flags, NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, __u32);
} set_prefixes SEC(".maps");

struct interface_name {
	__u32 words[WINDOW_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS_MAX);
	__type(key, __u32); /* ifindex */
	__type(value, struct interface_name);
} interface_names SEC(".maps");

/* What was counted for rules here, by slot; the kernel's own counters have the rest. Slot 0 is no rule's. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RULE_SLOTS);
	__type(key, __u32);
	__type(value, struct count);
} rule_counts SEC(".maps");

/* Whose a slot is, for user space: handles are given once, so that no other rule is ever taken for it. */
struct rule_slot {
	__u64 table_handle;
	__u64 chain_handle;
	__u64 handle; /* 0: the chain's policy */
	__u32 place;  /* of the counter among those of the rule */
	__u32 taken;  /* the id of the last table whose counts are in before */
	char family[12];
	char table[NAME_BYTES];
	char chain[NAME_BYTES];
	struct count before; /* by builds whose tables had another layout */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, RULE_SLOTS);
	__uint(map_flags, NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct rule_slot);
} rule_slots SEC(".maps");

struct evaluation {
	__u32 view[VIEW_WORDS];
	struct member_key member;
	struct prefix_key prefix;
	__u32 half;
	__u32 at;
	__u32 depth;
	__u32 accepted; /* where what this chain accepts goes on */
	__u32 policy;
	__u32 verdict; /* enum reason */
	__u32 guards;
	bool is_decided;
	__u16 calls[JUMPS_MAX];
	__u16 counted[COUNTED_MAX];
	__u32 counters;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct evaluation);
} evaluations SEC(".maps");

/* The generation of the kernel's ruleset; 0 where it does not show it. It increases it before a change is in force. */
static __always_inline __u32 ruleset_generation(const struct net *net)
{
	if (!__builtin_preserve_field_info(net->nft.base_seq, 2 /* exists */))
		return 0;
	return *(const volatile __u32 *)&net->nft.base_seq;
}

/* The kernel's generation of what decides over a flow: of its routes, and of its rules. */
static __always_inline __u32 generation_of(const struct net *net, __u32 routes)
{
	return follows_ruleset ? routes + ruleset_generation(net) * 0x85ebca6bu : routes;
}

/* As long as the way would hold, all of the flow is left to the kernel, and this is why. */
static __always_inline enum reason leave(struct way *way, enum reason reason, __u32 ifindex, __u16 route_mtu,
					 __u32 routes, __u32 ours, __u32 now)
{
	if (ours == PAUSED_GENERATION)
		return PAUSED;
	if (way->mtu > route_mtu)
		way->mtu = route_mtu;
	way->left = reason;
	way->routes = routes;
	way->generation = ours;
	way->born = now;
	way->ifindex = ifindex;
	return reason == DROPPED ? REFUSED : reason;
}

/*
 * A packet is forwarded or dropped here: count it for the rules that do, as they would, with its bytes from the IP
 * header on. What the kernel sees it counts itself.
 */
static __noinline __attribute__((unused)) int count_for_rules(const struct way *way, __u32 bytes)
{
	struct count *counted;
	__u32 slot;

	if (!way)
		return 0;
	for (int i = 0; i < COUNTED_MAX; i++) {
		slot = way->counted[i];
		if (!slot)
			break;
		counted = bpf_map_lookup_elem(&rule_counts, &slot);
		if (counted) {
			counted->packets++;
			counted->bytes += bytes;
		}
	}
	return 0;
}

/*
 * What becomes of a packet whose flow is left to the kernel. What its rules drop is dropped here, for the kernel does
 * nothing else with it: rules that count or log are not taken for such. It answers what is too big before it asks them,
 * and sees one packet each time that the flow is looked at anew; and connections live on by what they drop, too.
 */
static __always_inline enum reason why_left(const struct way *way, __u32 total, bool is_tracked)
{
	return way->left == DROPPED && (is_tracked || total > way->mtu) ? REFUSED : way->left;
}

/* What becomes of a packet, of so many bytes; what the kernel does not see is counted here for the rules that do. */
static __always_inline enum reason counted(const struct way *way, enum reason reason, __u32 total)
{
	if (counts_rules && (reason == FORWARDED || reason == DROPPED))
		count_for_rules(way, total);
	return reason;
}

/* Whether what was decided of the flow is not for this packet of it, of whose segment there are so many bytes. */
static __always_inline bool is_guarded(const struct way *way, __u8 protocol, const void *segment, __u32 bytes,
				       const void *end)
{
	const __u8 *flags = segment + TCP_FLAGS_AT;

	if (!way->guards || protocol != IPPROTO_TCP)
		return false;
	return bytes < TCP_BYTES || segment + TCP_BYTES > end || *flags & TCP_SIGNALS;
}

static __always_inline __u64 high(const __u32 *words)
{
	return (__u64)bpf_ntohl(words[0]) << 32 | bpf_ntohl(words[1]);
}

static __always_inline bool is_at_least(const __u32 *words, const __u32 *least)
{
	if (high(words) != high(least))
		return high(words) > high(least);
	return high(words + 2) >= high(least + 2);
}

static __always_inline bool row_applies(const struct row *row, const __u32 *window)
{
	__u32 masked[WINDOW_WORDS], differs = 0;

	for (int i = 0; i < WINDOW_WORDS; i++) {
		masked[i] = window[i] & row->mask[i];
		differs |= masked[i] ^ row->value[i];
	}
	if (row->kind == ROW_EQUAL)
		return !differs;
	return is_at_least(masked, row->value) && is_at_least(row->last, masked);
}

static __always_inline const __u8 *words_of(const struct row *row)
{
	return (const __u8 *)row->mask;
}

static __always_inline __u32 *member_of(struct evaluation *now, const struct row *row)
{
	for (int i = 0; i < KEY_WORDS; i++)
		now->member.words[i] = i < row->at ? now->view[words_of(row)[i] & (VIEW_WORDS - 1)] : 0;
	now->member.half = now->half;
	now->member.set = row->target;
	return bpf_map_lookup_elem(&set_members, &now->member);
}

static __always_inline __u32 *prefix_of(struct evaluation *now, const struct row *row)
{
	for (int i = 0; i < WINDOW_WORDS; i++)
		now->prefix.words[i] = now->view[(row->at + i) & (VIEW_WORDS - 1)];
	now->prefix.length = 32 + 8 * words_of(row)[1];
	now->prefix.half = now->half;
	now->prefix.set = row->target;
	return bpf_map_lookup_elem(&set_prefixes, &now->prefix);
}

static __always_inline long decide(struct evaluation *now, __u32 verdict)
{
	now->verdict = verdict;
	now->is_decided = true;
	return 1;
}

/* Do one row; 1 ends it. */
static long do_row(__u64 index, void *context)
{
	struct evaluation *now = *(struct evaluation **)context;
	__u32 at = now->half * ROWS_MAX + (now->at & (ROWS_MAX - 1)), *found, window[WINDOW_WORDS];
	struct row *row = bpf_map_lookup_elem(&ruleset_rows, &at);
	__u32 counters;
	bool applies;

	if (!row)
		return 1;
	switch (row->kind) {
	case ROW_EQUAL:
	case ROW_RANGE:
		for (int i = 0; i < WINDOW_WORDS; i++)
			window[i] = now->view[(row->at + i) & (VIEW_WORDS - 1)];
		applies = row_applies(row, window) != (row->flags & ROW_INVERTED);
		now->at = applies ? now->at + 1 : row->otherwise;
		return 0;
	case ROW_MEMBER:
	case ROW_PREFIX:
		found = row->kind == ROW_MEMBER ? member_of(now, row) : prefix_of(now, row);
		if (found && *found)
			now->at = *found;
		else if (!!found != (row->flags & ROW_INVERTED))
			now->at++;
		else
			now->at = row->otherwise;
		return 0;
	case ROW_GOTO:
		now->at = row->target;
		return 0;
	case ROW_CALL:
		if (now->depth >= JUMPS_MAX)
			return 1;
		now->calls[now->depth & (JUMPS_MAX - 1)] = now->at + 1;
		now->depth++;
		now->at = row->target;
		return 0;
	case ROW_RETURN:
		if (!now->depth) {
			now->at = now->policy;
			return 0;
		}
		now->depth--;
		now->at = now->calls[now->depth & (JUMPS_MAX - 1)];
		return 0;
	case ROW_ENTER:
		now->depth = 0;
		now->accepted = row->target;
		now->policy = row->otherwise;
		now->at++;
		return 0;
	case ROW_ACCEPT:
		now->depth = 0;
		now->at = now->accepted;
		return 0;
	case ROW_COUNT:
		if (!counts_rules)
			return decide(now, UNDECIDED);
		counters = now->counters;
		if (counters >= COUNTED_MAX)
			return decide(now, MANY_COUNTERS);
		now->counted[counters] = row->target;
		now->counters = counters + 1;
		now->at++;
		return 0;
	case ROW_DONE:
		now->guards = row->otherwise;
		return decide(now, FORWARDED);
	case ROW_LEAVE:
		now->guards = row->otherwise;
		return decide(now, row->target == LEAVE_DROPPED	  ? DROPPED
				   : row->target == LEAVE_REFUSED ? REFUSED
								  : UNDECIDED);
	}
	return 1;
}

static __always_inline bool set_name(__u32 *words, __u32 ifindex)
{
	struct interface_name *name = bpf_map_lookup_elem(&interface_names, &ifindex);

	if (!name)
		return false;
	__builtin_memcpy(words, name, sizeof(*name));
	return true;
}

static __always_inline struct evaluation *begin_evaluation(__u32 ifindex, __u32 way_out, const struct ports *ports,
							   __u32 protocol)
{
	__u32 mine = BPF_LOCAL;
	struct evaluation *now = bpf_map_lookup_elem(&evaluations, &mine);

	if (!now)
		return NULL;
	__builtin_memset(now, 0, sizeof(*now));
	now->view[VIEW_PORT_FROM] = ports->from;
	now->view[VIEW_PORT_TO] = ports->to;
	now->view[VIEW_PROTOCOL] = bpf_htonl(protocol << 24);
	now->view[VIEW_HAS_PORTS] = bpf_htonl((__u32)(protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) << 24);
	now->view[VIEW_IN] = ifindex;
	now->view[VIEW_OUT] = way_out;
	if (!set_name(now->view + VIEW_IN_NAME, ifindex) || !set_name(now->view + VIEW_OUT_NAME, way_out))
		return NULL;
	return now;
}

/* Keep with the way of a flow what was found out of it beside the verdict. */
static __always_inline void keep_evaluation(struct way *way, const struct evaluation *now)
{
	way->guards = now ? now->guards : 0;
	if (!counts_rules)
		return;
	if (now)
		__builtin_memcpy(way->counted, now->counted, sizeof(way->counted));
	else
		__builtin_memset(way->counted, 0, sizeof(way->counted));
}

/* Go through the rows from those of a family on (0: IPv4, 1: IPv6). */
static __noinline __attribute__((unused)) int evaluate(struct net *net, struct evaluation *now, __u32 family,
						       bool is_filtering, bool is_tracked)
{
	__u32 zero = 0, at;
	struct ruleset_state *state = bpf_map_lookup_elem(&ruleset, &zero);
	__u32 generation, kernels = ruleset_generation(net);
	struct row *first;

	if (!state)
		return CHANGING;
	generation = state->generation;
	at = (state->half & 1) * ROWS_MAX + (family & 1);
	first = bpf_map_lookup_elem(&ruleset_rows, &at);
	if (!first || first->kind != ROW_BEGIN || (kernels && kernels != generation))
		return CHANGING;
	if ((first->otherwise & BEGINS_TRACKED) && !is_tracked)
		return CHANGING;
	if (first->otherwise & BEGINS_EMPTY)
		return FORWARDED;
	if (!is_filtering || !now)
		return CHANGING;
	now->half = state->half & 1;
	now->at = first->target;
	bpf_loop(STEPS_MAX, do_row, &now, 0);
	if (now->half != (state->half & 1) || generation != state->generation)
		return CHANGING;
	return now->is_decided ? (int)now->verdict : UNDECIDED;
}

#endif
