/* Prints, like a stack trace, where calls return to, and the line that each of them really has. */
#include <stdio.h>
#include <stdlib.h>

#define KEEP asm volatile("")

__attribute__((noinline)) void told(const char *what, int line)
{
	printf("%s %p %d\n", what, __builtin_return_address(0), line);
}

static inline __attribute__((always_inline)) void inner(void)
{
	told("inner", __LINE__);
	KEEP;
}

int middle_line, outer_line;

static inline __attribute__((always_inline)) void middle(void)
{
	middle_line = __LINE__ + 1;
	inner();
}

__attribute__((noinline)) void outer(void)
{
	outer_line = __LINE__ + 1;
	middle();
	KEEP;
}

__attribute__((noinline)) static void twin(void)
{
	told("twin-of-trace", __LINE__);
	KEEP;
}

__attribute__((noinline)) static void alike(void)
{
	told("alike", __LINE__);
	KEEP;
}

__attribute__((noinline, noreturn)) void finish(int line)
{
	printf("last %p %d\n", __builtin_return_address(0), line);
	printf("middle 0x0 %d\nouter 0x0 %d\n", middle_line, outer_line);
	exit(0);
}

/* Its last instruction is a call: it returns to the next function. */
__attribute__((noinline, noreturn)) void last(void)
{
	KEEP;
	finish(__LINE__);
}

__attribute__((noinline)) int first_line(void) { return __LINE__; }

void others(void);

int main(void)
{
	printf("first 0x0 %d\n", first_line());
	outer();
	twin();
	alike();
	others();
	last();
}
