//go:build cgo

// What a process ignores, those that it executes ignore too: a container whose
// keeper was started by a shell's & or by make would begin with signals ignored
// that nobody in it has asked to ignore. So every program of the keeper's, the
// first processes of containers among them, begins with none.

#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Of the kernel's signals; libc keeps two to itself, so it is not asked.
enum { LAST_SIGNAL = 64, MASK_BYTES = 8 };

// Before pid1.c's, which does not return (100 and below are libc's).
__attribute__((constructor(101))) static void hear_all_signals(void)
{
	unsigned long act[8]; // the kernel's struct: the handler, and three words more

	for (int sig = 1; sig <= LAST_SIGNAL; sig++) {
		if (syscall(SYS_rt_sigaction, sig, NULL, act, MASK_BYTES) != 0 || act[0] != (unsigned long)SIG_IGN)
			continue;
		memset(act, 0, sizeof act);
		syscall(SYS_rt_sigaction, sig, act, NULL, MASK_BYTES);
	}
}
