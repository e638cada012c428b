// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fdCalls are the system calls whose first argument is a descriptor, and that
// touch nothing but what it leads to: they get a descriptor of a served file or
// directory, and anything in the other places.
func fdCalls() []uintptr {
	return []uintptr{
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_READV, unix.SYS_WRITEV,
		unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_LSEEK, unix.SYS_FSTAT,
		unix.SYS_FSTATFS, unix.SYS_IOCTL, unix.SYS_FCNTL, unix.SYS_FLOCK, unix.SYS_FSYNC, unix.SYS_FDATASYNC,
		unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FADVISE64,
		unix.SYS_READAHEAD, unix.SYS_GETDENTS64, unix.SYS_FCHMOD, unix.SYS_FCHOWN, unix.SYS_FCHDIR,
		unix.SYS_FGETXATTR, unix.SYS_FSETXATTR, unix.SYS_FLISTXATTR, unix.SYS_FREMOVEXATTR, unix.SYS_DUP,
		unix.SYS_SENDFILE, unix.SYS_TEE, unix.SYS_SPLICE, unix.SYS_COPY_FILE_RANGE, unix.SYS_INOTIFY_ADD_WATCH,
		unix.SYS_FUTIMESAT, unix.SYS_QUOTACTL_FD,
	}
}

// pathCalls are those whose first argument is a directory's descriptor and whose
// second is a path in it: they get names of the served tree, and others.
func pathCalls() []uintptr {
	return []uintptr{
		unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_FCHOWNAT, unix.SYS_NEWFSTATAT, unix.SYS_UNLINKAT,
		unix.SYS_READLINKAT, unix.SYS_FCHMODAT, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_UTIMENSAT,
		unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_STATX, unix.SYS_OPENAT2, unix.SYS_OPEN_TREE,
	}
}

// nameCalls are those whose first argument is a path. What changes mounts, accounting or
// swap of the machine is not among them.
func nameCalls() []uintptr {
	return []uintptr{
		unix.SYS_TRUNCATE, unix.SYS_STATFS, unix.SYS_CHDIR, unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_SETXATTR,
		unix.SYS_LSETXATTR, unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR,
	}
}

// fuzzSystemCalls makes system calls with chance arguments on the tree at a path:
// "SEED COUNT UID PATH". A child does the work, for it may end of a signal, or be
// stuck in a call that waits for itself; it is given some seconds.
func fuzzSystemCalls(line string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"-"}, strings.Fields(line)...)...)
	cmd.Env = append(os.Environ(), toolEnv+"=syscalls-child")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return err
	}
	killer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer killer.Stop()
	err = cmd.Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		if e.ExitCode() != 1 {
			return nil // a signal is a fine end
		}
		err = errors.New(said.String())
	}
	return err
}

