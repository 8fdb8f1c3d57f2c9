// SPDX-License-Identifier: GPL-2.0-only
/*
 * A TCG plugin for QEMU 7.2: how many instructions a guest with one processor executes between two marks, by place
 * and by the calls that led there.
 *
 *   -plugin file=insns.so,out=FILE
 *
 * A mark is an instruction of user space that does nothing, a long NOP whose displacement is MARK | START or
 * MARK | STOP (harness/bench/mark.py has the bytes). A START in an open window begins it anew, and a STOP outside of
 * one means nothing, so that a workload can mark what it does more narrowly than who runs it. When a window ends, it is
 * appended to FILE:
 *
 *   window NUMBER INSTRUCTIONS
 *   ID PARENT ADDRESS INSTRUCTIONS
 *   …
 *   end NUMBER
 *
 * A line is a node of the tree of calls: ADDRESS (hexadecimal) is where a block of instructions begins, PARENT the
 * node of the block that made the innermost call (0: there is none), INSTRUCTIONS what was executed in that block
 * under those calls, without what it called. Parents come before their children. Address 0 is all of user space.
 *
 * How it counts. Each instruction adds one to a counter, inline; when a block begins, what was added since the block
 * before began is given to that one. So a block that is left in its middle, by a fault or by an access to a device,
 * counts with what it executed, and the sum over all nodes is the window's number of instructions. An instruction
 * that faults has been counted, and is counted again when it is repeated.
 *
 * How it knows the calls. API version 1 cannot read registers, but it tells the address of a memory access. A call
 * stores its return address, a return loads it: that address is the stack pointer. A return from slot S ends all calls
 * whose slots are not above S, and a call that stores to slot S is made when those have ended. Slots that lie in one
 * naturally aligned piece of CHUNK bytes (x86's THREAD_SIZE) belong to one stack, so a switch of tasks is a return
 * into another piece. A first call in a piece in which none is open, made by the kernel (that is how it goes to the
 * stack for interrupts), is a call from where it was made.
 */
#include "qemu_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK 0x6b707200u /* "kpr", and which one it is */
#define START 1
#define STOP 2

#define CHUNK_BITS 14
#define KERNEL (1ULL << 63)

struct node {
	uint64_t address;
	uint64_t instructions;
	struct node *parent;
	struct node *same_hash;
	struct node *older;
	uint64_t id;
};

/* A call that has not returned: where its return address is, and the block that made it. */
struct call {
	uint64_t slot;
	struct node *caller;
};

/* Calls whose return addresses lie in one piece of memory, the innermost last. */
struct stack {
	uint64_t chunk;
	struct call *calls;
	size_t depth, room;
	struct stack *from; /* for a stack that was called to: where that call was made */
	struct node *base;  /* and by which block */
	struct stack *same_hash;
};

/* A translated block, which lives as long as QEMU. The last node of it is most often the next one, too. */
struct block {
	uint64_t address;
	struct node *parent;
	struct node *node;
	uint64_t window;
};

#define NODES (1u << 16)
#define STACKS (1u << 10)

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static FILE *out;
static uint64_t executed; /* instructions, ever */
static uint64_t window;   /* which has begun last; the first is 1 */
static uint64_t written;  /* windows in the file */
static bool open_window;
static uint64_t opened_at, given_until;

static struct node *nodes[NODES], *newest;
static uint64_t count_of_nodes;
static struct stack *stacks[STACKS];
static struct stack *here; /* NULL: in user space, or just come from there */
static struct block *current;
static struct node *now; /* of the current block, under the calls that led there */

static void fail(const char *why)
{
	fprintf(stderr, "insns.so: %s\n", why);
	exit(1);
}

static void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (!memory)
		fail("out of memory");
	return memory;
}

static struct node *node_of(struct node *parent, uint64_t address)
{
	uint64_t hash = (address ^ (parent ? parent->id : 0) * 0x9e3779b97f4a7c15ULL) * 0x9e3779b97f4a7c15ULL;
	struct node **bucket = &nodes[hash >> 48 & (NODES - 1)];
	struct node *node;

	for (node = *bucket; node; node = node->same_hash)
		if (node->address == address && node->parent == parent)
			return node;
	node = allocate(1, sizeof(*node));
	node->address = address;
	node->parent = parent;
	node->id = ++count_of_nodes;
	node->same_hash = *bucket;
	*bucket = node;
	node->older = newest;
	newest = node;
	return node;
}

static struct stack *stack_of(uint64_t slot)
{
	uint64_t chunk = slot >> CHUNK_BITS;
	struct stack **bucket = &stacks[chunk & (STACKS - 1)];
	struct stack *stack;

	for (stack = *bucket; stack; stack = stack->same_hash)
		if (stack->chunk == chunk)
			return stack;
	stack = allocate(1, sizeof(*stack));
	stack->chunk = chunk;
	stack->same_hash = *bucket;
	*bucket = stack;
	return stack;
}

/*
 * Two faults of QEMU 7.2 shape the callbacks for accesses to memory. Who registers for loads only hears of none, and
 * for stores only of loads as well: so they are registered for both. And the callbacks of a block's last instruction
 * may be called for what a helper function accesses in the blocks after it: so each looks whether the current block is
 * its own.
 */

static void end_calls(struct stack *stack, uint64_t slot)
{
	while (stack->depth && stack->calls[stack->depth - 1].slot <= slot)
		stack->depth--;
}

static struct node *innermost_caller(void)
{
	if (!here)
		return NULL;
	return here->depth ? here->calls[here->depth - 1].caller : here->base;
}

