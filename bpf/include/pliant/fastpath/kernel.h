/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel's types that the fast path looks into, relocated when it is loaded (see <pliant/kernel.h>). */
#ifndef PLIANT_FASTPATH_KERNEL_H
#define PLIANT_FASTPATH_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

/* Settings under net.ipv4.conf, by IPV4_DEVCONF_... less one. */
struct ipv4_devconf {
	int data[8];
};

struct in_ifaddr;

struct in_device {
	struct in_ifaddr *ifa_list;
	struct ipv4_devconf cnf;
};

struct ipv6_devconf {
	__s32 disable_ipv6;
	__s32 forwarding;
};

struct inet6_dev {
	struct ipv6_devconf cnf;
};

struct rt6_statistics {
	__u32 fib_rt_entries;
};

struct netns_ipv4 {
	struct ipv4_devconf *devconf_all;
	unsigned int fib_rules_require_fldissect;
	atomic_t rt_genid;
};

struct netns_ipv6 {
	struct ipv6_devconf *devconf_all;
	struct rt6_statistics *rt6_stats;
	unsigned int fib6_rules_require_fldissect;
	atomic_t fib6_sernum;
};

struct net {
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
	struct in_device *ip_ptr;
	struct inet6_dev *ip6_ptr;
};

struct xdp_rxq_info {
	struct net_device *dev;
};

/* What an XDP program is called with, behind the interface. */
struct xdp_buff {
	struct xdp_rxq_info *rxq;
};

#pragma clang attribute pop

#endif