func fuzzChild(args []string) error {
	var seed uint64
	var count, uid int
	if _, err := fmt.Sscan(strings.Join(args[:3], " "), &seed, &count, &uid); err != nil {
		return err
	}
	root := args[3]
	random := rand.New(rand.NewPCG(seed, 1))
	paths := []string{root}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err == nil && len(paths) < 500 {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if uid != 0 {
		if err := unix.Setresuid(uid, uid, uid); err != nil {
			return err
		}
	}
	f := fuzzer{random: random, paths: paths, memory: make([]byte, 1<<16)}
	for range count {
		f.step()
	}
	if f.steps < count/2 {
		return fmt.Errorf("%d of %d steps had something open", f.steps, count)
	}
	return nil
}

type fuzzer struct {
	random *rand.Rand
	paths  []string
	fds    []int
	memory []byte
	steps  int // that had a descriptor
}

// number is an argument: small, large, on a boundary, or a pointer.
func (f *fuzzer) number() uintptr {
	switch f.random.IntN(6) {
	case 0:
		return uintptr(f.random.IntN(8))
	case 1:
		return uintptr(f.random.IntN(1 << 20))
	case 2:
		return uintptr(1) << f.random.IntN(64)
	case 3:
		return ^uintptr(f.random.IntN(4))
	case 4:
		return uintptr(f.random.Uint64())
	}
	return f.pointer()
}

func (f *fuzzer) pointer() uintptr {
	return uintptr(unsafe.Pointer(&f.memory[f.random.IntN(len(f.memory)/2)]))
}

func (f *fuzzer) step() {
	if len(f.fds) < 4 || f.random.IntN(8) == 0 {
		f.open()
	}
	if len(f.fds) == 0 {
		return
	}
	f.steps++
	fd := uintptr(f.fds[f.random.IntN(len(f.fds))])
	for range 16 { // some memory to point at
		f.memory[f.random.IntN(len(f.memory))] = byte(f.random.IntN(256))
	}
	switch f.random.IntN(8) {
	case 0, 1:
		calls := pathCalls()
		r, _, e := unix.Syscall6(calls[f.random.IntN(len(calls))], fd, f.path(0), f.number(), f.number(), f.number(), 0)
		f.opened(r, e)
	case 2:
		calls := nameCalls()
		_, _, _ = unix.Syscall6(calls[f.random.IntN(len(calls))], f.path(0), f.number(), f.number(), f.number(), f.number(), 0)
	case 3:
		f.link(fd)
	case 4:
		f.mmap(int(fd))
	case 5:
		f.poll(int32(fd))
	case 6:
		f.watch(int(fd))
	default:
		calls := fdCalls()
		call := calls[f.random.IntN(len(calls))]
		second := f.number()
		if call == unix.SYS_FCNTL && (second == unix.F_SETLKW || second == unix.F_OFD_SETLKW) || call == unix.SYS_FLOCK {
			second |= unix.LOCK_NB // what waits for locks waits for us alone
		}
		r, _, e := unix.Syscall6(call, fd, second, f.number(), f.number(), f.number(), f.number())
		if call == unix.SYS_DUP {
			f.opened(r, e)
		}
	}
	if len(f.fds) > 64 {
		for _, fd := range f.fds[8:] {
			unix.Close(fd)
		}
		f.fds = f.fds[:8]
	}
}

// path puts a name into the memory, in one of two places.
func (f *fuzzer) path(place int) uintptr {
	name := append([]byte(f.name()), 0)
	at := f.memory[len(f.memory)-(place+1)*4096:]
	copy(at[:4096], name)
	return uintptr(unsafe.Pointer(&at[0]))
}

// link makes calls with two paths.
func (f *fuzzer) link(fd uintptr) {
	other := uintptr(f.fds[f.random.IntN(len(f.fds))])
	switch f.random.IntN(3) {
	case 0:
		_, _, _ = unix.Syscall6(unix.SYS_RENAMEAT2, fd, f.path(0), other, f.path(1), f.number(), 0)
	case 1:
		_, _, _ = unix.Syscall6(unix.SYS_LINKAT, fd, f.path(0), other, f.path(1), f.number(), 0)
	default:
		_, _, _ = unix.Syscall(unix.SYS_SYMLINKAT, f.path(0), fd, f.path(1))
	}
}

// watch sets a watch of fanotify(7), and opens the file by its handle.
func (f *fuzzer) watch(fd int) {
	if group, err := unix.FanotifyInit(unix.FAN_NONBLOCK, unix.O_RDONLY); err == nil {
		_ = unix.FanotifyMark(group, uint(unix.FAN_MARK_ADD), f.random.Uint64()&(unix.FAN_ACCESS|unix.FAN_OPEN|unix.FAN_CLOSE), fd, "")
		f.open()
		unix.Close(group)
	}
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return
	}
	if opened, err := unix.OpenByHandleAt(fd, handle, f.random.IntN(4)|unix.O_NONBLOCK); err == nil {
		f.fds = append(f.fds, opened)
	}
}

