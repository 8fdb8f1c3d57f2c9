/* A function of the same name as one of trace.c, and of another size; and one that is the same in all. */
void told(const char *what, int line);

#define KEEP asm volatile("")

__attribute__((noinline)) static void twin(void)
{
	KEEP;
	told("nothing", __LINE__);
	told("twin-of-twin", __LINE__);
	KEEP;
}

__attribute__((noinline)) static void alike(void)
{
	told("alike", __LINE__);
	KEEP;
}

void others(void)
{
	twin();
	alike();
}
