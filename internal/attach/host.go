// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vprocfs/internal/mountinfo"
)

// host is what a helper knows of the host. Its jobs share it: on a host with many
// containers a mountinfo is long. It is safe for concurrent use.
type host struct {
	mu     sync.Mutex
	spaces []*space // empty until the first job

	dir    string    // the mount point that the rest is about
	served []string  // paths below dir that are attached; nil if unknown
	asked  time.Time // when the daemon answered last
}

// space is a mount namespace of the host: that of this process, or of init if that has
// another one.
type space struct {
	whose    string
	dev, ino uint64
	points   [2]string // paths of its / and /proc
	// tops are the ids of the mounts at points when mounts was read.
	tops   [2]int
	mounts []mountinfo.Mount
	path   string // of its mountinfo
}

// answered is how long an answer of the daemon counts. If it dies meanwhile, what is
// attached is dead at once, and healed like all that was attached before.
const answered = 100 * time.Millisecond

// ask returns an error if the daemon at dir does not answer.
func (h *host) ask(dir string) error {
	h.mu.Lock()
	recent := h.dir == dir && time.Since(h.asked) < answered
	h.mu.Unlock()
	if recent {
		return nil
	}
	begin := time.Now()
	if err := ask(filepath.Join(dir, "proc/uptime")); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.use(dir)
	h.asked = begin
	return nil
}

// use forgets what is about another directory than dir. mu is held.
func (h *host) use(dir string) {
	if h.dir != dir {
		h.dir, h.served, h.asked = dir, nil, time.Time{}
	}
}

// files returns the paths below dir of all that the daemon there serves: the entries
// of proc, and sysDirs. That never changes in the life of a daemon's binary.
func (h *host) files(dir string) ([]string, error) {
	h.mu.Lock()
	served := h.served
	if h.dir != dir {
		served = nil
	}
	h.mu.Unlock()
	if served != nil {
		return served, nil
	}
	entries, err := os.ReadDir(filepath.Join(dir, "proc"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		served = append(served, "proc/"+e.Name())
	}
	for _, d := range sysDirs {
		if _, err := os.Lstat(filepath.Join(dir, d.path)); errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		served = append(served, d.path)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.use(dir)
	h.served = served
	return served, nil
}

// mountSpaces returns the mount namespaces of the host. Their mounts may be old.
func (h *host) mountSpaces() ([]*space, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.spaces) > 0 {
		return h.spaces, nil
	}
	self := fmt.Sprintf("%s/%d", hostProc, os.Getpid())
	all := []*space{
		{whose: "vprocfs itself", path: self, points: [2]string{"/", hostProc}},
		{whose: "the host's init", path: hostProc + "/1", points: [2]string{hostProc + "/1/root", hostProc + "/1/root/proc"}},
	}
	for i, s := range all {
		var st unix.Stat_t
		err := unix.Stat(s.path+"/ns/mnt", &st)
		if i > 0 && errors.Is(err, unix.EACCES) {
			all = all[:i] // init has more privileges than this process
			break
		}
		if err != nil {
			return nil, fmt.Errorf("stat the mount namespace of %s: %w", s.whose, err)
		}
		if s.dev, s.ino = st.Dev, st.Ino; i > 0 && s.ino == all[0].ino && s.dev == all[0].dev {
			all[0].whose = s.whose // as usual
			all = all[:i]
			break
		}
		s.path += "/mountinfo"
	}
	all[0].path = self + "/mountinfo"
	h.spaces = all
	return all, nil
}

// rootMounts returns the mounts of a space. Those at / and /proc are as they are now; the
// others may be old.
func (h *host) rootMounts(s *space) ([]mountinfo.Mount, error) {
	var tops [2]int
	for i, point := range s.points {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, point, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
			return nil, fmt.Errorf("statx %s: %w", point, err)
		}
		tops[i] = int(st.Mnt_id)
	}
	h.mu.Lock()
	mounts, fresh := s.mounts, s.mounts != nil && s.tops == tops
	h.mu.Unlock()
	if fresh {
		return mounts, nil
	}
	mounts, err := mountinfo.Load(s.path)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mounts, s.tops = mounts, tops
	return mounts, nil
}

// groups returns the peer groups of the mounts of the host as they are now.
func (h *host) groups() (map[string]bool, error) {
	spaces, err := h.mountSpaces()
	if err != nil {
		return nil, err
	}
	groups := make(map[string]bool)
	for _, s := range spaces {
		mounts, err := mountinfo.Load(s.path)
		if err != nil {
			return nil, err
		}
		for _, m := range mounts {
			if m.Shared != "" {
				groups[m.Shared] = true
			}
		}
	}
	return groups, nil
}