// name is one that is there, one that is not, or none that can be.
func (f *fuzzer) name() string {
	switch f.random.IntN(4) {
	case 0:
		return f.paths[f.random.IntN(len(f.paths))]
	case 1:
		return filepath.Base(f.paths[f.random.IntN(len(f.paths))])
	case 2:
		return strings.Repeat("x", f.random.IntN(300))
	}
	b := make([]byte, 1+f.random.IntN(20))
	for i := range b {
		// No "/" and no ".": what is not served is not ours to touch.
		b[i] = byte(1 + f.random.IntN(45))
	}
	return strings.ReplaceAll(string(b), ".", "_")
}

func (f *fuzzer) open() {
	flags := f.random.IntN(4)
	if f.random.IntN(4) == 0 {
		flags |= int(f.random.Uint32()) &^ (unix.O_CREAT | unix.O_TMPFILE)
	}
	fd, err := unix.Open(f.paths[f.random.IntN(len(f.paths))], flags|unix.O_NONBLOCK, 0)
	if err == nil {
		f.fds = append(f.fds, fd)
	}
}

func (f *fuzzer) opened(fd uintptr, e syscall.Errno) {
	if e == 0 && fd > 2 && fd < 1<<20 {
		f.fds = append(f.fds, int(fd))
	}
}

// mmap maps the file, and lets the kernel read of it: to touch it here would end
// this process by SIGBUS.
func (f *fuzzer) mmap(fd int) {
	m, err := unix.Mmap(fd, int64(f.random.IntN(3))*4096, 4096*(1+f.random.IntN(4)), unix.PROT_READ, 1+f.random.IntN(3))
	if err != nil {
		return
	}
	if null, err := unix.Open("/dev/null", unix.O_WRONLY, 0); err == nil {
		_, _, _ = unix.Syscall(unix.SYS_WRITE, uintptr(null), uintptr(unsafe.Pointer(&m[0])), 4096)
		unix.Close(null)
	}
	_ = unix.Munmap(m)
}

func (f *fuzzer) poll(fd int32) {
	p := []unix.PollFd{{Fd: fd, Events: int16(f.random.IntN(1 << 15))}}
	_, _ = unix.Poll(p, 0)
	if ep, err := unix.EpollCreate1(0); err == nil {
		_ = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: f.random.Uint32()})
		_, _ = unix.EpollWait(ep, make([]unix.EpollEvent, 1), 0)
		unix.Close(ep)
	}
}

// TestNoSystemCallMovesTheDaemon makes tens of thousands of system calls with
// chance arguments on the served tree, as root and as nobody of a container. The
// daemon must not end, must not grow, and must answer all others as before.
func TestNoSystemCallMovesTheDaemon(t *testing.T) {
	dir, pid := serve(t)
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // for nobody
		t.Fatal(err)
	}
	other := startContainer(t, "--mount", dir, "--memory", "64M")
	seesItself(t, other)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	c := startCommand(t, []string{"--mount", dir, "--memory", "512M"}, toolCommand(t, "syscalls")...)
	fuzz := func(rounds int) {
		for i := range rounds {
			uid := 65534 * (i % 2)
			if got := c.answer(t, fmt.Sprintf("%d 4000 %d %s", seed+int64(i), uid, dir), "."); got != "" {
				t.Fatal(got)
			}
			seesItself(t, other)
		}
	}
	fuzz(4)
	rss, fds, threads := daemonSize(t, pid)
	fuzz(12)
	rssAfter, fdsAfter, threadsAfter := daemonSize(t, pid)
	t.Logf("RSS %d then %d KiB, descriptors %d then %d, threads %d then %d", rss, rssAfter, fds, fdsAfter, threads, threadsAfter)
	// A file is kept open for each of 256 callers that come again, whoever they are. Were
	// one lost with each system call, it would be thousands.
	if rssAfter > rss+16<<10 || fdsAfter > fds+256 || threadsAfter > threads+70 {
		t.Error("the daemon has grown")
	}
}
