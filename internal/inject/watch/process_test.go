// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeProc is a directory in the form of /proc.
type fakeProc struct {
	t    *testing.T
	root string
}

// newFakeProc makes one with the host's init and this process.
func newFakeProc(t *testing.T) *fakeProc {
	p := &fakeProc{t, t.TempDir()}
	p.add("1", 0, "host", "1", "/init.scope", "25 1 0:22 / /proc rw - proc proc rw\n")
	p.add("self", 1, "host", "1", "/system.slice/vprocfs.service", "25 1 0:22 / /proc rw shared:5 - proc proc rw\n")
	return p
}

// add adds a process.
func (p *fakeProc) add(pid string, parent int, pidNS, mnt, cgroup, mounts string) {
	p.t.Helper()
	dir := filepath.Join(p.root, pid)
	if err := os.MkdirAll(dir+"/ns", 0o755); err != nil {
		p.t.Fatal(err)
	}
	for name, ns := range map[string]string{"pid": pidNS, "mnt": mnt} {
		_ = os.Remove(dir + "/ns/" + name)
		if err := os.Symlink(name+":["+ns+"]", dir+"/ns/"+name); err != nil {
			p.t.Fatal(err)
		}
	}
	for name, text := range maps.All(map[string]string{
		"cgroup": v2(cgroup), "mountinfo": mounts, "status": fmt.Sprintf("Name:\tx\nPPid:\t%d\n", parent),
	}) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}

const (
	hostRoot = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
	ownRoot  = "90 80 8:1 /rootfs / rw - ext4 /dev/sda1 rw\n"
	ownProc  = "91 90 0:50 / /proc rw - proc proc rw\n"
)

func TestFactsAreReadFromProc(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("10", 1, "host", "1", "/system.slice/runc", hostRoot)
	p, err := newProc(fake.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                       string
		pidNS, mnt, cgroup, mounts string
		want                       verdict
	}{
		{"container", "c", "2", "/c", ownRoot + ownProc, ready},
		{"the old root is not detached yet", "c", "2", "/c", "81 80 0:22 / /proc rw - proc proc rw\n" + ownRoot + ownProc, ready},
		{"process of the host", "host", "1", "/c", hostRoot, never},
		{"service with a mount namespace", "host", "2", "/c", ownRoot + ownProc, never},
		{"before the unshare", "c", "1", "/c", hostRoot, notYet},
		{"the host's procfs", "c", "2", "/c", ownRoot + "91 90 0:22 / /proc rw - proc proc rw\n", notYet},
		{"a directory of a procfs", "c", "2", "/c", ownRoot + "91 90 0:50 /sys /proc rw - proc proc rw\n", notYet},
		{"something over the procfs", "c", "2", "/c", ownRoot + ownProc + "92 91 0:51 / /proc rw - tmpfs tmpfs rw\n", notYet},
		{"no procfs", "c", "2", "/c", ownRoot, notYet},
		{"the cgroup of its parent", "c", "2", "/system.slice/runc", ownRoot + ownProc, notYet},
		{"endless mountinfo", "c", "2", "/c", strings.Repeat("x", maxMountinfo), ready},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake.add("20", 10, tt.pidNS, tt.mnt, tt.cgroup, tt.mounts)
			got, err := p.look(&Rules{}, 20)
			if err != nil || got.verdict != tt.want {
				t.Errorf("judged %d, %v, want %d", got.verdict, err, tt.want)
			}
			if tt.want == ready && got.ns != 2 {
				t.Errorf("mount namespace %d, want 2", got.ns)
			}
		})
	}
	if _, err := p.look(&Rules{}, 21); !errors.Is(err, errEnded) {
		t.Errorf("a process that has ended: %v", err)
	}
	fake.add("20", 22, "c", "2", "/c", ownRoot+ownProc)
	if _, err := p.look(&Rules{}, 20); !errors.Is(err, errOrphaned) {
		t.Errorf("a process whose parent has ended: %v", err)
	}
}

