//go:build cgo

// The first process of a container that asked for an init: it runs a command,
// hands signals on to it, collects the processes that lose their parent, and
// ends as the command does. Bound into the container as /sbin/docker-init it is
// the keeper's own program, which comes here before Go is started: one task and
// a few pages instead of a runtime with its threads.

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

// Exit codes, as a shell's and Docker's.
enum { USAGE = 2, FAILED = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127, SIGNALLED = 128 };

static void fail(int code, const char *what, const char *why)
{
	char text[128];

	snprintf(text, sizeof text, "%s", why);
	text[0] = tolower((unsigned char)text[0]);
	fprintf(stderr, "docker-init: %s: %s\n", what, text);
	fflush(stderr);
	_exit(code);
}

// command becomes the program, in a process group of its own. If standard input
// is a terminal the group gets it, or Ctrl-C would reach the init alone.
static void command(char **argv, const sigset_t *mask)
{
	char quoted[4200];
	int code = NOT_EXECUTABLE;
	const char *why;

	setpgid(0, 0);
	if (isatty(STDIN_FILENO))
		tcsetpgrp(STDIN_FILENO, getpid()); // SIGTTOU is ignored
	signal(SIGTTIN, SIG_DFL);
	signal(SIGTTOU, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	why = strerror(errno);
	if (errno == ENOENT || errno == ENOTDIR) {
		code = NOT_FOUND;
		if (!strchr(argv[0], '/'))
			why = "executable file not found in $PATH";
	}
	snprintf(quoted, sizeof quoted, "exec: \"%s\"", argv[0]);
	fail(code, quoted, why);
}

// collect reaps whoever has ended. When the command is among them, so does the
// init, and with it everything else in the container.
static void collect(pid_t child)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0 || (pid < 0 && errno == EINTR)) {
		if (pid != child)
			continue;
		if (WIFEXITED(status))
			_exit(WEXITSTATUS(status));
		if (WIFSIGNALED(status))
			_exit(SIGNALLED + WTERMSIG(status));
	}
}

static void first_process(char **argv)
{
	// Faults of our own are not for others.
	static const int own[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS, SIGTTIN, SIGTTOU };
	sigset_t all, before;
	pid_t child;
	int sig;

	if (!argv[0]) {
		fprintf(stderr, "docker-init: no command\n");
		_exit(USAGE);
	}
	sigfillset(&all);
	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		sigdelset(&all, own[i]);
	// Blocked, a signal waits for sigwaitinfo, also one that would be ignored
	// because this is process 1 and handles nothing.
	sigprocmask(SIG_SETMASK, &all, &before);
	signal(SIGTTIN, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
	child = fork();
	if (child < 0)
		fail(FAILED, "fork", strerror(errno));
	if (child == 0)
		command(argv, &before);
	for (;;) {
		sig = sigwaitinfo(&all, NULL);
		if (sig == SIGCHLD)
			collect(child);
		else if (sig > 0)
			kill(child, sig);
	}
}

// before_go runs ahead of all other constructors, libcontainer's too, and
// returns unless the program was called as
//
//	…/docker-init [--] COMMAND [ARG…]
//	gantry-runtime init -- COMMAND [ARG…]
__attribute__((constructor(101))) static void before_go(int argc, char **argv)
{
	const char *name;

	if (argc < 1)
		return;
	name = strrchr(argv[0], '/');
	name = name ? name + 1 : argv[0];
	if (strcmp(name, "docker-init") == 0)
		first_process(argv + (argc > 1 && strcmp(argv[1], "--") == 0 ? 2 : 1));
	if (argc > 3 && strcmp(argv[1], "init") == 0 && strcmp(argv[2], "--") == 0)
		first_process(argv + 3);
}
