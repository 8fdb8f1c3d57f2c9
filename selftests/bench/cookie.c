// SPDX-License-Identifier: GPL-2.0-only
/* getpeername(), which runs the programs of the socket's cgroup, and does next to nothing else. */
#include <errno.h>
#include <stdint.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

/* Marks for QEMU's plugin; without it, NOPs (harness/bench/plugin/insns.c). */
#define START() __asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00, 1, 0x72, 0x70, 0x6b" ::: "memory")
#define STOP() __asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00, 2, 0x72, 0x70, 0x6b" ::: "memory")

static uint64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* Nanoseconds of so many calls, or a negative errno. They begin at a tick of the clock. */
EXPORT int64_t ask_often(int fd, uint64_t count)
{
	struct sockaddr_in peer;
	socklen_t length = sizeof(peer);
	uint64_t start, tick = now(CLOCK_MONOTONIC_COARSE);
	int error = 0;

	while (now(CLOCK_MONOTONIC_COARSE) == tick)
		;
	START();
	start = now(CLOCK_MONOTONIC_RAW);
	while (count-- && !error)
		error = getpeername(fd, (struct sockaddr *)&peer, &length);
	start = now(CLOCK_MONOTONIC_RAW) - start;
	STOP();
	return error ? -errno : (int64_t)start;
}