// TestProcfsOfTheOuterContainer: a process of container c at pid 30 has children.
func TestProcfsOfTheOuterContainer(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("10", 1, "host", "1", "/system.slice/runc", hostRoot)
	fake.add("30", 10, "c", "2", "/c", ownRoot+ownProc)
	p, err := newProc(fake.root)
	if err != nil {
		t.Fatal(err)
	}
	innerProc := strings.ReplaceAll(ownProc, "0:50", "0:51")
	for _, tt := range []struct {
		name, pidNS, mnt, mounts string
		want                     verdict
	}{
		{"an init with the outer procfs", "inner", "3", ownRoot + ownProc, notYet},
		{"an init with its own procfs", "inner", "3", ownRoot + innerProc, ready},
		{"a mount namespace without a pid namespace", "c", "3", ownRoot + ownProc, ready},
	} {
		fake.add("40", 30, tt.pidNS, tt.mnt, "/c/d", tt.mounts)
		if got, err := p.look(&Rules{}, 40); err != nil || got.verdict != tt.want {
			t.Errorf("%s: judged %d, %v, want %d", tt.name, got.verdict, err, tt.want)
		}
	}
}

func TestViewsOfAContainerAreFound(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("10", 1, "host", "1", "/system.slice/runc", hostRoot)
	fake.add("20", 10, "c", "2", "/c", ownRoot+ownProc+
		"92 91 0:60 /proc/uptime /proc/uptime ro - fuse.vprocfs vprocfs ro\n"+
		"93 91 0:60 /proc/stat /proc/stat ro - fuse.vprocfs vprocfs ro\n"+
		"94 91 0:61 /proc/stat /proc/loadavg ro - fuse.lxcfs lxcfs ro\n"+
		"95 90 0:62 / /mnt/proc\\040/a ro - fuse.vprocfs vprocfs ro\n")
	p, err := newProc(fake.root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.look(&Rules{}, 20)
	if want := []uint64{60}; err != nil || !slices.Equal(got.views, want) {
		t.Errorf("views %v, %v, want %v", got.views, err, want)
	}
	fake.add("self", 1, "host", "1", "/", "30 20 0:60 / /var/lib/vprocfs ro - fuse.vprocfs vprocfs ro\n")
	if dev, err := p.view("/var/lib/vprocfs"); err != nil || dev != 60 {
		t.Errorf("the view at the mount point is %d, %v, want 60", dev, err)
	}
}

// TestInitIsFoundFromAnyOfItsProcesses: its pid may be higher than theirs.
func TestInitIsFoundFromAnyOfItsProcesses(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("10", 1, "host", "1", "/system.slice/runc", hostRoot)
	fake.add("90", 10, "c", "2", "/c", ownRoot+ownProc)
	fake.add("20", 90, "c", "2", "/c", ownRoot+ownProc)
	fake.add("21", 20, "c", "2", "/c", ownRoot+ownProc)
	fake.add("22", 90, "c", "3", "/c", ownRoot+ownProc) // its mounts are its own
	fake.add("23", 99, "c", "2", "/c", ownRoot+ownProc) // its parent has just ended
	p, err := newProc(fake.root)
	if err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]int{10: 1, 90: 90, 20: 90, 21: 90, 22: 22, 23: 23, 77: 77} {
		if got := p.eldest(pid); got != want {
			t.Errorf("eldest of %d is %d, want %d", pid, got, want)
		}
	}
}

// TestContainerOfAnInitWithMorePrivilegesIsReady: a runtime that has ended leaves it to the
// host's init, whose namespaces this process may not be allowed to read.
func TestContainerOfAnInitWithMorePrivilegesIsReady(t *testing.T) {
	fake := newFakeProc(t)
	fake.add("20", 1, "c", "2", "/c", ownRoot+ownProc)
	p, err := newProc(fake.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		err  error
		want verdict
		fail error
	}{{unix.EACCES, ready, nil}, {unix.ENOENT, never, errOrphaned}} {
		p.readlink = func(path string) (string, error) {
			if path == filepath.Join(fake.root, "1/ns/pid") {
				return "", &os.PathError{Op: "readlink", Path: path, Err: tt.err}
			}
			return os.Readlink(path)
		}
		if got, err := p.look(&Rules{}, 20); got.verdict != tt.want || !errors.Is(err, tt.fail) {
			t.Errorf("%v: judged %d, %v, want %d, %v", tt.err, got.verdict, err, tt.want, tt.fail)
		}
	}
}
