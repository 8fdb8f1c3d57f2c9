// SPDX-License-Identifier: GPL-2.0
/*
 * Count connect() by network namespace: what a load balancer does that keeps
 * state for each namespace, with the cookie as the key of a hash map.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} connects SEC(".maps");

SEC("cgroup/connect4")
int count_by_namespace(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_netns_cookie(ctx), one = 1, *count;

	count = bpf_map_lookup_elem(&connects, &cookie);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&connects, &cookie, &one, BPF_ANY);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
