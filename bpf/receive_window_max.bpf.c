// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Largest receive window: how much the peer may have in flight towards us.
 *
 * The window is what is free of the socket's receive buffer, so the buffer is made as large as the window may be, and
 * that also locks it: the kernel no longer grows it. TCP_WINDOW_CLAMP would not hold. tcp_rcvbuf_grow() (before 6.18
 * tcp_rcv_space_adjust()) raises the clamp with the buffer, from 64 KiB to 12 MB within 20 MB of a bulk transfer on
 * 6.18, and tcp_measure_rcv_mss() writes it anew when it learns how much memory a segment takes (since 6.11), also
 * where the buffer is locked. No callback comes to a socket that only receives, short of one for every packet.
 *
 * Of the buffer the kernel offers the share that payload has of the memory of a packet: a half until the first data
 * has come (and always before 6.6), then 0.3 to 0.95, so the window stays below the limit by as much. The kernel rounds
 * an offer up to its window scale, which the share leaves room for. Two limits of the promise: the SYN-ACK of a server
 * has offered up to 64 KiB before the connection is judged, which a smaller limit only takes back as data comes in; and
 * an application that sets SO_RCVBUF itself after this has its way. One that has set a smaller buffer before keeps it.
 */
#include <pliant/feature.h>

#include <bpf/bpf_core_read.h>

#define SO_RCVBUF	 8
#define SOCK_RCVBUF_LOCK 2 /* the application has set the buffer's size */

struct setting {
	__u32 bytes;
};

FEATURE_SETTINGS;

static __always_inline bool has_smaller_buffer(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u32 bytes)
{
	struct sock *sock = (struct sock *)tcp_of(ctx, sk);

	return sock && BPF_CORE_READ_BITFIELD(sock, sk_userlocks) & SOCK_RCVBUF_LOCK && sock->sk_rcvbuf <= (int)bytes;
}

static __always_inline void apply(struct bpf_sock_ops *ctx, const struct setting *setting, enum moment moment)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 half;

	if (!setting || !is_judged(moment))
		return;
	if (sk && has_smaller_buffer(ctx, sk, setting->bytes)) {
		count_outcome(FEATURE_UNCHANGED);
		return;
	}
	half = setting->bytes / 2; /* the kernel doubles what it is given, see socket(7) */
	count_result(bpf_setsockopt(ctx, SOL_SOCKET, SO_RCVBUF, &half, sizeof(half)));
}

FEATURE(receive_window_max)
