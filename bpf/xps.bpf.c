// SPDX-License-Identifier: GPL-2.0
/*
 * Programs for transmit queue selection, a section for each answer: what
 * `ip link set dev D xps obj F sec S` loads. They say hello in trace_pipe, as
 * the programs of the RFC of 2019 did.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define ANSWER(name, queue)                                                   \
	SEC(#name) int say_##name(struct __sk_buff *skb)                      \
	{                                                                     \
		bpf_printk("Hello, queue %d!", queue);                        \
		return queue;                                                 \
	}

ANSWER(queue0, 0)
ANSWER(queue1, 1)
ANSWER(queue2, 2)
ANSWER(fall_through, -1)

char _license[] SEC("license") = "GPL";
