/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What conntrack asks of a TCP segment or UDP datagram before it takes it for one of an established connection, and
 * how checksums follow addresses and ports.
 */
#ifndef PLIANT_FASTPATH_TRANSPORT_H
#define PLIANT_FASTPATH_TRANSPORT_H

#include <pliant/fastpath/port.h>

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define CHUNK	   64 /* bytes that are added up at a time */
#define CHUNKS_MAX 64

struct tcp {
	struct ports ports;
	__be32 sequence;
	__be32 acknowledged;
	__u8 offset; /* of the data, in words, in the upper half */
	__u8 flags;
	__be16 window;
	__sum16 checksum;
	__be16 urgent;
};

struct udp {
	struct ports ports;
	__be16 length;
	__sum16 checksum;
};

/* What is in a segment: how many bytes, and the sequence number behind them. Nothing of a datagram. */
struct segment {
	__u32 bytes;
	__u32 end;
};

/*
 * Whether a segment neither begins nor ends anything and is one that conntrack lets pass (tcp_error(): the flags of RFC
 * 793 that may be together). length is that of the packet behind the IP header.
 */
static __always_inline enum reason look_at_tcp(const struct tcp *tcp, void *end, __u32 length, struct segment *segment)
{
	__u32 header;

	if ((void *)(tcp + 1) > end || length < sizeof(*tcp))
		return MALFORMED;
	header = (tcp->offset >> 4) * 4;
	if (header < sizeof(*tcp) || header > length)
		return MALFORMED;
	if ((tcp->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) != TCP_ACK)
		return SIGNALLING;
	segment->bytes = length - header;
	segment->end = bpf_ntohl(tcp->sequence) + segment->bytes;
	return FORWARDED;
}

static __always_inline enum reason look_at_udp(const struct udp *udp, void *end, __u32 length)
{
	__u32 own;

	if ((void *)(udp + 1) > end || length < sizeof(*udp))
		return MALFORMED;
	own = bpf_ntohs(udp->length);
	return own < sizeof(*udp) || own > length ? MALFORMED : FORWARDED;
}

static __always_inline enum reason look_at_transport(const void *transport, void *end, __u8 protocol, __u32 length,
						     struct segment *segment)
{
	return protocol == IPPROTO_TCP ? look_at_tcp(transport, end, length, segment)
				       : look_at_udp(transport, end, length);
}

/* A ones' complement sum in sixteen bits; 0 only where all that was added is. */
static __always_inline __u32 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* What a checksum has to be told when a word becomes another (RFC 1624: HC' = ~(~HC + ~m + m')). */
static __always_inline __u64 changed(__be32 before, __be32 after)
{
	return (__u64)(__u32)~before + after;
}

static __always_inline void amend(__sum16 *checksum, __u32 change)
{
	*checksum = ~folded((__u64)(__u16) ~*checksum + change);
}

/*
 * Whether the checksum of TCP or UDP is right over all that is behind the IP header. Conntrack does not take a packet
 * for one of a connection where it is not (net.netfilter.nf_conntrack_checksum), nor translates it. sum is that of the
 * pseudo header. What is longer than can be added up here is left to the kernel.
 *
 * A function that the verifier looks at once, and not for each length anew.
 */
__noinline int adds_up(struct xdp_md *ctx, __u32 start, __u32 length, __u64 sum)
{
	const void *at = (void *)(long)ctx->data + (start & 63), *end = (void *)(long)ctx->data_end;
	__u32 chunks = length / CHUNK, words = length % CHUNK / 4;
	const void *behind;

	if (length >= CHUNK * CHUNKS_MAX)
		return false;
	for (__u32 chunk = 0; chunk < CHUNKS_MAX && chunk < chunks; chunk++) {
		behind = at + CHUNK;
		barrier_var(behind); /* the compiler is not to do arithmetic on the end */
		if (behind > end)
			return false;
		for (int i = 0; i < CHUNK / 4; i++)
			sum += ((const __u32 *)at)[i];
		at = behind;
	}
	at = (void *)(long)ctx->data + (start & 63) + (length & (CHUNKS_MAX - 1) * CHUNK);
	for (__u32 word = 0; word < CHUNK / 4 && word < words; word++) {
		behind = at + 4;
		barrier_var(behind);
		if (behind > end)
			return false;
		sum += *(const __u32 *)at;
		at = behind;
	}
	at = (void *)(long)ctx->data + (start & 63) + (length & (CHUNKS_MAX * CHUNK - 4));
	if (length & 2) {
		behind = at + 2;
		barrier_var(behind);
		if (behind > end)
			return false;
		sum += *(const __u16 *)at;
		at = behind;
	}
	if (length & 1) {
		behind = at + 1;
		barrier_var(behind);
		if (behind > end)
			return false;
		sum += bpf_htons(*(const __u8 *)at << 8);
	}
	return folded(sum) == 0xffff;
}

/* Addresses and ports have changed; the checksum of a datagram that has none stays so. */
static __always_inline void rewrite_tcp(struct tcp *tcp, struct ports ports, __u32 change)
{
	tcp->ports = ports;
	amend(&tcp->checksum, change);
}

static __always_inline void rewrite_udp(struct udp *udp, struct ports ports, __u32 change)
{
	udp->ports = ports;
	if (!udp->checksum)
		return;
	amend(&udp->checksum, change);
	if (!udp->checksum)
		udp->checksum = 0xffff;
}

#endif
