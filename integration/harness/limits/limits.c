/*
 * Stands in for CAP_SYS_RESOURCE, which root has on every node, and on some test machines has not: for a process of another
 * user prlimit(2) wants it even to read. CRIU reads the limits of what it dumps so (criu/cr-dump.c, dump_task_rlimits).
 * The answer is that of /proc/PID/limits (proc_pid_limits(5)), which needs no capability. It sets nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* What /proc/PID/limits calls them, by number: fs/proc/base.c, lnames. */
static const char *const labels[RLIM_NLIMITS] = {
	[RLIMIT_CPU] = "Max cpu time",
	[RLIMIT_FSIZE] = "Max file size",
	[RLIMIT_DATA] = "Max data size",
	[RLIMIT_STACK] = "Max stack size",
	[RLIMIT_CORE] = "Max core file size",
	[RLIMIT_RSS] = "Max resident set",
	[RLIMIT_NPROC] = "Max processes",
	[RLIMIT_NOFILE] = "Max open files",
	[RLIMIT_MEMLOCK] = "Max locked memory",
	[RLIMIT_AS] = "Max address space",
	[RLIMIT_LOCKS] = "Max file locks",
	[RLIMIT_SIGPENDING] = "Max pending signals",
	[RLIMIT_MSGQUEUE] = "Max msgqueue size",
	[RLIMIT_NICE] = "Max nice priority",
	[RLIMIT_RTPRIO] = "Max realtime priority",
	[RLIMIT_RTTIME] = "Max realtime timeout",
};

static uint64_t value(const char *text)
{
	return strcmp(text, "unlimited") == 0 ? RLIM64_INFINITY : strtoull(text, NULL, 10);
}

/* Reads one limit; -1 if the file does not have it. */
static int from_proc(long pid, long resource, struct rlimit64 *limit)
{
	char path[64], line[256], soft[32], hard[32];
	const char *label = resource >= 0 && resource < RLIM_NLIMITS ? labels[resource] : NULL;
	int found = -1;
	FILE *file;

	if (!label)
		return -1;
	snprintf(path, sizeof(path), "/proc/%ld/limits", pid);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (found && fgets(line, sizeof(line), file)) {
		size_t length = strlen(label);

		if (strncmp(line, label, length) || sscanf(line + length, "%31s %31s", soft, hard) != 2)
			continue;
		limit->rlim_cur = value(soft);
		limit->rlim_max = value(hard);
		found = 0;
	}
	fclose(file);
	return found;
}

long syscall(long number, ...)
{
	static long (*real)(long, ...);
	long a[6], result;
	va_list list;
	int i;

	va_start(list, number);
	for (i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	if (!real)
		real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (number != SYS_prlimit64 || result != -1 || errno != EPERM || a[2] || !a[3])
		return result;
	if (from_proc(a[0], a[1], (struct rlimit64 *)a[3])) {
		errno = EPERM;
		return -1;
	}
	return 0;
}
