// SPDX-License-Identifier: GPL-2.0
/*
 * Note bpf_get_netns_cookie() of the context and of NULL at every hook that
 * has the helper on Linux 6.12. Selftests read the records by hook number.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum hook {
	HOOK_CONNECT4,
	HOOK_CONNECT6,
	HOOK_POST_BIND4,
	HOOK_POST_BIND6,
	HOOK_SOCK_CREATE,
	HOOK_SENDMSG4,
	HOOK_SOCKOPS,
	HOOK_SK_MSG,
	HOOK_MAX,
};

struct record {
	__u64 of_context;
	__u64 of_null;
	__u64 runs;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HOOK_MAX);
	__type(key, __u32);
	__type(value, struct record);
} records SEC(".maps");

/* The connection whose messages pass the sk_msg program. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

static __always_inline void note(void *ctx, __u32 hook)
{
	struct record *record = bpf_map_lookup_elem(&records, &hook);

	if (!record)
		return;

	record->of_context = bpf_get_netns_cookie(ctx);
	record->of_null = bpf_get_netns_cookie(NULL);
	__sync_fetch_and_add(&record->runs, 1);
}

SEC("cgroup/connect4")
int at_connect4(struct bpf_sock_addr *ctx)
{
	note(ctx, HOOK_CONNECT4);
	return 1;
}

SEC("cgroup/connect6")
int at_connect6(struct bpf_sock_addr *ctx)
{
	note(ctx, HOOK_CONNECT6);
	return 1;
}

SEC("cgroup/post_bind4")
int at_post_bind4(struct bpf_sock *ctx)
{
	note(ctx, HOOK_POST_BIND4);
	return 1;
}

SEC("cgroup/post_bind6")
int at_post_bind6(struct bpf_sock *ctx)
{
	note(ctx, HOOK_POST_BIND6);
	return 1;
}

SEC("cgroup/sock_create")
int at_sock_create(struct bpf_sock *ctx)
{
	note(ctx, HOOK_SOCK_CREATE);
	return 1;
}

SEC("cgroup/sendmsg4")
int at_sendmsg4(struct bpf_sock_addr *ctx)
{
	note(ctx, HOOK_SENDMSG4);
	return 1;
}

SEC("sockops")
int at_sockops(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		note(ctx, HOOK_SOCKOPS);
	return 1;
}

SEC("sk_msg")
int at_sk_msg(struct sk_msg_md *ctx)
{
	note(ctx, HOOK_SK_MSG);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
