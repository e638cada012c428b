// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// pageCacheReaders read an open file by ways that may go through the page cache.
// Each returns what it got; an error is as good as the right bytes, because
// programs then fall back to read(2).
var pageCacheReaders = map[string]func(fd int) (string, error){
	"sendfile": func(fd int) (string, error) {
		return throughPipe(func(w int) (int, error) { return unix.Sendfile(w, fd, new(int64), 1<<15) })
	},
	"splice": func(fd int) (string, error) {
		return throughPipe(func(w int) (int, error) {
			n, err := unix.Splice(fd, new(int64), w, nil, 1<<15, 0)
			return int(n), err
		})
	},
}

func throughPipe(send func(w int) (int, error)) (string, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return "", err
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	n, err := send(p[1])
	if err != nil || n == 0 {
		return "", err
	}
	buf := make([]byte, n)
	n, err = unix.Read(p[0], buf)
	return string(buf[:max(n, 0)]), err
}

// helperMmap maps path as the user id and prints the first page up to the first
// zero byte; a page that cannot be filled is an error (SIGBUS). A process of its
// own, because a Go program whose thread waits in a page fault cannot stop the
// world, and so cannot answer it.
func helperMmap(path string, id, flags int) (err error) {
	runtime.LockOSThread()
	if err := errors.Join(unix.Setfsgid(id), unix.Setfsuid(id)); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, flags)
	if err != nil {
		return err
	}
	debug.SetPanicOnFault(true)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	page, _, _ := bytes.Cut(bytes.Clone(m), []byte{0})
	os.Stdout.Write(page)
	return nil
}

// The page cache belongs to the inode, and the inode to all callers.
func TestPageCacheShowsNoCallerAnothersBytes(t *testing.T) {
	m := serve(t, perUser(10), fs.ServerOptions{})
	for _, name := range []string{"uptime", "meminfo", "stat"} {
		for how, read := range pageCacheReaders {
			// Both have the file open all the time, and each has
			// just asked for its size.
			users := []int{0, 1234, 4321}
			fds := make(map[int]int)
			for _, id := range users {
				asUser(t, id, func() { fds[id] = open(t, m.path(name)) })
			}
			for range 3 {
				for _, id := range users {
					asUser(t, id, func() {
						mine := fmt.Sprintf("user %d line", id)
						var st unix.Stat_t
						if err := unix.Fstat(fds[id], &st); err != nil {
							t.Error(err)
						}
						if got, err := read(fds[id]); err == nil && !strings.HasPrefix(got, mine) {
							t.Errorf("%s of %s: user %d sees %.20q", how, name, id, got)
						}
						if got, err := readAll(m.path(name)); err != nil || !strings.HasPrefix(got, mine) {
							t.Errorf("read of %s: user %d sees %.20q, %v", name, id, got, err)
						}
					})
				}
			}
		}
	}
}

func TestMappingShowsNoCallerAnothersBytes(t *testing.T) {
	m := serve(t, perUser(10), fs.ServerOptions{})
	for _, name := range []string{"uptime", "stat"} {
		for _, how := range []string{"mmap-private", "mmap-shared"} {
			for _, id := range []int{0, 1234, 0} {
				// Others have it open, so that the cache is not dropped.
				asUser(t, 4321, func() { pread(t, open(t, m.path(name)), 10, 0) })
				out, err := helper(how, m.path(name), strconv.Itoa(id)).Output()
				if err == nil && !strings.HasPrefix(string(out), fmt.Sprintf("user %d line", id)) {
					t.Errorf("%s of %s: user %d sees %.20q", how, name, id, out)
				}
				if err != nil && !errors.As(err, new(*exec.ExitError)) {
					t.Error(err)
				}
			}
		}
	}
}

// TestProgramsGetTheWholeContent runs what people read /proc with. They differ in
// what they make of st_size and in the system calls.
func TestProgramsGetTheWholeContent(t *testing.T) {
	busybox := find(t, "busybox")
	src := sourceFunc(func(dst []byte, id fs.NodeID, t *fs.Turn) ([]byte, error) {
		c := t.Caller()
		switch id {
		case fs.NodeUptime:
			return fmt.Appendf(dst, "%d.00 7654321.00\n", 1_000_000+c.UID), nil
		case fs.NodeMeminfo:
			return perUser(60).Append(dst, id, t)
		default:
			return perUser(3).Append(dst, id, t) // user 1234: 80 KB
		}
	})
	m := serve(t, src, fs.ServerOptions{})
	for name, node := range map[string]fs.NodeID{"uptime": fs.NodeUptime, "meminfo": fs.NodeMeminfo, "stat": fs.NodeStat} {
		for _, id := range []uint32{0, 1234} {
			b, _ := src.Append(nil, node, fs.NewTurn(fs.Caller{UID: id}))
			content := string(b)
			lines := strings.SplitAfter(content, "\n")
			lines = lines[:len(lines)-1]
			last := lines[len(lines)-1]
			path := m.path(name)
			for _, c := range []struct {
				want string
				argv []string
			}{
				{content, []string{"cat", path}},
				{lines[0], []string{"head", "-n", "1", path}},
				{content[:7], []string{"head", "-c", "7", path}},
				{last, []string{"tail", "-n", "1", path}},
				{content[len(content)-9:], []string{"tail", "-c", "9", path}},
				{content, []string{"tail", "-n", "+1", path}},
				{fmt.Sprintln(len(lines)), []string{"sh", "-c", `"$@" | cut -d' ' -f1`, "", "wc", "-l", path}},
				{fmt.Sprintln(len(content)), []string{"sh", "-c", `"$@" | cut -d' ' -f1`, "", "wc", "-c", path}},
			} {
				run(t, id, c.want, c.argv...)
				argv := append([]string{busybox}, c.argv...)
				if c.argv[0] == "sh" {
					argv = append(append(append([]string{}, c.argv[:4]...), busybox), c.argv[4:]...)
				}
				if c.argv[0] == "tail" && c.argv[1] == "-c" && node != fs.NodeStat {
					// busybox tail -c counts back from a st_size that
					// is not 0. So it needs the caller's own length,
					// and files with a fixed bound do without it.
					continue
				}
				run(t, id, c.want, argv...)
			}
			for _, cp := range [][]string{{"cp"}, {busybox, "cp"}, {"dd", "status=none"}} {
				copied := filepath.Join(tempDir(t), "copy")
				args := append(cp, path, copied)
				if cp[0] == "dd" {
					args = append(cp, "if="+path, "of="+copied)
				}
				run(t, id, "", args...)
				if b, err := os.ReadFile(copied); err != nil || string(b) != content {
					t.Errorf("%v: %d bytes, want %d, %v", args, len(b), len(content), err)
				}
			}
		}
	}
}

// run runs a program as the user id and compares what it prints.
func run(t *testing.T, id uint32, want string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || string(out) != want {
		t.Errorf("user %d: %v: %d bytes %.30q, want %d bytes %.30q, %v %s", id, argv, len(out), out, len(want), want, err, stderr.Bytes())
	}
}

func find(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("the tests need %s: %v", program, err)
	}
	return path
}
