/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's types, as far as our programs look into them. Only names and types matter: the loader finds each
 * field's offset in the running kernel's BTF (CO-RE), so a field that moves costs nothing and one that is gone
 * refuses the one program that needs it.
 */
#ifndef PLIANT_KERNEL_H
#define PLIANT_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};

/* Its last pointer is a request's listener: request_sock begins with a sock_common, too. */
struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
	struct sock *skc_listener;
};

struct sock {
	struct sock_common __sk_common;
	struct sock_cgroup_data sk_cgrp_data;
	int sk_rcvbuf;
	__u8 sk_userlocks : 4;
};

struct ipv6_pinfo {
	int mcast_oif;
};

struct inet_sock {
	struct sock sk;
	struct ipv6_pinfo *pinet6;
	int mc_index;
};

#define TCP_CA_NAME_MAX 16

struct tcp_congestion_ops {
	char name[TCP_CA_NAME_MAX];
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_congestion_ops *icsk_ca_ops;
};

struct minmax_sample {
	__u32 t;
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_acked;
	__u64 bytes_received;
	__u32 data_segs_out;
	__u32 total_retrans;
	__u32 srtt_us; /* in eighths */
	struct minmax rtt_min;
	__u8 ecn_flags;
	__u32 mss_cache;
	__u32 snd_cwnd_clamp; /* segments; all ones: none */
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u32 snd_cwnd;
	__u32 snd_ssthresh;
	__u32 write_seq;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 app_limited;
	__u32 delivered; /* segments, those acknowledged out of order included */
	__u8 is_cwnd_limited : 1;
};

/* What a sock_ops program is called with, behind the interface (Linux 6.2 lets it look). */
struct bpf_sock_ops_kern {
	struct sock *sk;
};

struct bpf_iter_meta;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

#endif
