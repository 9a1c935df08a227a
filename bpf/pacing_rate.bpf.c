// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Pacing rate: the fastest the connection may send. TCP paces itself; no particular qdisc is needed.
 */
#include <pliant/feature.h>

#define SO_MAX_PACING_RATE 47

struct setting {
	__u32 bytes_per_second; /* all ones: no limit */
};

FEATURE_SETTINGS;

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	return bpf_setsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, (void *)&setting->bytes_per_second,
			      sizeof(setting->bytes_per_second));
}

static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	return bpf_getsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &setting->bytes_per_second,
			      sizeof(setting->bytes_per_second));
}

LIVE_FEATURE(pacing_rate)
