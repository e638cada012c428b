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

// This file and place.go run in a helper.

// container is a running container whose mounts are to be changed.
type container struct {
	root   int   // its root directory, O_PATH
	ns     int   // its mount namespace
	mounts table // as they were at the beginning
	list   []mountinfo.Mount
	// ours are the peer groups of the mount namespaces of this process and of
	// the host's init: a mount on one of their peers would show there.
	ours map[string]bool
	// fds is /proc/thread-self/fd of the host: the way to name a descriptor to
	// umount2(2), which takes none.
	fds int
}

const hostProc = "/proc"

// openContainer finds out what pid's container is. The calling thread must be
// locked.
func openContainer(pid int, ns uint64) (*container, error) {
	// The pidfd is there to tell that pid has been the same process all along.
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, gone(err)
	}
	defer unix.Close(pidfd)
	c := &container{ours: make(map[string]bool)}
	dir := filepath.Join(hostProc, strconv.Itoa(pid))
	if c.ns, err = unix.Open(dir+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return nil, gone(err)
	}
	// A magic link: no path is walked in the container.
	if c.root, err = unix.Open(dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, gone(err)
	}
	if c.list, err = mountinfo.Load(dir + "/mountinfo"); err != nil {
		return nil, gone(err)
	}
	c.mounts = newTable(c.list)
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return nil, gone(err)
	}
	if err := c.checkNamespace(ns); err != nil {
		return nil, err
	}
	c.fds, err = unix.Open(hostProc+"/thread-self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return c, err
}

// errGone says that there is no such process, or that it is another one by now.
var errGone = errors.New("no such process")

// gone makes one error of those that the death of a process has. Mountinfo says
// EINVAL of a zombie, which has no namespaces any more.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return errGone
	}
	return err
}

// checkNamespace makes sure that the namespace is a container's, and learns the
// peer groups of those that are not.
func (c *container) checkNamespace(want uint64) error {
	var theirs unix.Stat_t
	if err := unix.Fstat(c.ns, &theirs); err != nil {
		return fmt.Errorf("stat the mount namespace: %w", err)
	}
	if want != 0 && theirs.Ino != want {
		return errGone
	}
	for _, p := range []int{os.Getpid(), 1} {
		var st unix.Stat_t
		err := unix.Stat(fmt.Sprintf("%s/%d/ns/mnt", hostProc, p), &st)
		if p == 1 && errors.Is(err, unix.EACCES) {
			continue // an init that has more privileges than we have
		}
		if err != nil {
			return fmt.Errorf("stat the mount namespace of pid %d: %w", p, err)
		}
		if st.Ino == theirs.Ino && st.Dev == theirs.Dev {
			return fmt.Errorf("it is in no container: its mount namespace is that of %s",
				map[bool]string{true: "the host's init", false: "vprocfs itself"}[p == 1])
		}
		mounts, err := mountinfo.Load(fmt.Sprintf("%s/%d/mountinfo", hostProc, p))
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if m.Shared != "" {
				c.ours[m.Shared] = true
			}
		}
	}
	return nil
}

// enter moves the calling thread into the mount namespace, for good.
func (c *container) enter() error {
	// Threads share root and working directory, which setns(2) is to change.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare CLONE_FS: %w", err)
	}
	if err := unix.Setns(c.ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("setns to the mount namespace: %w", err)
	}
	// Where unmount finds descriptors by their numbers.
	if err := unix.Fchdir(c.fds); err != nil {
		return fmt.Errorf("chdir to the own descriptors: %w", err)
	}
	return nil
}

// do does the job.
func (j *job) do(tell func(Result) error) error {
	if j.Probe != "" {
		return ask(j.Probe)
	}
	runtime.LockOSThread() // never unlocked: the thread will be in another namespace
	// With the container's pid namespace shared, its root could look into this
	// process otherwise.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	c, err := openContainer(j.PID, j.NS)
	if err != nil {
		return err
	}
	if err := ask(filepath.Join(j.Dir, "proc/uptime")); err != nil {
		return err
	}
	if len(j.Items) == 0 {
		if j.Items, err = c.all(j.Dir); err != nil {
			return err
		}
	}
	// While this thread is still where Dir is.
	files := make([]int, len(j.Items))
	errs := make([]error, len(j.Items))
	for i, it := range j.Items {
		files[i], errs[i] = cloneFile(j.Dir, it.Path)
	}
	if err := c.enter(); err != nil {
		return err
	}
	for i, it := range j.Items {
		r := Result{Target: "/" + it.Path, Err: errs[i]}
		if it.Mount != 0 {
			r.Target = it.Point
		}
		switch {
		case r.Err == nil:
			r.State, r.Err = c.show(files[i], it, j)
			unix.Close(files[i]) // where it was not attached, this ends it
		case r.Err == errNotServed && it.Mount != 0:
			r.State, r.Err = c.show(-1, it, j)
		}
		if r.Err != nil {
			r.State = Failed
		}
		if err := tell(r); err != nil {
			return err
		}
	}
	return nil
}

// ask tells whether the daemon of the FUSE file system that file is on answers.
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

var errNotServed = errors.New("the daemon does not serve it")

// cloneFile makes a detached mount of a file or directory of the daemon, with all
// that is mounted below it.
func cloneFile(dir, name string) (int, error) {
	file := filepath.Join(dir, name)
	fd, err := unix.OpenTree(unix.AT_FDCWD, file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return -1, errNotServed
	}
	if err != nil {
		return -1, fmt.Errorf("open_tree %s: %w", file, err)
	}
	// A clone is a peer of the original: what the container mounts over it would
	// show in Dir.
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

// cpuDir is the directory of sysfs that is shown whole.
const cpuDir = "sys/devices/system/cpu"

// cpuFiles are the files of cpuDir that differ from the host's.
var cpuFiles = []string{"online", "present", "possible", "offline"}

// all returns items for all that the daemon at dir serves.
func (c *container) all(dir string) ([]item, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	if err != nil {
		return nil, err
	}
	var items []item
	for _, e := range entries {
		items = append(items, item{Path: "proc/" + e.Name(), Optional: true})
	}
	if _, err := os.Lstat(filepath.Join(dir, cpuDir)); errors.Is(err, os.ErrNotExist) {
		return items, nil
	} else if err != nil {
		return nil, err
	}
	// Runtimes mask files in there (thermal_throttle). A mount of the directory
	// would cover the masks.
	if !hasBelow(c.list, "/"+cpuDir) {
		return append(items, item{Path: cpuDir, Optional: true}), nil
	}
	for _, name := range cpuFiles {
		items = append(items, item{Path: path.Join(cpuDir, name), Optional: true})
	}
	return items, nil
}

// checkLeak returns an error if what is mounted on mount id would show on the
// host.
func (c *container) checkLeak(id int) error {
	m, ok := c.mounts[id]
	if !ok {
		return errors.New("the container is changing its mounts: try again")
	}
	if c.ours[m.Shared] {
		return errors.New("its mount namespace shares the mount below with the host, where the file would show too")
	}
	return nil
}

// isOurType tells whether mount id is one of our types.
func (c *container) isOurType(id int) bool { return slices.Contains(types, c.mounts[id].FSType) }

// typeOf names the type of mount id.
func (c *container) typeOf(id int) string {
	if t := c.mounts[id].FSType; t != "" {
		return t
	}
	return "unknown"
}

// split cuts the path of an item into "proc" or "sys" and the rest.
func split(p string) (base, rest string) {
	base, rest, _ = strings.Cut(p, "/")
	return base, rest
}
