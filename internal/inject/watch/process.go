// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
	"vprocfs/internal/procpid"
)

// maxMountinfo bounds how much of a mountinfo is read, in bytes. A container can
// make its own 64 MiB long.
const maxMountinfo = 256 << 10

// maxText bounds how much of a cgroup or status is read, in bytes.
const maxText = 64 << 10

// maxDepth bounds how many ancestors of a process are looked at.
const maxDepth = 1000

// buffer holds the text of files. Each look uses one and gives it back.
type buffer []byte

// maxRead is how much one read returns at most of a file that the kernel makes in one
// piece, such as cgroup and status: with less, there is no more.
const maxRead = 4 << 10

// readWhole reads a file that the kernel makes in one piece.
func (b *buffer) readWhole(path string) ([]byte, error) { return b.read(path, maxText, maxRead) }

// read reads a file of procfs up to a limit, or until a read returns less than short
// bytes. The text is valid until the buffer is used for another look. Package os would add
// a mountinfo, which can be polled, to the poller of the Go runtime, and each mount would
// wake that.
func (b *buffer) read(path string, limit, short int) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	text := *b
	begin := len(text)
	for len(text)-begin < limit {
		if cap(text)-len(text) < maxRead {
			text = slices.Grow(text, max(len(text), 2*maxRead))
		}
		n, err := unix.Read(fd, text[len(text):cap(text)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if text = text[:len(text)+n]; n == 0 || n < short {
			break
		}
	}
	*b = text
	return text[begin:], nil
}

// proc reads facts about processes from a procfs. It waits for no other file system.
// It is safe for concurrent use.
type proc struct {
	root   string   // /proc
	pidNS  string   // link of this process's pid namespace
	mounts []uint64 // mount namespaces of this process and of the host's init
	// procfs are the superblocks of the procfs that are mounted on the host.
	procfs  map[uint64]bool
	buffers sync.Pool // of *buffer
	// readlink is os.Readlink, but for tests.
	readlink func(path string) (string, error)
}

// buffer returns an empty buffer.
func (p *proc) buffer() *buffer { return p.buffers.Get().(*buffer) }

// release takes a buffer back.
func (p *proc) release(b *buffer) {
	if *b = (*b)[:0]; cap(*b) <= maxMountinfo {
		p.buffers.Put(b)
	}
}

// newProc returns the proc of the procfs at root.
func newProc(root string) (*proc, error) {
	p := &proc{root: root, procfs: make(map[uint64]bool), readlink: os.Readlink}
	p.buffers.New = func() any { b := make(buffer, 0, 32<<10); return &b }
	var err error
	if p.pidNS, err = os.Readlink(filepath.Join(root, "self/ns/pid")); err != nil {
		return nil, err
	}
	for _, pid := range []string{"self", "1"} {
		ns, err := mountinfo.Namespace(root, pid)
		if pid == "1" && errors.Is(err, os.ErrPermission) {
			continue // init may have more privileges than this process
		}
		if err != nil {
			return nil, err
		}
		p.mounts = append(p.mounts, ns)
	}
	mounts, err := mountinfo.Load(filepath.Join(root, "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m.FSType == "proc" {
			p.procfs[m.Dev] = true
		}
	}
	return p, nil
}

// view returns the superblock of the view that is mounted at dir on the host, or 0.
func (p *proc) view(dir string) (uint64, error) {
	mounts, err := mountinfo.Load(filepath.Join(p.root, "self/mountinfo"))
	if err != nil {
		return 0, err
	}
	m, _ := mountinfo.Top(mounts, dir)
	return m.Dev, nil
}

// errEnded is returned if the process has ended.
var errEnded = errors.New("no such process")

// sighting is what look has found out about a process.
type sighting struct {
	verdict verdict
	// The rest is set if the verdict is ready.
	ns uint64 // inode of its mount namespace
	// views are the superblocks of the views that are mounted below its /proc.
	views []uint64
}

// look judges a process. It reads no more than the verdict needs: most events are
// about processes of the host.
func (p *proc) look(r *Rules, pid int) (sighting, error) {
	dir := filepath.Join(p.root, strconv.Itoa(pid))
	ns, err := os.Readlink(dir + "/ns/pid")
	if err != nil {
		return sighting{}, errEnded
	}
	f := facts{ownPIDNS: ns != p.pidNS}
	if !f.ownPIDNS && len(r.Attach) == 0 {
		return sighting{}, nil
	}
	b := p.buffer()
	defer p.release(b)
	if f.cgroups, err = b.readWhole(dir + "/cgroup"); err != nil {
		return sighting{}, errEnded
	}
	var parent int
	if parent, f.parentCgroups, err = p.parentCgroups(b, dir); err != nil {
		return sighting{}, err
	}
	// Assume the rest, and read it only if it matters.
	f.ownMounts, f.ownProcfs = true, true
	s := sighting{verdict: r.judge(&f)}
	if s.verdict != ready {
		return s, nil
	}
	if s.ns, err = mountinfo.Namespace(p.root, strconv.Itoa(pid)); err != nil {
		return sighting{}, errEnded
	}
	if f.ownMounts = !slices.Contains(p.mounts, s.ns); f.ownMounts {
		var procfs uint64
		if procfs, f.ownProcfs, s.views, err = p.mountsOnProc(b, dir); err != nil {
			return sighting{}, err
		}
		if f.ownProcfs && procfs != 0 && parent != 0 {
			if f.ownProcfs, err = p.isNew(b, procfs, ns, s.ns, parent); err != nil {
				return sighting{}, err
			}
		}
	}
	s.verdict = r.judge(&f)
	return s, nil
}

// parent returns the parent of the process with directory dir, or 0 if it is not visible here.
func (p *proc) parent(b *buffer, dir string) (int, error) {
	status, err := b.readWhole(dir + "/status")
	if err != nil {
		return 0, errEnded
	}
	parent, ok := procpid.StatusID(status, "PPid")
	if !ok {
		return 0, fmt.Errorf("%s/status: no PPid", dir)
	}
	return parent, nil
}

// parentCgroups returns the parent of the process with directory dir, and the text of its
// cgroup. They are 0 and empty if the parent is not visible here.
func (p *proc) parentCgroups(b *buffer, dir string) (parent int, text []byte, err error) {
	if parent, err = p.parent(b, dir); err != nil || parent == 0 {
		return 0, nil, err
	}
	if text, err = b.readWhole(filepath.Join(p.root, strconv.Itoa(parent), "cgroup")); err != nil {
		return 0, nil, errOrphaned
	}
	return parent, text, nil
}

// eldest returns the eldest ancestor of a process that has the same pid and mount namespaces,
// which is the process itself if its parent has others.
func (p *proc) eldest(pid int) int {
	b := p.buffer()
	defer p.release(b)
	for range maxDepth {
		dir := filepath.Join(p.root, strconv.Itoa(pid))
		parent, err := p.parent(b, dir)
		if err != nil || parent == 0 {
			break
		}
		theirs := filepath.Join(p.root, strconv.Itoa(parent))
		if !sameLink(dir, theirs, "ns/pid") || !sameLink(dir, theirs, "ns/mnt") {
			break
		}
		pid = parent
	}
	return pid
}

// sameLink reports whether a link in two directories leads to the same.
func sameLink(a, b, name string) bool {
	one, err := os.Readlink(filepath.Join(a, name))
	if err != nil {
		return false
	}
	two, err := os.Readlink(filepath.Join(b, name))
	return err == nil && one == two
}

// isNew reports whether the procfs at the /proc of a process is that of its own pid
// namespace: of pidNS, with mount namespace mnt. The init of a container within a container
// has the outer one's procfs until its runtime has mounted the inner one's.
func (p *proc) isNew(b *buffer, procfs uint64, pidNS string, mnt uint64, parent int) (bool, error) {
	// An init with more privileges than this process is the parent of all whose parent has
	// ended. It is no process of a container, and no orphan's parent that has ended.
	theirPIDs, err := p.readlink(filepath.Join(p.root, strconv.Itoa(parent), "ns/pid"))
	switch {
	case errors.Is(err, os.ErrPermission):
		return true, nil
	case err != nil:
		return false, errOrphaned
	case theirPIDs == pidNS || theirPIDs == p.pidNS:
		return true, nil // no mountinfo, which is long on a host with many containers
	}
	theirs, err := mountinfo.Namespace(p.root, strconv.Itoa(parent))
	if err != nil {
		return false, errOrphaned
	}
	if theirs == mnt || slices.Contains(p.mounts, theirs) {
		return true, nil
	}
	inherited, _, _, err := p.mountsOnProc(b, filepath.Join(p.root, strconv.Itoa(parent)))
	if err != nil {
		return false, errOrphaned
	}
	return inherited != procfs, nil
}

// runsOwnProgram reports whether the process executes a program of the file system at its
// root: before the program of a container, its init executes the runtime, which is on a
// mount of the host. The kernel knows both mounts without asking a file system.
func (p *proc) runsOwnProgram(pid int) bool {
	dir := filepath.Join(p.root, strconv.Itoa(pid))
	var ids [2]uint64
	for i, name := range []string{"/exe", "/root"} {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, dir+name, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
			return false // it has ended
		}
		ids[i] = st.Mnt_id
	}
	return ids[0] == ids[1]
}

