// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
)

// The code of this file and of place.go runs in a helper.

// container is a running container whose mounts are to be changed.
type container struct {
	root   int               // descriptor of its root directory, O_PATH
	rootfs string            // path of root, "" for the root directory of the process
	ns     int               // descriptor of its mount namespace
	list   []mountinfo.Mount // its mounts when the job began
	host   *host
	// hostGroups are the peer groups of the host's mounts, if any of list is in one. A
	// mount on a peer of them would propagate to the host.
	hostGroups map[string]bool
	unpivoted  bool             // see notPivoted
	bases      map[string]*base // by their names; filled by openBase
	// fds is a descriptor of the host's /proc/thread-self/fd. umount2(2) takes a
	// path only, so a descriptor is named by its number in there.
	fds int
	// mountsFD is a descriptor of its mountinfo.
	mountsFD int
}

const hostProc = "/proc"

// openContainer opens the container of process pid, whose mount namespace must have
// inode ns unless ns is 0. The calling goroutine must be locked to its thread.
func (h *host) openContainer(pid int, ns uint64) (*container, error) {
	// The pidfd shows at the end that pid was the same process all the time.
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, gone(err)
	}
	defer unix.Close(pidfd)
	c := &container{root: -1, ns: -1, fds: -1, mountsFD: -1, host: h}
	if err := c.init(pid, pidfd, ns); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// init fills c.
func (c *container) init(pid, pidfd int, ns uint64) (err error) {
	dir := filepath.Join(hostProc, strconv.Itoa(pid))
	if c.ns, err = unix.Open(dir+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return gone(err)
	}
	// A magic link: no path is walked in the container.
	if c.root, err = unix.Open(dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return gone(err)
	}
	if err := c.openMounts(pid); err != nil {
		return err
	}
	if c.list, err = mountinfo.LoadFD(c.mountsFD); err != nil {
		return gone(err)
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return gone(err)
	}
	if err := c.checkNamespace(pid, ns); err != nil {
		return err
	}
	c.fds, err = unix.Open(hostProc+"/thread-self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return err
}

// close closes the descriptors.
func (c *container) close() {
	for _, fd := range []int{c.root, c.ns, c.fds, c.mountsFD} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for _, b := range c.bases {
		if b.err == nil {
			unix.Close(b.fd)
		}
	}
}

// errGone is returned if the process has ended, even if its pid is in use again.
var errGone = errors.New("no such process")

// gone returns errGone if err is an error of /proc for a process that has ended,
// else err. EINVAL is what mountinfo returns for a zombie, which has no namespaces.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return errGone
	}
	return err
}

// checkNamespace returns an error if the mount namespace is not that of a container.
// It fills hostGroups and unpivoted.
func (c *container) checkNamespace(pid int, want uint64) error {
	var theirs unix.Stat_t
	if err := unix.Fstat(c.ns, &theirs); err != nil {
		return fmt.Errorf("stat the mount namespace: %w", err)
	}
	if want != 0 && theirs.Ino != want {
		return errGone
	}
	spaces, err := c.host.mountSpaces()
	if err != nil {
		return err
	}
	for _, s := range spaces {
		if s.ino == theirs.Ino && s.dev == theirs.Dev {
			return fmt.Errorf("it is in no container: its mount namespace is that of %s", s.whose)
		}
	}
	if slices.ContainsFunc(c.list, func(m mountinfo.Mount) bool { return m.Shared != "" }) {
		if c.hostGroups, err = c.host.groups(); err != nil {
			return err
		}
	}
	samePIDs, err := samePIDNamespace(pid)
	if err != nil {
		return err
	}
	root, err := mountID(c.root)
	if err != nil {
		return err
	}
	for _, s := range spaces {
		mounts, err := c.host.rootMounts(s)
		if err != nil {
			return err
		}
		if notPivoted(root, c.list, mounts, samePIDs) {
			c.unpivoted = true
		}
	}
	return nil
}

// enter moves the calling thread into the mount namespace, for good.
func (c *container) enter() error {
	// setns(2) needs a root and working directory that no other thread shares.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare CLONE_FS: %w", err)
	}
	if err := unix.Setns(c.ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("setns to the mount namespace: %w", err)
	}
	// unmount names descriptors by their numbers in this directory.
	if err := unix.Fchdir(c.fds); err != nil {
		return fmt.Errorf("chdir to the own descriptors: %w", err)
	}
	return nil
}

