/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Headers as they are on the wire, and what both IP versions and every module need of them.
 */
#ifndef PLIANT_FASTPATH_PACKET_H
#define PLIANT_FASTPATH_PACKET_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_802_3_MIN 0x0600 /* below that it is a length */
#define ETH_P_IP	0x0800
#define ETH_P_ARP	0x0806
#define ETH_P_RARP	0x8035
#define ETH_P_8021Q	0x8100
#define ETH_P_IPV6	0x86dd
#define ETH_P_PPPOE	0x8864
#define ETH_P_8021AD	0x88a8
#define ETH_P_MRP	0x88e3
#define ETH_P_CFM	0x8902

#define IP_DF	   0x4000
#define IP_OFFSET  0x1fff
#define IP_IS_PART 0x3fff /* more fragments, or an offset */

#define IPPROTO_ICMP   1
#define IPPROTO_TCP    6
#define IPPROTO_UDP    17
#define IPPROTO_ICMPV6 58

/* Addresses are in words of two bytes each, which an Ethernet header keeps aligned behind XDP's headroom. */
struct ethernet {
	__u16 to[3];
	__u16 from[3];
	__be16 type;
};

struct ipv4 {
	__u8 version_length;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__sum16 checksum;
	__be32 from;
	__be32 to;
};

struct ipv6 {
	__be32 version_class_label;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__be32 from[4];
	__be32 to[4];
};

/* Where ports decide, a packet has at least this much behind its IP header: iptables drops datagrams that have less. */
#define TRANSPORT_BYTES 8

struct ports {
	__be16 from;
	__be16 to;
};

static __always_inline bool is_same_address(const __u16 *left, const __u16 *right)
{
	return !((left[0] ^ right[0]) | (left[1] ^ right[1]) | (left[2] ^ right[2]));
}

/* Whether the header's own checksum is right (RFC 1071): the ones' complement sum of all its words is all ones. */
static __always_inline bool is_checksum_right(const struct ipv4 *ip)
{
	const __u32 *word = (const void *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* One hop less, and the checksum with it, as the kernel does it (RFC 1141, ip_decrease_ttl()). */
static __always_inline void decrease_ttl(struct ipv4 *ip)
{
	__u32 checksum = ip->checksum;

	checksum += bpf_htons(0x0100);
	ip->checksum = checksum + (checksum >= 0xffff);
	ip->ttl--;
}

#endif
