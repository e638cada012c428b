// SPDX-License-Identifier: Apache-2.0

/*
 * reader is the agent of a container of which there are a thousand: it obeys one of
 * the commands of agent.go and one of its own, and costs the machine next to nothing
 * meanwhile. A thousand Go runtimes keep two CPUs busy with themselves.
 *
 *	cycle N PATH                    N times open, read to the end, close: median p99
 *	every MILLIS SECONDS PATH...    reads all paths once in each period: reads, median, p99,
 *	                                and the longest of each ten seconds
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PATHS = 32, SECOND = 1000000000, WINDOW = 10 };

static char buf[65536];

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * (long)SECOND + t.tv_nsec;
}

/* cycle returns the time it took in nanoseconds, -1 and errno where it failed. */
static long cycle(const char *path)
{
	long begin = now();
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	while ((n = read(fd, buf, sizeof buf)) > 0)
		;
	if (n < 0) {
		int e = errno;
		close(fd);
		errno = e;
		return -1;
	}
	return close(fd) < 0 ? -1 : now() - begin;
}

static int ascending(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;
	return (x > y) - (x < y);
}

static long *allocate(long n)
{
	long *times = malloc((n > 0 ? n : 1) * sizeof *times);
	if (!times) {
		puts("error out of memory");
		exit(1);
	}
	return times;
}

static void fail(const char *path)
{
	printf("error %s: %s\n", path, strerror(errno));
}

static void repeat(long n, const char *path)
{
	long *times = allocate(n);
	for (long i = 0; i < n; i++)
		if ((times[i] = cycle(path)) < 0) {
			fail(path);
			free(times);
			return;
		}
	qsort(times, n, sizeof *times, ascending);
	printf("%ld %ld\n", times[n / 2], times[n * 99 / 100]);
	free(times);
}

static void every(long millis, long seconds, char **paths, int count)
{
	long periods = seconds * 1000 / millis, n = 0;
	long *times = allocate(periods * count), begin = now(), next = begin;
	long windows = (seconds + WINDOW - 1) / WINDOW, *longest = allocate(windows);
	memset(longest, 0, windows * sizeof *longest);
	for (long p = 0; p < periods; p++, next += millis * 1000000) {
		long w = (next - begin) / ((long)WINDOW * SECOND);
		struct timespec until = { next / SECOND, next % SECOND };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		for (int i = 0; i < count; i++, n++) {
			if ((times[n] = cycle(paths[i])) < 0) {
				fail(paths[i]);
				free(times);
				free(longest);
				return;
			}
			if (times[n] > longest[w])
				longest[w] = times[n];
		}
	}
	qsort(times, n, sizeof *times, ascending);
	printf("%ld %ld %ld", n, times[n / 2], times[n * 99 / 100]);
	for (long w = 0; w < windows; w++)
		printf(" %ld", longest[w]);
	putchar('\n');
	free(times);
	free(longest);
}

int main(void)
{
	static char line[65536];
	while (fgets(line, sizeof line, stdin)) {
		char *word[MAX_PATHS + 3];
		int n = 0;
		for (char *w = strtok(line, " \n"); w && n < MAX_PATHS + 3; w = strtok(NULL, " \n"))
			word[n++] = w;
		if (n == 3 && !strcmp(word[0], "cycle") && atol(word[1]) > 0)
			repeat(atol(word[1]), word[2]);
		else if (n > 3 && !strcmp(word[0], "every") && atol(word[1]) > 0 && atol(word[2]) > 0)
			every(atol(word[1]), atol(word[2]), word + 3, n - 3);
		else
			puts("error no such command");
		fflush(stdout);
	}
	return 0;
}
