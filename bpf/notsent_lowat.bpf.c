// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Unsent low-water mark: how much may wait in the socket that was not sent yet before it stops being writable.
 *
 * What an application has handed over it cannot reorder or take back, so a small mark keeps what it sends fresh (HTTP/2
 * priorities, video). Throughput does not suffer as long as it writes again soon after it is told that it can: the mark
 * does not count what is in flight. Too small a mark costs a wake-up for every few packets.
 */
#include <pliant/feature.h>

#define TCP_NOTSENT_LOWAT 25

struct setting {
	__u32 bytes;
};

FEATURE_SETTINGS;

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	return bpf_setsockopt(socket, SOL_TCP, TCP_NOTSENT_LOWAT, (void *)&setting->bytes, sizeof(setting->bytes));
}

static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	return bpf_getsockopt(socket, SOL_TCP, TCP_NOTSENT_LOWAT, &setting->bytes, sizeof(setting->bytes));
}

LIVE_FEATURE(notsent_lowat)
