// SPDX-License-Identifier: GPL-2.0-only
/* As much of QEMU as the plugin needs: blocks that a test translates, and executes as it likes. */
#include "insns.c"

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_insn {
	uint8_t code[16];
	size_t size;
	uint64_t *counter;
	qemu_plugin_vcpu_udata_cb_t exec;
	qemu_plugin_vcpu_mem_cb_t access;
	void *exec_data, *access_data;
};

struct qemu_plugin_tb {
	uint64_t vaddr;
	size_t count;
	struct qemu_plugin_insn insns[16];
	qemu_plugin_vcpu_udata_cb_t exec;
	void *data;
};

static qemu_plugin_vcpu_tb_trans_cb_t translated;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, qemu_plugin_vcpu_tb_trans_cb_t cb)
{
	translated = cb;
}

void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, qemu_plugin_vcpu_udata_cb_t cb,
					  enum qemu_plugin_cb_flags flags, void *data)
{
	tb->exec = cb;
	tb->data = data;
}

void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, qemu_plugin_vcpu_udata_cb_t cb,
					    enum qemu_plugin_cb_flags flags, void *data)
{
	insn->exec = cb;
	insn->exec_data = data;
}

void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, enum qemu_plugin_op op, void *ptr,
						uint64_t imm)
{
	insn->counter = ptr;
}

void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, qemu_plugin_vcpu_mem_cb_t cb,
				      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw, void *data)
{
	insn->access = cb;
	insn->access_data = data;
}

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb)
{
	return tb->count;
}

uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb)
{
	return tb->vaddr;
}

struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t at)
{
	return (struct qemu_plugin_insn *)&tb->insns[at];
}

const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn)
{
	return insn->code;
}

size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn)
{
	return insn->size;
}

bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t info)
{
	return info;
}

EXPORT int start(char *argument, int processors)
{
	qemu_info_t info = { .target_name = "x86_64", .system_emulation = true };

	info.system.smp_vcpus = processors;
	return qemu_plugin_install(1, &info, 1, &argument);
}

/* Instructions are given one behind the other, each behind a byte that has its size. */
EXPORT struct qemu_plugin_tb *translate(uint64_t address, size_t count, const uint8_t *code)
{
	struct qemu_plugin_tb *tb = calloc(1, sizeof(*tb));

	tb->vaddr = address;
	tb->count = count;
	for (size_t at = 0; at < count; at++) {
		tb->insns[at].size = *code++;
		memcpy(tb->insns[at].code, code, tb->insns[at].size);
		code += tb->insns[at].size;
	}
	translated(1, tb);
	return tb;
}

/* Execute a block, or its first so many instructions. The last one may load, may store. */
EXPORT void execute(struct qemu_plugin_tb *tb, size_t count, uint64_t load, uint64_t store)
{
	tb->exec(0, tb->data);
	for (size_t at = 0; at < count; at++) {
		struct qemu_plugin_insn *insn = &tb->insns[at];

		if (insn->exec)
			insn->exec(0, insn->exec_data);
		++*insn->counter;
		if (insn->access && at + 1 == count) {
			if (load)
				insn->access(0, 0, load, insn->access_data);
			if (store)
				insn->access(0, 1, store, insn->access_data);
		}
	}
}

/* QEMU 7.2 may call a block's callback for what a later one accesses. */
EXPORT void access_late(struct qemu_plugin_tb *tb, uint64_t address)
{
	struct qemu_plugin_insn *insn = &tb->insns[tb->count - 1];

	insn->access(0, 1, address, insn->access_data);
}
