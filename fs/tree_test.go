// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

func TestAttributesAreThoseOfProc(t *testing.T) {
	m := serve(t, constant("12345\n"), fs.ServerOptions{})
	for _, c := range []struct {
		name  string
		ino   fs.NodeID
		mode  uint32
		size  int64
		nlink int
	}{
		{"", fs.NodeRoot, unix.S_IFDIR | 0o555, 4096, 3},
		{"/proc", fs.NodeProc, unix.S_IFDIR | 0o555, 4096, 2},
		{"/proc/uptime", fs.NodeUptime, unix.S_IFREG | 0o444, 4096, 1},
		{"/proc/meminfo", fs.NodeMeminfo, unix.S_IFREG | 0o444, 4096, 1},
		{"/proc/stat", fs.NodeStat, unix.S_IFREG | 0o444, 6, 1},
		{"/proc/cpuinfo", fs.NodeCPUInfo, unix.S_IFREG | 0o444, 6, 1},
		{"/proc/loadavg", fs.NodeLoadavg, unix.S_IFREG | 0o444, 4096, 1},
		{"/proc/swaps", fs.NodeSwaps, unix.S_IFREG | 0o444, 6, 1},
		{"/proc/diskstats", fs.NodeDiskstats, unix.S_IFREG | 0o444, 6, 1},
		{"/proc/slabinfo", fs.NodeSlabinfo, unix.S_IFREG | 0o400, 6, 1},
	} {
		// It is asked for by a path, and the content may grow.
		c.size = 4096
		// The second time from the kernel's cache, where it has one.
		for range 2 {
			var st unix.Stat_t
			if err := unix.Stat(m.dir+c.name, &st); err != nil {
				t.Fatal(err)
			}
			if fs.NodeID(st.Ino) != c.ino || st.Mode != c.mode || st.Size != c.size || int(st.Nlink) != c.nlink ||
				st.Uid != 0 || st.Gid != 0 || st.Blksize != 4096 || st.Mtim.Sec == 0 {
				t.Errorf("%q: %+v, want %+v", c.name, st, c)
			}
		}
	}
}

func TestEmptyContentHasASizeAndReadsAsEmpty(t *testing.T) {
	m := serve(t, constant(""), fs.ServerOptions{})
	var st unix.Stat_t
	if err := unix.Stat(m.path("stat"), &st); err != nil || st.Size < 1 {
		t.Errorf("size %d, %v", st.Size, err)
	}
	if got, err := readAll(m.path("stat")); got != "" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

func TestDirectoriesListTheTable(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{})
	for dir, want := range map[string][]string{
		m.dir:           {"proc"},
		m.dir + "/proc": {"uptime", "meminfo", "stat", "cpuinfo", "loadavg", "swaps", "diskstats", "slabinfo"},
	} {
		for range 2 {
			if names := list(t, dir); !slices.Equal(names, want) {
				t.Errorf("%s: %q, want %q", dir, names, want)
			}
		}
	}
}

