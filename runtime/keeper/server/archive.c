//go:build cgo

// How the keeper's helper for archives (see archive.go) comes into a
// container's root filesystem and loses its rights: before Go is started, while
// the process has one task, so that all of it is there and none of it outside.
// Called as
//
//	gantry-runtime archive join    descriptor 7 is the mount namespace of a
//	                               container: enter it
//	gantry-runtime archive bare    likewise, and see its root without what is
//	                               mounted on it
//	gantry-runtime archive here    the process is where it shall be

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif

// ANSWER is where the keeper reads; see archive.go.
enum { ANSWER = 4, NAMESPACE = 7, REFUSED = 70 };

static void must(int ok, const char *what)
{
	if (ok)
		return;
	dprintf(ANSWER, "{\"Error\":{\"Text\":\"%s: %s\"}}\n", what, strerror(errno));
	_exit(REFUSED);
}

// bare makes the root mount alone the root, in no namespace at all.
static void bare(void)
{
	int fd = syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE | O_CLOEXEC);

	must(fd >= 0, "take the root filesystem");
	must(fchdir(fd) == 0 && chroot(".") == 0, "enter the root filesystem");
	close(fd);
}

// What is left: to read and write any file, and to give it its owner, mode and
// kind. Nothing to mount, to trace, to configure or to signal with.
static void shed(void)
{
	static const int kept[] = {
		CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP,
	};
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { 0 } };
	struct rlimit none = { 0, 0 };

	for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
		data[kept[i] / 32].effective |= 1U << kept[i] % 32;
		data[kept[i] / 32].permitted |= 1U << kept[i] % 32;
	}
	// Those a keeper with fewer rights does not have cannot be kept.
	struct __user_cap_data_struct now[2];
	must(syscall(SYS_capget, &head, now) == 0, "read capabilities");
	for (int i = 0; i < 2; i++) {
		data[i].permitted &= now[i].permitted;
		data[i].effective &= now[i].permitted;
	}
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0, "drop ambient capabilities");
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "forbid new privileges");
	must(syscall(SYS_capset, &head, data) == 0, "drop capabilities");
	must(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0, "forbid tracing");
	must(setrlimit(RLIMIT_CORE, &none) == 0, "forbid core dumps");
	umask(0);
}

__attribute__((constructor(102))) static void before_archive(int argc, char **argv)
{
	int outside;

	if (argc != 3 || strcmp(argv[1], "archive") != 0)
		return;
	outside = strcmp(argv[2], "here") != 0;
	if (strcmp(argv[2], "mount") == 0)
		return; // that is for Go, which comes back as "here"
	if (outside) {
		must(setns(NAMESPACE, CLONE_NEWNS) == 0, "enter the container's mount namespace");
		close(NAMESPACE);
		if (strcmp(argv[2], "bare") == 0)
			bare();
	}
	must(chdir("/") == 0, "enter the root filesystem");
	shed();
}
