// SPDX-License-Identifier: GPL-2.0-only
/*
 * Request and response, one byte each, between two sockets of this process: netperf's TCP_RR and UDP_RR without a
 * second process. Nothing sleeps: what a socket sends has arrived at the other one when send() returns, because the
 * kernel delivers it on its way out (the backlog of softirqs is served in __local_bh_enable_ip()).
 */
#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

/* Marks for QEMU's plugin; without it, NOPs (harness/bench/plugin/insns.c). */
#define START() __asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00, 1, 0x72, 0x70, 0x6b" ::: "memory")
#define STOP() __asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00, 2, 0x72, 0x70, 0x6b" ::: "memory")

struct outcome {
	uint64_t ns;
	uint64_t waits; /* times that nothing had arrived yet */
};

static uint64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* The coarse clock is set by the timer's interrupt: a run that begins now has the longest time without another. */
static void await_tick(void)
{
	uint64_t before = now(CLOCK_MONOTONIC_COARSE);

	while (now(CLOCK_MONOTONIC_COARSE) == before)
		;
}

static int one_byte(int from, int to, uint64_t *waits)
{
	char byte = 'x';
	ssize_t length = send(from, &byte, 1, 0);

	if (length != 1)
		return length < 0 ? -errno : -EPROTO;
	while ((length = recv(to, &byte, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
		++*waits;
	return length == 1 ? 0 : length < 0 ? -errno : -EPROTO;
}

/* 0, or a negative errno. */
EXPORT int rr(int client, int server, uint64_t count, struct outcome *outcome)
{
	uint64_t start;
	int error = 0;

	outcome->waits = 0;
	await_tick();
	START();
	start = now(CLOCK_MONOTONIC_RAW);
	for (uint64_t done = 0; done < count && !error; done++) {
		error = one_byte(client, server, &outcome->waits);
		if (!error)
			error = one_byte(server, client, &outcome->waits);
	}
	outcome->ns = now(CLOCK_MONOTONIC_RAW) - start;
	STOP();
	return error;
}
