// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Clamp of the congestion window: the most segments a connection may have in flight, whatever its congestion control
 * thinks.
 *
 * The kernel lowers a larger window to it as acknowledgements come in; a first flight that is under way is not cut, so
 * the initial window holds even above the clamp. With the clamp the kernel sets ssthresh to the same value, so slow
 * start ends at it. When the clamp of an open connection is taken back, ssthresh goes with it: the connection is in
 * slow start again, and learns anew where the path is full. No interface gives back the ssthresh of before.
 */
#include <pliant/feature.h>

#define TCP_BPF_SNDCWND_CLAMP 1002
#define NO_CLAMP	      0x7fffffff /* the most that the kernel takes; also its ssthresh for "not known yet" */

struct setting {
	__u32 segments;
};

FEATURE_SETTINGS;

static __always_inline long set_option(void *socket, struct sock *sk, const struct setting *setting)
{
	return bpf_setsockopt(socket, SOL_TCP, TCP_BPF_SNDCWND_CLAMP, (void *)&setting->segments,
			      sizeof(setting->segments));
}

/* There is no option to ask for it. */
static __always_inline long get_option(void *socket, struct sock *sk, struct setting *setting)
{
	__u32 segments = ((struct tcp_sock *)sk)->snd_cwnd_clamp;

	setting->segments = segments < NO_CLAMP ? segments : NO_CLAMP;
	return 0;
}

LIVE_FEATURE(cwnd_clamp)