// TestThePressureDirectoryIsInTheSameMount: a bind mount of the tree has it too.
func TestThePressureDirectoryIsInTheSameMount(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{Triggers: &fakeTriggers{}})
	want := []string{"pressure", "uptime", "meminfo", "stat", "cpuinfo", "loadavg", "swaps", "diskstats", "slabinfo"}
	if names := list(t, m.path("")); !slices.Equal(names, want) {
		t.Errorf("proc: %q, want %q", names, want)
	}
	if names := list(t, m.path("pressure")); !slices.Equal(names, []string{"cpu", "memory", "io"}) {
		t.Errorf("proc/pressure: %q", names)
	}
	var root unix.Stat_t
	if err := unix.Stat(m.dir, &root); err != nil {
		t.Fatal(err)
	}
	for ino, name := range map[fs.NodeID]string{fs.NodePressureCPU: "cpu", fs.NodePressureMemory: "memory", fs.NodePressureIO: "io"} {
		var st unix.Stat_t
		if err := unix.Stat(m.path("pressure/"+name), &st); err != nil || fs.NodeID(st.Ino) != ino || st.Dev != root.Dev {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		if got, err := readAll(m.path("pressure/" + name)); got != "x" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestModesAreChecked guards slabinfo: the mount has no default_permissions.
func TestModesAreChecked(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{})
	for _, c := range []struct {
		uid, gid int
		slabinfo error
	}{{0, 0, nil}, {0, 1234, nil}, {1234, 0, unix.EACCES}, {1234, 1234, unix.EACCES}} {
		asIDs(t, c.uid, c.gid, func() {
			if err := openError(m.path("slabinfo"), unix.O_RDONLY); err != c.slabinfo {
				t.Errorf("slabinfo of %d:%d: %v, want %v", c.uid, c.gid, err, c.slabinfo)
			}
			if err := openError(m.path("cpuinfo"), unix.O_RDONLY); err != nil {
				t.Errorf("cpuinfo of %d:%d: %v", c.uid, c.gid, err)
			}
		})
	}
}

// list lists a directory, two entries at a time: so it must go on where it was.
func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for buf := make([]byte, 72); ; {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return names
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func TestUnknownNamesDoNotExist(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{})
	for _, name := range []string{"/nothing", "/proc/nothing", "/proc/upti", "/proc/uptimes", "/uptime", "/proc/proc"} {
		var st unix.Stat_t
		if err := unix.Stat(m.dir+name, &st); err != unix.ENOENT {
			t.Errorf("%s: %v", name, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(m.dir+"/proc/uptime/x", &st); err != unix.ENOTDIR {
		t.Errorf("a file as a directory: %v", err)
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{})
	path := m.path("uptime")
	for what, err := range map[string]error{
		"open for writing":   openError(path, unix.O_WRONLY),
		"open for both":      openError(path, unix.O_RDWR),
		"truncating open":    openError(path, unix.O_RDONLY|unix.O_TRUNC),
		"creating open":      openError(m.path("new"), unix.O_CREAT|unix.O_WRONLY),
		"truncate":           unix.Truncate(path, 0),
		"unlink":             unix.Unlink(path),
		"mkdir":              unix.Mkdir(m.path("new"), 0o755),
		"rmdir":              unix.Rmdir(m.dir + "/proc"),
		"rename":             unix.Rename(path, m.path("new")),
		"link":               unix.Link(path, m.path("new")),
		"symlink":            unix.Symlink("x", m.path("new")),
		"mknod":              unix.Mknod(m.path("new"), unix.S_IFREG, 0),
		"chmod":              unix.Chmod(path, 0o777),
		"chown":              unix.Chown(path, 1, 1),
		"set a time":         unix.Utimes(path, make([]unix.Timeval, 2)),
		"set an attribute":   unix.Setxattr(path, "user.x", []byte("x"), 0),
		"access for writing": unix.Access(path, unix.W_OK),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
	fd := open(t, path)
	if _, err := unix.Write(fd, []byte("x")); err != unix.EBADF {
		t.Errorf("write: %v", err)
	}
}

func openError(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func TestWhatTheKernelAsksBesidesIsHarmless(t *testing.T) {
	log := newLog()
	m := serve(t, constant("12345\n"), fs.ServerOptions{Log: log.logger()})
	for range 2 {
		fd := open(t, m.path("stat"))
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 60_000); n != 1 || err != nil || poll[0].Revents != unix.POLLIN {
			t.Errorf("poll: %v %v", poll, err)
		}
		if n, err := unix.Getxattr(m.path("stat"), "user.x", nil); err != unix.EOPNOTSUPP {
			t.Errorf("getxattr: %d %v", n, err)
		}
		if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != unix.ENOTTY {
			t.Errorf("tcgetattr: %v", err)
		}
		if err := unix.Access(m.path("stat"), unix.R_OK); err != nil {
			t.Errorf("access: %v", err)
		}
		var stx unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, m.path("stat"), 0, unix.STATX_ALL, &stx); err != nil || stx.Size < 6 {
			t.Errorf("statx: %d %v", stx.Size, err)
		}
		if off, err := unix.Seek(fd, 0, unix.SEEK_HOLE); off != 6 || err != nil {
			t.Errorf("seek to a hole: %d %v", off, err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.dir, &st); err != nil || st.Namelen != 255 || st.Bsize != 4096 || st.Type != unix.FUSE_SUPER_MAGIC {
			t.Errorf("statfs: %+v %v", st, err)
		}
		if err := unix.Fsync(fd); err != nil {
			t.Errorf("fsync: %v", err)
		}
	}
	if log.String() != "" {
		t.Errorf("log: %s", log.String())
	}
}

func TestMountRunsNothing(t *testing.T) {
	m := serve(t, constant("x"), fs.ServerOptions{})
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	line := mountLine(t, string(text), m.dir)
	// The options of the mount, and those of its superblock.
	if want := " rw,nosuid,nodev,noexec,relatime "; !contains(line, want) {
		t.Errorf("%q lacks %q", line, want)
	}
	if want := " - fuse.vprocfs vprocfs rw,user_id=0,group_id=0,allow_other"; !contains(line, want) {
		t.Errorf("%q lacks %q", line, want)
	}
}

// TestANameThatIsTooLongIsRefusedAtOnce guards the reader from names that no record of
// the journal can hold.
func TestANameThatIsTooLongIsRefusedAtOnce(t *testing.T) {
	var asked atomic.Bool
	m, cpus := serveCPUs(t, fakeCPUs(t, 2), lastCPU(func(*fs.Turn) (int, error) {
		asked.Store(true)
		return math.MaxInt, nil
	}))
	for _, dir := range []string{m.dir, m.dir + "/proc", cpus, cpus + "/cpu1"} {
		for _, n := range []int{256, 500, 1000} {
			var st unix.Stat_t
			if err := unix.Stat(dir+"/"+strings.Repeat("x", n), &st); err != unix.ENAMETOOLONG {
				t.Errorf("%d bytes in %s: %v", n, dir, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(dir+"/"+strings.Repeat("x", 255), &st); err != unix.ENOENT {
			t.Errorf("255 bytes in %s: %v", dir, err)
		}
	}
	if asked.Load() {
		t.Error("the caller's container was looked for")
	}
}
