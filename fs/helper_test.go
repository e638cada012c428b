// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// helperNanoseconds runs the client program mode and returns what it measured.
func helperNanoseconds(t testing.TB, mode, path string, n int) int64 {
	t.Helper()
	out, err := helper(mode, path, strconv.Itoa(n)).Output()
	if err != nil {
		t.Fatalf("%s: %v", mode, err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// runHelper is the main function of the client programs. They are processes of
// their own because a client and a server in one Go process compete for its Ps.
func runHelper(mode string, args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	switch mode {
	case "worker":
		return helperWorker(args[0])
	case "cycle":
		return helperCycle(args[0], n)
	case "pread":
		return helperPread(args[0], n)
	case "hammer":
		return helperHammer(args[0], n)
	case "osread":
		return osRead(args[0], n)
	case "write":
		return rawWrite(args[0])
	case "mmap-private":
		return helperMmap(args[0], n, unix.MAP_PRIVATE)
	case "mmap-shared":
		return helperMmap(args[0], n, unix.MAP_SHARED)
	}
	return errors.New("no such helper")
}

// helperCycle does open, read, read (end of file), close n times and prints the
// nanoseconds for one.
func helperCycle(path string, n int) error {
	runtime.LockOSThread()
	buf := make([]byte, 8192)
	start := time.Now()
	for range n {
		fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
		if err != nil {
			return err
		}
		for {
			n, err := syscall.Read(fd, buf)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
		syscall.Close(fd)
	}
	fmt.Println(time.Since(start).Nanoseconds() / int64(n))
	return nil
}

func helperPread(path string, n int) error {
	runtime.LockOSThread()
	buf := make([]byte, 8192)
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		return err
	}
	start := time.Now()
	for range n {
		if _, err := syscall.Pread(fd, buf, 0); err != nil {
			return err
		}
	}
	fmt.Println(time.Since(start).Nanoseconds() / int64(n))
	return nil
}

// helperHammer reads path whole from 64 threads, n times each, half of them on
// one shared descriptor by pread. All contents must be the same.
func helperHammer(path string, n int) error {
	want, err := readAll(path)
	if err != nil {
		return err
	}
	shared, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	errs := make(chan error, 64)
	for i := range 64 {
		go func() {
			runtime.LockOSThread()
			buf := make([]byte, len(want)+10)
			for range n {
				var got string
				var err error
				if i%2 == 0 {
					var k int
					k, err = unix.Pread(shared, buf, 0)
					got = string(buf[:max(k, 0)])
				} else {
					got, err = readAll(path)
				}
				if err != nil || got != want {
					errs <- fmt.Errorf("thread %d read %q, want %q: %v", i, got, want, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range 64 {
		err = errors.Join(err, <-errs)
	}
	return err
}
