// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Keepalive: after how long without data a connection asks whether its peer is still there (RFC 1122, 4.2.3.6).
 *
 * It switches the probes on, whether or not the application has, and sets the idle time before the first. How often and
 * how far apart they follow is the host's net.ipv4.tcp_keepalive_probes and tcp_keepalive_intvl, or what the
 * application has set; with user_timeout the connection ends when a probe has gone unanswered for that long. Probes
 * also keep the connection in the tables of NAT and firewalls on the way.
 */
#include <pliant/feature.h>

#define SO_KEEPALIVE 9
#define TCP_KEEPIDLE 4

struct setting {
	__u32 is_on;
	__u32 idle_s;
};

FEATURE_SETTINGS;

/* The time first: switching it on starts the timer with it. */
static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	long result = bpf_setsockopt(socket, SOL_TCP, TCP_KEEPIDLE, (void *)&setting->idle_s, sizeof(setting->idle_s));

	if (result)
		return result;
	return bpf_setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, (void *)&setting->is_on, sizeof(setting->is_on));
}

static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	long result = bpf_getsockopt(socket, SOL_TCP, TCP_KEEPIDLE, &setting->idle_s, sizeof(setting->idle_s));

	if (result)
		return result;
	return bpf_getsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &setting->is_on, sizeof(setting->is_on));
}

LIVE_FEATURE(keepalive)
