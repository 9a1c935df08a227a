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

struct sock {
	struct sock_cgroup_data sk_cgrp_data;
	int sk_rcvbuf;
	__u8 sk_userlocks : 4;
};

#define TCP_CA_NAME_MAX 16

struct tcp_congestion_ops {
	char name[TCP_CA_NAME_MAX];
};

struct inet_connection_sock {
	const struct tcp_congestion_ops *icsk_ca_ops;
};

#pragma clang attribute pop

#endif
