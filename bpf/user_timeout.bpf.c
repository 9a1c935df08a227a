// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * User timeout: how long sent data may stay unacknowledged before the connection is given up (RFC 5482).
 *
 * It takes the place of net.ipv4.tcp_retries2, which counts retransmissions and so gives up after 13 to 30 minutes. It
 * also ends a connection whose peer keeps its window shut for that long, and one whose keepalive probes go unanswered.
 * A server's counts from when the handshake is complete: the SYN-ACK has gone before the connection is judged.
 */
#include <pliant/feature.h>

#define TCP_USER_TIMEOUT 18

struct setting {
	__u32 milliseconds;
};

FEATURE_SETTINGS;

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	return bpf_setsockopt(socket, SOL_TCP, TCP_USER_TIMEOUT, (void *)&setting->milliseconds,
			      sizeof(setting->milliseconds));
}

static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	return bpf_getsockopt(socket, SOL_TCP, TCP_USER_TIMEOUT, &setting->milliseconds, sizeof(setting->milliseconds));
}

LIVE_FEATURE(user_timeout)
