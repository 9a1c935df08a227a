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

struct nf_tcp_net {
	unsigned int timeouts[14];
	__u8 tcp_be_liberal;
	__u8 tcp_max_retrans;
	__u8 tcp_ignore_invalid_rst;
};

struct nf_udp_net {
	unsigned int timeouts[2];
};

struct nf_ip_net {
	struct nf_tcp_net tcp;
	struct nf_udp_net udp;
};

struct netns_nftables {
	unsigned int base_seq;
};

struct netns_ct {
	__u8 sysctl_checksum;
	struct nf_ip_net nf_ct_proto;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
	struct netns_ct ct;
	struct netns_nftables nft;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
	struct in_device *ip_ptr;
	struct inet6_dev *ip6_ptr;
	unsigned int flags;
	unsigned int mtu;
	unsigned short hard_header_len;
	int ifindex;
	void *rx_handler_data;
	__u64 features;
	const unsigned char *dev_addr;
};

/* A type of eight bytes, to read such at an address. */
struct timespec64 {
	long long tv_sec;
};

struct xdp_rxq_info {
	struct net_device *dev;
};

/* What an XDP program is called with, behind the interface. */
struct xdp_buff {
	struct xdp_rxq_info *rxq;
};

struct sk_buff {
	struct sk_buff *next;
	__u8 ip_summed : 2;
	__u32 vlan_all;
};

/* A connection (net/netfilter/nf_conntrack.h), as far as it matters here. */
union nf_inet_addr {
	__be32 ip;
	__be32 ip6[4];
};

union nf_conntrack_man_proto {
	__be16 all;
};

struct nf_conntrack_man {
	union nf_inet_addr u3;
	union nf_conntrack_man_proto u;
};

struct nf_conntrack_tuple {
	struct nf_conntrack_man src;
	struct {
		union nf_inet_addr u3;
		union {
			__be16 all;
		} u;
	} dst;
};

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
};

struct ip_ct_tcp_state {
	__u8 flags;
};

struct ip_ct_tcp {
	struct ip_ct_tcp_state seen[2];
	__u8 state;
	__u8 retrans;
	__u16 last_win;
};

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
};

enum nf_ct_ext_id {
	NF_CT_EXT_HELPER,
	NF_CT_EXT_NAT,
	NF_CT_EXT_SEQADJ,
	NF_CT_EXT_ACCT,
	NF_CT_EXT_TIMEOUT,
	NF_CT_EXT_SYNPROXY,
};

struct nf_ct_ext {
	__u8 offset[9];
};

struct nf_conn_nat {
	int masq_index;
};

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	__u32 mark;
	struct nf_ct_ext *ext;
	union nf_conntrack_proto proto;
};

#pragma clang attribute pop

#endif
