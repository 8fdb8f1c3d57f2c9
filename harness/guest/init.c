/*
 * Process 1 of a ready-made kernel until its root is there: does what /plan says, line by line.
 *
 *	load PATH		load a module, and free the memory of its file
 *	mount TYPE SOURCE [OPTIONS]	mount the root, read-only
 *	exec PATH		go on in that root, with the arguments and environment that the kernel gave
 *
 * What a kernel with all of it built in does by itself is left to that kernel's own words: nothing here but the way
 * into the root. A module that is refused is told and passed over, for a processor may lack what a fast variant of a
 * checksum needs; without a root, init ends, which is the kernel's panic.
 *
 * Without a C library: 64-bit x86 only, and a guest need not unpack one.
 */
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/mount.h>

#define TARGET "/root"

static long call(long number, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

#define CALL(name, a, b, c, d, e) \
	call(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

static char *append(char *to, const char *text)
{
	while ((*to = *text++))
		to++;
	return to;
}

/* One line in the kernel's log: what was tried, and the number of the error. */
static void complain(const char *what, const char *which, long result)
{
	char line[512], digits[8], *end = line, *digit = digits + sizeof(digits) - 1;
	long fd = CALL(open, "/dev/kmsg", O_WRONLY, 0, 0, 0);

	end = append(end, "<3>kproof: cannot ");
	end = append(end, what);
	end = append(end, " ");
	end = append(end, which);
	end = append(end, ": error ");
	*digit = 0;
	for (result = -result; result > 0 && digit > digits; result /= 10)
		*--digit = '0' + result % 10;
	end = append(end, digit);
	CALL(write, fd, line, end - line, 0, 0);
	CALL(close, fd, 0, 0, 0, 0);
}

static void load(const char *path)
{
	long fd = CALL(open, path, O_RDONLY, 0, 0, 0);
	long result = fd < 0 ? fd : CALL(finit_module, fd, "", 0, 0, 0);

	if (result < 0)
		complain("load", path, result);
	CALL(close, fd, 0, 0, 0, 0);
	CALL(unlink, path, 0, 0, 0, 0);
}

static void mount_root(const char *type, const char *source, const char *options)
{
	long result = CALL(mount, source, TARGET, type, MS_RDONLY, options);

	if (result < 0)
		complain("mount", source, result);
}

static void enter(char *program, char **arguments, char **environment)
{
	arguments[0] = program;
	CALL(chdir, TARGET, 0, 0, 0, 0);
	CALL(mount, ".", "/", 0, MS_MOVE, 0);
	CALL(chroot, ".", 0, 0, 0, 0);
	CALL(chdir, "/", 0, 0, 0, 0);
	complain("run", program, CALL(execve, program, arguments, environment, 0, 0));
}

/* Cut a word off a line: ends it and returns what follows. */
static char *cut(char *text, char at)
{
	while (*text && *text != at)
		text++;
	if (*text)
		*text++ = 0;
	return text;
}

/* The stack of a new program has the count of its arguments, these, a null, its environment, and a null. */
__asm__(".globl _start\n"
	"_start:\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call begin\n");

__attribute__((used)) void begin(char **stack)
{
	static char plan[4096];
	char *line = plan, *next, *first, *second, *third;
	char **arguments = stack + 1, **environment = arguments + (long)*stack + 1;
	long fd;

	CALL(mkdir, "/dev", 0755, 0, 0, 0);
	CALL(mkdir, TARGET, 0755, 0, 0, 0);
	CALL(mount, "devtmpfs", "/dev", "devtmpfs", 0, 0);
	fd = CALL(open, "/plan", O_RDONLY, 0, 0, 0);
	CALL(read, fd, plan, sizeof(plan) - 1, 0, 0);
	CALL(close, fd, 0, 0, 0, 0);
	for (; *line; line = next) {
		next = cut(line, '\n');
		first = cut(line, ' ');
		second = cut(first, ' ');
		third = cut(second, ' ');
		switch (*line) {
		case 'l':
			load(first);
			break;
		case 'm':
			mount_root(first, second, third);
			break;
		case 'e':
			enter(first, arguments, environment);
			break;
		}
	}
	CALL(exit, 1, 0, 0, 0, 0);
}
