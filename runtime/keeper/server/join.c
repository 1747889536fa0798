//go:build cgo

// How a process that libcontainer makes in a container comes into its cgroups
// where there is one tree for each controller (cgroup v1): by itself, before
// libcontainer's own C code and before Go. All that it forks is there too, as
// it is with cgroup v2 by CLONE_INTO_CGROUP, and nobody has to wait for the
// kernel, which lets the first move after a pause take 10 ms.
// See precompile/join.go.in.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// refuse ends the process as libcontainer's stages end: with a line of its log.
static void refuse(void)
{
	const char *log = getenv("_LIBCONTAINER_LOGPIPE");

	if (log)
		dprintf(atoi(log), "{\"level\":\"fatal\",\"msg\":\"join the container's cgroups: %s\"}\n", strerror(errno));
	_exit(1);
}

__attribute__((constructor(103))) static void join_cgroups(int argc, char **argv)
{
	static const char file[] = "/cgroup.procs";
	char path[4096];
	const char *dir, *end;

	if (argc != 2 || strcmp(argv[1], "init") != 0 || !(dir = getenv("GANTRY_CGROUPS")))
		return;
	for (; *dir; dir = *end ? end + 1 : end) { // a name cannot have a newline
		int len, fd;

		end = strchrnul(dir, '\n');
		len = end - dir;
		if ((size_t)len + sizeof file > sizeof path) {
			errno = ENAMETOOLONG;
			refuse();
		}
		memcpy(path, dir, len);
		memcpy(path + len, file, sizeof file);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "0", 1) != 1)
			refuse();
		close(fd);
	}
}
