package attach

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
)

// The code of this file and of place.go runs in a helper.

// container is a running container whose mounts are to be changed.
type container struct {
	root   int    // descriptor of its root directory, O_PATH
	rootfs string // path of root, "" for the root directory of the process
	ns     int    // descriptor of its mount namespace
	mounts table  // its mounts when the helper started
	list   []mountinfo.Mount
	// hostGroups are the peer groups of the mount namespaces of this process and
	// of the host's init. A mount on a peer of them would propagate to the host.
	hostGroups map[string]bool
	unpivoted  bool // see notPivoted
	// fds is a descriptor of the host's /proc/thread-self/fd. umount2(2) takes a
	// path only, so a descriptor is named by its number in there.
	fds int
	// mountsFD is a descriptor of its mountinfo.
	mountsFD int
}

const hostProc = "/proc"

// openContainer opens the container of process pid, whose mount namespace must have
// inode ns unless ns is 0. The calling goroutine must be locked to its thread.
func openContainer(pid int, ns uint64) (*container, error) {
	// The pidfd shows at the end that pid was the same process all the time.
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, gone(err)
	}
	defer unix.Close(pidfd)
	c := &container{root: -1, ns: -1, fds: -1, mountsFD: -1, hostGroups: make(map[string]bool)}
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
	c.mounts = newTable(c.list)
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
	samePIDs, err := samePIDNamespace(pid)
	if err != nil {
		return err
	}
	root, err := mountID(c.root)
	if err != nil {
		return err
	}
	var own uint64
	for _, p := range []int{os.Getpid(), 1} {
		var st unix.Stat_t
		err := unix.Stat(fmt.Sprintf("%s/%d/ns/mnt", hostProc, p), &st)
		if p == 1 && errors.Is(err, unix.EACCES) {
			continue // init has more privileges than this process
		}
		if err != nil {
			return fmt.Errorf("stat the mount namespace of pid %d: %w", p, err)
		}
		if st.Ino == theirs.Ino && st.Dev == theirs.Dev {
			whose := "vprocfs itself"
			if p == 1 {
				whose = "the host's init"
			}
			return fmt.Errorf("it is in no container: its mount namespace is that of %s", whose)
		}
		if st.Ino == own {
			break // as usual, init's is that of this process
		}
		own = st.Ino
		mounts, err := mountinfo.Load(fmt.Sprintf("%s/%d/mountinfo", hostProc, p))
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if m.Shared != "" {
				c.hostGroups[m.Shared] = true
			}
		}
		c.unpivoted = c.unpivoted || notPivoted(root, c.list, mounts, samePIDs)
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

// do does the job. It calls tell with each result.
func (j *job) do(tell func(Result) error) error {
	switch {
	case j.Probe != "":
		return ask(j.Probe)
	case j.Read != "":
		return read(j.Read)
	}
	runtime.LockOSThread() // never unlocked: the thread stays in the other namespace, and ends with its goroutine
	// If the container shares the host's pid namespace, its root could otherwise
	// read this process's memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	c, err := openContainer(j.PID, j.NS)
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
		if err := ask(filepath.Join(j.Dir, "proc/uptime")); err != nil {
			return err
		}
	}
	if len(j.Items) == 0 {
		if j.Items, err = c.all(j.Dir); err != nil {
			return err
		}
	}
	// Before enter: Dir is a path of this mount namespace.
	files := make([]int, len(j.Items))
	errs := make([]error, len(j.Items))
	for i, it := range j.Items {
		if files[i], errs[i] = -1, errNotServed; !j.Remove {
			files[i], errs[i] = cloneFile(j.Dir, it.Path)
		}
	}
	defer closeAll(files) // unmounts those that were not attached
	if err := c.enter(); err != nil {
		return err
	}
	for i, it := range j.Items {
		results := []Result{{Target: it.target(), State: Failed, Err: errs[i]}}
		if errs[i] == nil || errs[i] == errNotServed && it.Mount != 0 {
			results = c.showItem(files[i], it, j) // the descriptor is -1 if it is not served
		}
		for _, r := range results {
			if err := tell(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// target returns the path of the file, as the container sees it.
func (it *item) target() string {
	if it.Mount != 0 {
		return it.Point
	}
	return "/" + it.Path
}

// showItem is show, and has no mask of the container uncovered.
func (c *container) showItem(fd int, it item, j *job) []Result {
	state, err := c.show(fd, it, j)
	if files := filesOf(it.Path); state == Attached && files != nil && !j.DryRun {
		covers, err := c.covers(fd)
		if err != nil {
			return []Result{{Target: it.target(), State: Failed, Err: errors.Join(err, unmount(fd))}}
		}
		if covers {
			return c.showFiles(fd, it, files, j)
		}
	}
	if err != nil {
		state = Failed
	}
	return []Result{{Target: it.target(), State: state, Err: err}}
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
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	if err != nil {
		return nil, err
	}
	var items []item
	for _, e := range entries {
		items = append(items, item{Path: "proc/" + e.Name(), Optional: true})
	}
	for _, d := range sysDirs {
		if _, err := os.Lstat(filepath.Join(dir, d.path)); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		// Runtimes mask some files in it (thermal_throttle). A mount over the
		// directory would hide the masks.
		if !hasBelow(c.list, path.Join("/", c.rootfs, d.path)) {
			items = append(items, item{Path: d.path, Optional: true})
			continue
		}
		for _, name := range d.files {
			items = append(items, item{Path: path.Join(d.path, name), Optional: true})
		}
	}
	return items, nil
}

// checkLeak returns an error if a mount on mount id would propagate to the host.
func (c *container) checkLeak(id int) error {
	m, ok := c.mounts[id]
	if !ok {
		return errors.New("the container is changing its mounts: try again")
	}
	if c.hostGroups[m.Shared] {
		return errors.New("its mount namespace shares the mount below with the host, where the file would show too")
	}
	return nil
}

// isOurType reports whether mount id is of one of types.
func (c *container) isOurType(id int) bool { return slices.Contains(types, c.mounts[id].FSType) }

// typeOf returns the file system type of mount id.
func (c *container) typeOf(id int) string {
	if t := c.mounts[id].FSType; t != "" {
		return t
	}
	return "unknown"
}

// split splits the path of an item into "proc" or "sys", and the rest.
func split(p string) (base, rest string) {
	base, rest, _ = strings.Cut(p, "/")
	return base, rest
}