// errOrphaned is returned if the parent of the process has just ended: the process
// has another parent by now.
var errOrphaned = errors.New("the parent has ended")

// mountsOnProc returns the superblock of the procfs at /proc of the process with directory
// dir, or 0, whether it is not mounted on the host, and the views that are mounted below it.
// A mountinfo that is too long to tell counts as having one: who attaches looks again.
func (p *proc) mountsOnProc(b *buffer, dir string) (procfs uint64, own bool, views []uint64, err error) {
	text, err := b.read(dir+"/mountinfo", maxMountinfo, 0)
	if err != nil {
		return 0, false, nil, errEnded // EINVAL of a zombie
	}
	if len(text) >= maxMountinfo {
		return 0, true, nil, nil
	}
	// Only these lines are parsed: a path with a blank is escaped.
	var lines []byte
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(" /proc ")) || bytes.Contains(line, []byte(" /proc/")) {
			lines = append(lines, line...)
		}
	}
	mounts, err := mountinfo.Parse(lines)
	if err != nil {
		return 0, false, nil, fmt.Errorf("%s/mountinfo: %w", dir, err)
	}
	for _, m := range mounts {
		if m.FSType == "fuse.vprocfs" && strings.HasPrefix(m.Point, "/proc/") && !slices.Contains(views, m.Dev) {
			views = append(views, m.Dev)
		}
	}
	m, ok := mountinfo.Top(mounts, "/proc")
	if !ok || m.FSType != "proc" || m.Root != "/" {
		return 0, false, views, nil
	}
	return m.Dev, !p.procfs[m.Dev], views, nil
}
