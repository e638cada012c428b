// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// agent is the program in a container: it reads a command from each line of in,
// and answers with one line of numbers in nanoseconds, or "error TEXT".
//
//	pin CPU                         runs on one CPU from now on
//	cycle N PATH...                 N times open, read to the end, close each: median p99
//	fstat N PATH...                 the same with an fstat after each open, as most programs do
//	pread N PATH...                 N times pread at 0 of each open file: median p99
//	load OP THREADS MILLIS PATH...  the same by many threads at once: operations a second, median, p99, max
func agent(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		numbers, err := obey(strings.Fields(lines.Text()))
		if err != nil {
			fmt.Fprintf(out, "error %v\n", err)
			continue
		}
		fmt.Fprintln(out, strings.Trim(fmt.Sprint(numbers), "[]"))
	}
	return nil
}

func obey(f []string) ([]int64, error) {
	if len(f) < 2 {
		return nil, errors.New("no such command")
	}
	n, err := strconv.Atoi(f[1])
	switch {
	case f[0] == "load" && len(f) > 4:
		return load(f[1], f[2], f[3], f[4:])
	case err != nil:
		return nil, err
	case f[0] == "pin":
		return nil, pinThread(n)
	case f[0] == "cycle" && len(f) > 2:
		return repeat(n, func(buf []byte) error { return each(f[2:], buf, cycle) })
	case f[0] == "fstat" && len(f) > 2:
		return repeat(n, func(buf []byte) error { return each(f[2:], buf, cycleFstat) })
	case f[0] == "pread" && len(f) > 2:
		var fds []int
		for _, path := range f[2:] {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		return repeat(n, func(buf []byte) error { return each(fds, buf, pread) })
	}
	return nil, errors.New("no such command")
}

func pinThread(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

// cycle is what cat(1) does with a file: open, read to the end, close.
func cycle(path string, buf []byte) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return readAndClose(fd, buf)
}

// cycleFstat is cycle with an fstat(2), whose answer is the exact length.
func cycleFstat(path string, buf []byte) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	return readAndClose(fd, buf)
}

// readAndClose reads to the end.
func readAndClose(fd int, buf []byte) error {
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			unix.Close(fd)
			return err
		}
		if n == 0 {
			return unix.Close(fd)
		}
	}
}

func each[T any](files []T, buf []byte, op func(T, []byte) error) error {
	for _, f := range files {
		if err := op(f, buf); err != nil {
			return err
		}
	}
	return nil
}

func pread(fd int, buf []byte) error {
	_, err := unix.Pread(fd, buf, 0) // diskstats may be empty
	return err
}

const readSize = 64 << 10

// repeat runs op n times and returns the median and the 99th percentile.
func repeat(n int, op func(buf []byte) error) ([]int64, error) {
	times := make([]int64, n)
	buf := make([]byte, readSize)
	for i := range times {
		start := time.Now()
		if err := op(buf); err != nil {
			return nil, err
		}
		times[i] = int64(time.Since(start))
	}
	slices.Sort(times)
	return []int64{times[n/2], times[n*99/100]}, nil
}

// load lets threads do op, on the paths in turn, for a while.
func load(op, threads, millis string, paths []string) ([]int64, error) {
	n, err := strconv.Atoi(threads)
	if err != nil {
		return nil, err
	}
	ms, err := strconv.Atoi(millis)
	if err != nil {
		return nil, err
	}
	runtime.GOMAXPROCS(max(n+1, runtime.NumCPU()))
	var group sync.WaitGroup
	var failure atomic.Pointer[error]
	results := make([][]int64, n)
	deadline := time.Now().Add(time.Duration(ms) * time.Millisecond)
	start := time.Now()
	for i := range n {
		group.Go(func() {
			runtime.LockOSThread()
			times, err := loadThread(op, paths, deadline)
			results[i] = times
			if err != nil {
				failure.Store(&err)
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	if err := failure.Load(); err != nil {
		return nil, *err
	}
	times := slices.Concat(results...)
	slices.Sort(times)
	count := len(times)
	if count == 0 {
		return nil, errors.New("nothing was read in time")
	}
	return []int64{int64(float64(count) / took.Seconds()), times[count/2], times[count*99/100], times[count-1]}, nil
}

func loadThread(op string, paths []string, deadline time.Time) (times []int64, err error) {
	buf := make([]byte, readSize)
	fds := make([]int, len(paths))
	if op == "pread" {
		for i, path := range paths {
			if fds[i], err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return nil, err
			}
			defer unix.Close(fds[i])
		}
	}
	for i := 0; ; i = (i + 1) % len(paths) {
		start := time.Now()
		if start.After(deadline) {
			return times, nil
		}
		if op == "pread" {
			err = pread(fds[i], buf)
		} else {
			err = cycle(paths[i], buf)
		}
		if err != nil {
			return times, err
		}
		times = append(times, int64(time.Since(start)))
	}
}
