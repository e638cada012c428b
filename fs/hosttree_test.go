// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// fakeCPUs makes a directory like the host's /sys/devices/system/cpu, with n CPUs.
func fakeCPUs(t testing.TB, n int) string {
	t.Helper()
	dir := tempDir(t)
	for name, text := range map[string]string{
		"online": "host\n", "present": "host\n", "possible": "host\n", "offline": "host\n",
		"kernel_max": "8191\n", "uevent": "", "vulnerabilities/meltdown": "Not affected\n", "cpufreq/policy0/driver": "none\n",
	} {
		fakeFile(t, dir, name, text, 0o444)
	}
	for cpu := range n {
		fakeFile(t, dir, fmt.Sprintf("cpu%d/topology/core_id", cpu), fmt.Sprintf("%d\n", cpu), 0o444)
		fakeFile(t, dir, fmt.Sprintf("cpu%d/crash_notes", cpu), "secret\n", 0o400)
		if err := os.Symlink("../../node/node0", fmt.Sprintf("%s/cpu%d/node0", dir, cpu)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func fakeFile(t testing.TB, dir, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// lastCPU is a fs.CPUView of CPUs that are all on.
type lastCPU func(*fs.Turn) (int, error)

func (f lastCPU) LastCPU(t *fs.Turn) (int, error)      { return f(t) }
func (lastCPU) CPUOffline(*fs.Turn, int) (bool, error) { return false, nil }

// openCPUs opens dir for callers that view tells of, nil for all CPUs.
func openCPUs(t testing.TB, dir string, view fs.CPUView) *fs.HostTree {
	t.Helper()
	if view == nil {
		view = lastCPU(func(*fs.Turn) (int, error) { return math.MaxInt, nil })
	}
	tree, err := fs.OpenCPUTree(dir, fs.NodeCPU, view)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return tree
}

// serveCPUs serves the host's directory dir, and returns where it is shown.
func serveCPUs(t testing.TB, dir string, view fs.CPUView) (*served, string) {
	t.Helper()
	m := serve(t, constant("ours\n"), fs.ServerOptions{Hosts: []*fs.HostTree{openCPUs(t, dir, view)}})
	return m, m.dir + "/sys/devices/system/cpu"
}

// lastOfUser says that user 0 has all CPUs, and others those up to last.
func lastOfUser(last int) lastCPU {
	return func(t *fs.Turn) (int, error) {
		if t.Caller().UID == 0 {
			return math.MaxInt, nil
		}
		return last, nil
	}
}

func TestOnlyTheTableIsOursAmongTheCPUs(t *testing.T) {
	dir := fakeCPUs(t, 2)
	binary := strings.Repeat("\x00\x01\xff", 100_000)
	fakeFile(t, dir, "cpu1/binary", binary, 0o444)
	_, cpus := serveCPUs(t, dir, nil)
	for name, want := range map[string]string{
		"online": "ours\n", "present": "ours\n", "possible": "ours\n", "offline": "ours\n",
		"kernel_max": "8191\n", "uevent": "", "vulnerabilities/meltdown": "Not affected\n",
		"cpu0/topology/core_id": "0\n", "cpu1/topology/core_id": "1\n", "cpu1/crash_notes": "secret\n", "cpu1/binary": binary,
	} {
		for range 2 {
			if got, err := readAll(cpus + "/" + name); got != want || err != nil {
				t.Errorf("%s: %d bytes %.20q, %v", name, len(got), got, err)
			}
		}
	}
	// A held file shows what the host's is now, and the rest of what it was.
	fd := open(t, cpus+"/kernel_max")
	pread(t, fd, 3, 0)
	fakeFile(t, dir, "kernel_max", "12345\n", 0o444)
	if got := pread(t, fd, 10, 2); got != "91\n" {
		t.Errorf("the rest: %q", got)
	}
	if got := pread(t, fd, 10, 0); got != "12345\n" {
		t.Errorf("from the start: %q", got)
	}
	if got, err := os.Readlink(cpus + "/cpu1/node0"); got != "../../node/node0" || err != nil {
		t.Errorf("link: %q, %v", got, err)
	}
	if _, err := os.Readlink(cpus + "/kernel_max"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("link of a file: %v", err)
	}
}

func TestEntriesOfTheHostLookLikeTheHosts(t *testing.T) {
	dir := fakeCPUs(t, 3)
	fakeFile(t, dir, "group", "x", 0o640)
	if err := os.Chown(dir+"/group", 12, 34); err != nil {
		t.Fatal(err)
	}
	_, cpus := serveCPUs(t, dir, nil)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		name := strings.TrimPrefix(path, dir)
		if err != nil || name == "" || slices.Contains([]string{"/online", "/present", "/possible", "/offline"}, name) {
			return err
		}
		var want, got unix.Stat_t
		if err := unix.Lstat(path, &want); err != nil {
			return err
		}
		if err := unix.Lstat(cpus+name, &got); err != nil {
			return err
		}
		if got.Mode != want.Mode || got.Uid != want.Uid || got.Gid != want.Gid || got.Size != want.Size || got.Ino != want.Ino ||
			got.Nlink != want.Nlink || got.Mtim != want.Mtim || got.Ctim != want.Ctim {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if host, ours := listing(t, path), listing(t, cpus+name); want.Mode&unix.S_IFMT == unix.S_IFDIR && !slices.Equal(host, ours) {
			t.Errorf("%s lists %q, want %q", name, ours, host)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if host, ours := listing(t, dir), listing(t, cpus); !slices.Equal(host, ours) {
		t.Errorf("listed are %q, want %q", ours, host)
	}
}

// listing returns the names in a directory, sorted; nil where it is none.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	names := list(t, dir)
	slices.Sort(names)
	return names
}

func TestPermissionBitsOfTheHostAreChecked(t *testing.T) {
	dir := fakeCPUs(t, 1)
	for name, mode := range map[string]os.FileMode{"all": 0o444, "root": 0o400, "write": 0o200, "group": 0o440, "notgroup": 0o404, "open/x": 0o444, "closed/x": 0o444, "closed/sub/y": 0o444} {
		fakeFile(t, dir, name, "x", mode)
	}
	if err := os.Chown(dir+"/group", 0, 34); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir+"/notgroup", 0, 34); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/closed", 0o700); err != nil {
		t.Fatal(err)
	}
	_, cpus := serveCPUs(t, dir, nil)
	const denied = unix.EACCES
	for _, who := range []struct {
		uid, gid int
		errs     map[string]error
	}{
		{0, 0, map[string]error{"all": nil, "root": nil, "write": denied, "group": nil, "notgroup": nil, "open": nil, "open/x": nil, "closed": nil, "closed/x": nil, "closed/sub/y": nil}},
		{1234, 1234, map[string]error{"all": nil, "root": denied, "write": denied, "group": denied, "notgroup": nil, "open": nil, "open/x": nil, "closed": denied, "closed/x": denied, "closed/sub/y": denied}},
		{1234, 34, map[string]error{"group": nil, "notgroup": denied, "root": denied}},
	} {
		for name, want := range who.errs {
			path := cpus + "/" + name
			asIDs(t, who.uid, who.gid, func() {
				if err := openError(path, unix.O_RDONLY); err != want {
					t.Errorf("%d:%d: open %s: %v, want %v", who.uid, who.gid, name, err, want)
				}
				if err := openError(path, unix.O_WRONLY); err != unix.EROFS && err != unix.EISDIR {
					t.Errorf("%d:%d: open %s for writing: %v", who.uid, who.gid, name, err)
				}
				// by its fsuid, unlike access(2)
				if err := unix.Faccessat2(unix.AT_FDCWD, path, unix.R_OK, unix.AT_EACCESS); err != want {
					t.Errorf("%d:%d: access %s: %v, want %v", who.uid, who.gid, name, err, want)
				}
				if err := unix.Faccessat2(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != unix.EROFS {
					t.Errorf("%d:%d: access %s for writing: %v", who.uid, who.gid, name, err)
				}
				var st unix.Stat_t
				want := want
				if !strings.Contains(name, "/") {
					want = nil
				}
				if err := unix.Stat(path, &st); err != want {
					t.Errorf("%d:%d: stat %s: %v, want %v", who.uid, who.gid, name, err, want)
				}
			})
		}
	}
}

// TestHiddenCPUsDoNotExist asks for a CPU's directory, and for what is in it, in all
// the ways there are, with the kernel knowing the names and without.
func TestHiddenCPUsDoNotExist(t *testing.T) {
	dir := fakeCPUs(t, 8)
	_, cpus := serveCPUs(t, dir, lastOfUser(3))
	all, visible := listing(t, dir), listing(t, dir)
	visible = slices.DeleteFunc(visible, func(name string) bool { return slices.Contains([]string{"cpu4", "cpu5", "cpu6", "cpu7"}, name) })
	below := []string{"", "/topology", "/topology/core_id", "/node0", "/crash_notes"}
	check := func(user int, cpu string, missing bool) {
		t.Helper()
		asUser(t, user, func() {
			for _, name := range below {
				path := cpus + "/" + cpu + name
				var st unix.Stat_t
				errs := map[string]error{"stat": unix.Lstat(path, &st)}
				if name == "/node0" {
					_, errs["readlink"] = unix.Readlink(path, make([]byte, 100))
				} else {
					errs["access"] = unix.Faccessat2(unix.AT_FDCWD, path, unix.F_OK, unix.AT_EACCESS)
				}
				if name != "/node0" && name != "/crash_notes" {
					errs["open"] = openError(path, unix.O_RDONLY)
				}
				for what, err := range errs {
					if missing && err != unix.ENOENT || !missing && err != nil {
						t.Errorf("user %d: %s of %s%s: %v", user, what, cpu, name, err)
					}
				}
			}
		})
	}
	for range 2 {
		check(1234, "cpu5", true) // before anybody else, and after
		check(0, "cpu5", false)
		check(1234, "cpu3", false)
		check(1234, "cpu4", true)
		asUser(t, 1234, func() {
			if names := listing(t, cpus); !slices.Equal(names, visible) {
				t.Errorf("listed are %q, want %q", names, visible)
			}
		})
		if names := listing(t, cpus); !slices.Equal(names, all) {
			t.Errorf("root is shown %q, want %q", names, all)
		}
	}
	asUser(t, 1234, func() {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			t.Error(err)
		}
		if err := unix.Chdir(cpus + "/cpu6"); err != unix.ENOENT {
			t.Errorf("chdir: %v", err)
		}
	})
}

// TestMountsBelowHiddenCPUsStay guards the masks that a container's runtime has put
// on files of a CPU: the kernel takes a mount away with its name.
func TestMountsBelowHiddenCPUsStay(t *testing.T) {
	_, cpus := serveCPUs(t, fakeCPUs(t, 4), lastOfUser(1))
	target := cpus + "/cpu3/topology"
	if err := unix.Mount("mask", target, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(target, unix.MNT_DETACH)
	asUser(t, 1234, func() {
		var st unix.Stat_t
		for _, name := range []string{"/cpu3", "/cpu3/crash_notes", "/cpu3/nothing"} {
			if err := unix.Stat(cpus+name, &st); err != unix.ENOENT {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("the mount is gone: type %#x, %v", st.Type, err)
	}
}

func TestNothingButFilesDirectoriesAndLinksIsShown(t *testing.T) {
	dir := fakeCPUs(t, 1)
	if err := unix.Mkfifo(dir+"/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mounted", "away"} {
		if err := os.Mkdir(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("other", dir+"/mounted", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir+"/mounted", unix.MNT_DETACH)
	_, cpus := serveCPUs(t, dir, nil)
	for _, name := range []string{"fifo", "null", "mounted", "nothing"} {
		var st unix.Stat_t
		if err := unix.Lstat(cpus+"/"+name, &st); err != unix.ENOENT {
			t.Errorf("%s: %v", name, err)
		}
	}
	names := listing(t, cpus)
	if slices.Contains(names, "fifo") || slices.Contains(names, "null") || !slices.Contains(names, "link") {
		t.Errorf("%q", names)
	}
	// What becomes a link between two looks leads nowhere either.
	var st unix.Stat_t
	if err := unix.Stat(cpus+"/away", &st); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(dir+"/away"), os.Symlink("/etc", dir+"/away")); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(cpus + "/away/passwd"); err == nil {
		t.Errorf("a directory that became a link leads to %.20q", got)
	}
}

// TestListingsOfManyCPUsAreWhole lists with a small buffer, while CPUs come into
// view and leave it.
func TestListingsOfManyCPUsAreWhole(t *testing.T) {
	const cpus = 600
	dir := fakeCPUs(t, cpus)
	var last atomic.Int64
	_, shown := serveCPUs(t, dir, lastCPU(func(*fs.Turn) (int, error) { return int(last.Load()), nil }))
	fd, err := unix.Open(shown, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, flip := range []bool{false, true} {
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		last.Store(cpus - 1)
		seen := map[string]int{}
		for buf, i := make([]byte, 256), 0; ; i++ {
			if flip {
				last.Store(int64([]int{cpus - 1, 299, 299}[i%3]))
			}
			n, err := unix.ReadDirent(fd, buf)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			// go on from where the kernel says that it is
			if off, err := unix.Seek(fd, 0, unix.SEEK_CUR); err != nil {
				t.Fatal(err)
			} else if _, err = unix.Seek(fd, off, unix.SEEK_SET); err != nil {
				t.Fatal(err)
			}
			_, _, names := unix.ParseDirent(buf[:n], -1, nil)
			for _, name := range names {
				seen[name]++
			}
		}
		for cpu := range cpus {
			if n := seen[fmt.Sprintf("cpu%d", cpu)]; n != 1 && (!flip || cpu < 300 || n > 1) {
				t.Errorf("flip %v: cpu%d is listed %d times", flip, cpu, n)
			}
		}
		if seen["online"] != 1 || seen["kernel_max"] != 1 {
			t.Errorf("flip %v: online %d times, kernel_max %d times", flip, seen["online"], seen["kernel_max"])
		}
	}
}

// TestSuccessorKnowsTheHostsEntries takes over with names, handles and a listing
// open that the new process has never been asked for.
func TestSuccessorKnowsTheHostsEntries(t *testing.T) {
	dir := fakeCPUs(t, 300)
	m, cpus := serveCPUs(t, dir, nil)
	file := open(t, cpus+"/cpu7/topology/core_id")
	sub := open(t, cpus+"/cpu8")
	top, err := unix.Open(cpus, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(top)
	buf := make([]byte, 1024)
	n, err := unix.ReadDirent(top, buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _, first := unix.ParseDirent(buf[:n], -1, nil)
	if err := unix.Mkdir(dir+"/cpu300", 0o755); err != nil {
		t.Fatal(err)
	}
	gone := open(t, cpus+"/cpu300")
	if err := os.Remove(dir + "/cpu300"); err != nil {
		t.Fatal(err)
	}

	m.srv.Stop()
	asked := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		asked <- unix.Statfs(m.dir, &st)
	}()
	if err := m.wait(t); err != nil {
		t.Fatalf("Serve after Stop: %v", err)
	}
	m.srv = fs.NewTestServer(m.conn, constant("ours\n"), fs.ServerOptions{Hosts: []*fs.HostTree{openCPUs(t, dir, nil)}})
	m.done = make(chan error, 1)
	go func() { m.done <- m.srv.Serve() }()
	<-asked

	if got := pread(t, file, 10, 0); got != "7\n" {
		t.Errorf("the open file: %q", got)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(sub, "topology/core_id", &st, 0); err != nil {
		t.Errorf("below an open directory: %v", err)
	}
	if err := unix.Fstat(gone, &st); err != unix.ESTALE && err != unix.ENOENT {
		t.Errorf("what the host has no more: %v", err)
	}
	rest := first
	for {
		n, err := unix.ReadDirent(top, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		_, _, rest = unix.ParseDirent(buf[:n], -1, rest)
	}
	slices.Sort(rest)
	if want := listing(t, dir); !slices.Equal(rest, want) {
		t.Errorf("the listing has %d names, want %d", len(rest), len(want))
	}
}

// TestABlockedFileOfTheHostTakesOneWorker shows another mount as the host's CPUs,
// in which one file blocks.
func TestABlockedFileOfTheHostTakesOneWorker(t *testing.T) {
	g := newGate()
	host := serve(t, g, fs.ServerOptions{})
	release := sync.OnceFunc(func() { close(g.open) })
	defer release() // else nothing ever ends
	_, cpus := serveCPUs(t, host.dir+"/proc", nil)
	results := readers(50, cpus+"/meminfo")
	eventually(t, "the blocked file is read", func() bool { return g.running.Load() == 1 })
	for range 50 {
		if got, err := readAll(cpus + "/uptime"); got != "content\n" || err != nil {
			t.Fatalf("another file: %q, %v", got, err)
		}
		if got, err := readAll(cpus + "/online"); got != "content\n" && got != "ours\n" || err != nil {
			t.Fatalf("a file of ours: %q, %v", got, err)
		}
	}
	// One that waits in the queue heeds a signal.
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	tid, result := stuckReader(cpus + "/meminfo")
	eventually(t, "the signal to end a read", func() bool {
		_ = unix.Tgkill(os.Getpid(), tid, unix.SIGUSR1) // it may have ended
		select {
		case err := <-result:
			if err != unix.EINTR {
				t.Errorf("the read: %v", err)
			}
			return true
		default:
			return false
		}
	})
	release()
	for range 50 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if most := g.most.Load(); most != 1 {
		t.Errorf("%d reads of one file at once", most)
	}
}

func TestColdCallersOfTheHostsEntriesAreAnswered(t *testing.T) {
	_, cpus := serveCPUs(t, fakeCPUs(t, 4), lastCPU(func(turn *fs.Turn) (int, error) {
		if err := turn.Block(0); err != nil {
			return 0, err
		}
		runtime.Gosched()
		return 2, nil
	}))
	for range 3 {
		var st unix.Stat_t
		if err := unix.Stat(cpus+"/cpu2", &st); err != nil {
			t.Errorf("stat: %v", err)
		}
		if err := unix.Stat(cpus+"/cpu3", &st); err != unix.ENOENT {
			t.Errorf("stat of a hidden one: %v", err)
		}
		if got, err := readAll(cpus + "/cpu2/topology/core_id"); got != "2\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if names := listing(t, cpus); slices.Contains(names, "cpu3") || !slices.Contains(names, "cpu2") {
			t.Errorf("%q", names)
		}
	}
}

func TestAPanicAboutACallersCPUsIsAnError(t *testing.T) {
	log := newLog()
	m := serve(t, constant("x"), fs.ServerOptions{Log: log.logger(), Hosts: []*fs.HostTree{openCPUs(t, fakeCPUs(t, 2), lastCPU(func(*fs.Turn) (int, error) {
		panic("no idea")
	}))}})
	var st unix.Stat_t
	if err := unix.Stat(m.dir+"/sys/devices/system/cpu/cpu1", &st); err != unix.EIO {
		t.Errorf("stat: %v", err)
	}
	if !strings.Contains(log.String(), "no idea") {
		t.Errorf("log: %s", log.String())
	}
}

func TestCopiesOfTheHostsFilesAreWhole(t *testing.T) {
	dir := fakeCPUs(t, 1)
	text := bytes.Repeat([]byte("0123456789\n"), 1000)
	fakeFile(t, dir, "large", string(text), 0o444)
	_, cpus := serveCPUs(t, dir, nil)
	for _, cat := range [][]string{{"cat"}, {find(t, "busybox"), "cat"}, {"tail", "-n", "+1"}} {
		for name, want := range map[string]string{"large": string(text), "kernel_max": "8191\n"} {
			run(t, 1234, want, append(slices.Clone(cat), cpus+"/"+name)...)
		}
	}
}