/* Give what was executed since the last time to the block that was being executed. */
static void settle(void)
{
	now->instructions += executed - given_until;
	given_until = executed;
}

static void on_block(unsigned int cpu, void *data)
{
	struct block *block = data;
	struct node *parent;

	if (!open_window)
		return;
	settle();
	current = block;
	if (!(block->address & KERNEL)) {
		here = NULL;
		now = node_of(NULL, 0);
		return;
	}
	parent = innermost_caller();
	if (block->window != window || block->parent != parent) {
		block->window = window;
		block->parent = parent;
		block->node = node_of(parent, block->address);
	}
	now = block->node;
}

static void on_call(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t slot, void *data)
{
	struct stack *stack;

	/* a call through a pointer in memory loads that first */
	if (!open_window || data != current || !qemu_plugin_mem_is_store(info))
		return;
	stack = stack_of(slot);
	end_calls(stack, slot);
	if (stack != here) {
		if (!stack->depth) {
			stack->from = here;
			stack->base = here ? now : NULL;
		}
		here = stack;
	}
	if (stack->depth == stack->room) {
		stack->room = stack->room ? 2 * stack->room : 64;
		stack->calls = realloc(stack->calls, stack->room * sizeof(*stack->calls));
		if (!stack->calls)
			fail("out of memory");
	}
	stack->calls[stack->depth++] = (struct call){ .slot = slot, .caller = now };
}

static void on_return(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t slot, void *data)
{
	struct stack *stack;

	if (!open_window || data != current)
		return;
	stack = stack_of(slot);
	end_calls(stack, slot);
	if (!stack->depth && stack->base) {
		here = stack->from;
		stack->from = NULL;
		stack->base = NULL;
	} else {
		here = stack;
	}
}

static void forget(void)
{
	while (newest) {
		struct node *older = newest->older;

		free(newest);
		newest = older;
	}
	memset(nodes, 0, sizeof(nodes));
	count_of_nodes = 0;
	for (size_t bucket = 0; bucket < STACKS; bucket++) {
		for (struct stack *stack = stacks[bucket]; stack; stack = stack->same_hash) {
			stack->depth = 0;
			stack->from = NULL;
			stack->base = NULL;
		}
	}
}

static void on_start(unsigned int cpu, void *data)
{
	if (open_window)
		forget();
	window++;
	open_window = true;
	opened_at = given_until = executed;
	here = NULL;
	now = node_of(NULL, 0);
}

/* Nodes are linked from the newest to the oldest, and are wanted the other way round. */
static void oldest_first(void)
{
	struct node *rest = newest;

	newest = NULL;
	while (rest) {
		struct node *older = rest->older;

		rest->older = newest;
		newest = rest;
		rest = older;
	}
}

static void on_stop(unsigned int cpu, void *data)
{
	if (!open_window)
		return;
	settle();
	open_window = false;
	oldest_first();
	fprintf(out, "window %lu %lu\n", ++written, executed - opened_at);
	for (struct node *node = newest; node; node = node->older)
		fprintf(out, "%lu %lu %lx %lu\n", node->id, node->parent ? node->parent->id : 0, node->address,
			node->instructions);
	fprintf(out, "end %lu\n", written);
	if (fflush(out))
		fail("the file cannot be written");
	forget();
}

/* nopl DISPLACEMENT(%rax,%rax,1) with a displacement of four bytes */
static int mark(const uint8_t *code, size_t size)
{
	uint32_t displacement;

	if (size != 8 || memcmp(code, "\x0f\x1f\x84\x00", 4))
		return 0;
	memcpy(&displacement, code + 4, sizeof(displacement));
	return (displacement & 0xffffff00u) == MARK ? displacement & 0xff : 0;
}

/* Near calls (E8, FF /2) and returns (C3, C2) of 64-bit code, behind any prefixes (Intel SDM, volume 2). */
static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct block *block = allocate(1, sizeof(*block));
	size_t count = qemu_plugin_tb_n_insns(tb);

	block->address = qemu_plugin_tb_vaddr(tb);
	qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
	for (size_t at = 0; at < count; at++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, at);
		const uint8_t *code = qemu_plugin_insn_data(insn);
		size_t size = qemu_plugin_insn_size(insn);

		qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &executed, 1);
		if (!(block->address & KERNEL)) {
			switch (mark(code, size)) {
			case START:
				qemu_plugin_register_vcpu_insn_exec_cb(insn, on_start, QEMU_PLUGIN_CB_NO_REGS, NULL);
				break;
			case STOP:
				qemu_plugin_register_vcpu_insn_exec_cb(insn, on_stop, QEMU_PLUGIN_CB_NO_REGS, NULL);
				break;
			}
			continue;
		}
		while (size > 1 && (memchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3", *code, 10) ||
				    (*code & 0xf0) == 0x40)) {
			code++;
			size--;
		}
		if (*code == 0xe8 || (*code == 0xff && size > 1 && (code[1] >> 3 & 7) == 2))
			qemu_plugin_register_vcpu_mem_cb(insn, on_call, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW,
							 block);
		else if (*code == 0xc3 || *code == 0xc2)
			qemu_plugin_register_vcpu_mem_cb(insn, on_return, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW,
							 block);
	}
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	if (strcmp(info->target_name, "x86_64") || !info->system_emulation || info->system.smp_vcpus != 1) {
		fprintf(stderr, "insns.so: only for qemu-system-x86_64 with one processor\n");
		return -1;
	}
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "insns.so: usage: -plugin file=insns.so,out=FILE\n");
		return -1;
	}
	out = fopen(argv[0] + 4, "w");
	if (!out) {
		perror("insns.so: out");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