// do does the job. It calls tell with each result. The calling goroutine must be locked
// to its thread, which is in the mount namespace of the container afterwards.
func (j *job) do(h *host, tell func(Result) error) error {
	switch {
	case j.Probe != "":
		return ask(j.Probe)
	case j.Read != "":
		return read(j.Read)
	}
	c, err := h.openContainer(j.PID, j.NS)
	if err != nil {
		return err
	}
	defer c.close()
	c.lock()
	if j.Rootfs != "" {
		err = c.useRootfs(j.Rootfs)
	} else if c.unpivoted {
		err = ErrNotPivoted
	}
	if err != nil {
		return err
	}
	if !j.Remove {
		if err := h.ask(j.Dir); err != nil {
			return err
		}
	}
	if len(j.Items) == 0 {
		if j.Items, err = c.all(j.Dir); err != nil {
			return err
		}
	}
	users := -1
	if j.IDMap {
		if users, err = openUserNamespace(j.PID); err != nil {
			return err
		}
		defer closeAll([]int{users})
	}
	// Before enter: Dir is a path of this mount namespace.
	files := make([]int, len(j.Items))
	errs := make([]error, len(j.Items))
	for i, it := range j.Items {
		if files[i], errs[i] = -1, errNotServed; !j.Remove {
			files[i], errs[i] = cloneFile(j.Dir, it.Path)
		}
		if users >= 0 && errs[i] == nil {
			if err := idmap(files[i], users); err != nil {
				closeAll(files[:i+1])
				return fmt.Errorf("%s: %w", j.Dir, err)
			}
		}
	}
	defer closeAll(files) // unmounts those that were not attached
	if err := c.enter(); err != nil {
		return err
	}
	var dirs []int // indices of the directories that were attached
	for i, it := range j.Items {
		r := Result{Target: it.target(), State: Failed, Err: errs[i]}
		if errs[i] == nil || errs[i] == errNotServed && it.Mount != 0 {
			r.State, r.Err = c.show(files[i], it, j) // the descriptor is -1 if it is not served
			if r.Err != nil {
				r.State = Failed
			}
		}
		if r.State == Attached && filesOf(it.Path) != nil && !j.DryRun {
			dirs = append(dirs, i)
			continue
		}
		if err := tell(r); err != nil {
			return err
		}
	}
	return c.uncover(dirs, files, j, tell)
}

// target returns the path of the file, as the container sees it.
func (it *item) target() string {
	if it.Mount != 0 {
		return it.Point
	}
	return "/" + it.Path
}

// filesOf returns the files of one of sysDirs, or nil for another path.
func filesOf(dir string) []string {
	for _, d := range sysDirs {
		if d.path == dir {
			return d.files
		}
	}
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// ask returns an error if the daemon of the FUSE file system of file does not answer.
func ask(file string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", file, err)
	}
	if st.Type != unix.FUSE_SUPER_MAGIC {
		return fmt.Errorf("%s: not a file of a FUSE mount", file)
	}
	return nil
}

// read reads a file of a FUSE file system.
func read(file string) error {
	if err := ask(file); err != nil {
		return err
	}
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(fd)
	var buf [64]byte
	n, err := unix.Read(fd, buf[:])
	if err == nil && n == 0 {
		err = errors.New("empty file")
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

var errNotServed = errors.New("the daemon does not serve it")

// cloneFile makes a detached mount of a file or directory of the daemon, including
// the mounts below it.
func cloneFile(dir, name string) (int, error) {
	file := filepath.Join(dir, name)
	fd, err := unix.OpenTree(unix.AT_FDCWD, file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return -1, errNotServed
	}
	if err != nil {
		return -1, fmt.Errorf("open_tree %s: %w", file, err)
	}
	// A clone is a peer of the original: mounts of the container on it would
	// propagate to Dir.
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		err = unix.Mount("", hostProc+"/self/fd/"+strconv.Itoa(fd), "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make the mount of %s private: %w", file, err)
	}
	return fd, nil
}

// sysDirs are the directories of sysfs that are attached as a whole, and the files in them
// whose content is not the host's.
var sysDirs = []struct {
	path  string
	files []string
}{
	{"sys/devices/system/cpu", []string{"online", "present", "possible", "offline"}},
	{"sys/devices/system/node", []string{"online", "possible", "has_cpu", "has_memory", "has_normal_memory"}},
}

// all returns an item for everything that the daemon at dir serves.
func (c *container) all(dir string) ([]item, error) {
	served, err := c.host.files(dir)
	if err != nil {
		return nil, err
	}
	items := make([]item, 0, len(served)+len(sysDirs)*4)
	for _, name := range served {
		// Runtimes mask some files in a directory of sysfs (thermal_throttle). A mount
		// over the directory would hide the masks.
		files := filesOf(name)
		if files == nil || !hasBelow(c.list, path.Join("/", c.rootfs, name)) {
			items = append(items, item{Path: name, Optional: true})
			continue
		}
		for _, f := range files {
			items = append(items, item{Path: path.Join(name, f), Optional: true})
		}
	}
	return items, nil
}

// checkLeak returns an error if a mount on mount id would propagate to the host.
func (c *container) checkLeak(id int) error {
	m, ok := mountOf(c.list, id)
	if !ok {
		return errors.New("the container is changing its mounts: try again")
	}
	if c.hostGroups[m.Shared] {
		return errors.New("its mount namespace shares the mount below with the host, where the file would show too")
	}
	return nil
}

// isOurType reports whether mount id is of one of types.
func (c *container) isOurType(id int) bool {
	m, ok := mountOf(c.list, id)
	return ok && slices.Contains(types, m.FSType)
}

// typeOf returns the file system type of mount id.
func (c *container) typeOf(id int) string {
	if m, ok := mountOf(c.list, id); ok {
		return m.FSType
	}
	return "unknown"
}

// split splits the path of an item into "proc" or "sys", and the rest.
func split(p string) (base, rest string) {
	base, rest, _ = strings.Cut(p, "/")
	return base, rest
}
