package attach

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// mount is one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id, parent int
	dev        string // major:minor of the superblock
	root       string // what of the file system is mounted
	point      string // where, as the process sees it
	fsType     string
	// groups are the peer groups that mounts on it reach ("shared:1") or come
	// from ("master:1"), by number.
	shared, master string
}

// maxMountinfo bounds what is read of one mountinfo, in bytes. The kernel's own
// bound (fs.mount-max) is 100,000 mounts for a namespace.
const maxMountinfo = 64 << 20

// readMountinfo returns the text of the mountinfo of process pid. It never hangs:
// nothing in it is asked of a file system.
func readMountinfo(proc string, pid int) ([]byte, error) {
	path := filepath.Join(proc, strconv.Itoa(pid), "mountinfo")
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMountinfo+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxMountinfo {
		return nil, fmt.Errorf("read %s: more than %d MiB", path, maxMountinfo>>20)
	}
	return text, nil
}

// mentions tells whether a mount of one of our types is in the text: few
// namespaces have one, so the others need not be parsed.
func mentions(text []byte) bool {
	return slices.ContainsFunc(types, func(t string) bool {
		return bytes.Contains(text, []byte(" - "+t+" "))
	})
}

var errMountinfo = errors.New("malformed mountinfo")

// parseMounts parses the text of a mountinfo:
//
//	36 35 98:0 /root /mnt rw,noatime shared:1 master:2 - ext3 /dev/root rw
func parseMounts(text []byte) ([]mount, error) {
	mounts := make([]mount, 0, bytes.Count(text, []byte("\n")))
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if !ok || len(f) < 6 {
			return nil, errMountinfo
		}
		m := mount{dev: f[2], root: unescape(f[3]), point: unescape(f[4])}
		var err1, err2 error
		m.id, err1 = strconv.Atoi(f[0])
		m.parent, err2 = strconv.Atoi(f[1])
		if err1 != nil || err2 != nil {
			return nil, errMountinfo
		}
		for _, option := range f[6:] {
			if group, ok := strings.CutPrefix(option, "shared:"); ok {
				m.shared = group
			}
			if group, ok := strings.CutPrefix(option, "master:"); ok {
				m.master = group
			}
		}
		fsType, _, _ := strings.Cut(after, " ")
		m.fsType = unescape(fsType)
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// unescape decodes the octal escapes of fs/proc_namespace.c, such as \040 for a
// space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b = append(b, byte(c))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// table finds mounts by their ids.
type table map[int]mount

func newTable(mounts []mount) table {
	t := make(table, len(mounts))
	for _, m := range mounts {
		t[m.id] = m
	}
	return t
}

// below returns the mount that m is mounted on at last, past those that share its
// mount point with it: that of the procfs for any mount on /proc/uptime.
func (t table) below(m mount) (mount, bool) {
	for range len(t) { // a cycle is not for the kernel to make
		p, ok := t[m.parent]
		if !ok {
			return mount{}, false
		}
		if p.point != m.point {
			return p, true
		}
		m = p
	}
	return mount{}, false
}

// candidate returns the path below a root ("proc/uptime") of the file of procfs
// or sysfs that m, a mount of one of our types, covers.
func (t table) candidate(m mount) (string, bool) {
	if !slices.Contains(types, m.fsType) {
		return "", false
	}
	p, ok := t.below(m)
	if !ok || p.root != "/" {
		return "", false
	}
	rel, ok := strings.CutPrefix(m.point, strings.TrimSuffix(p.point, "/")+"/")
	switch {
	case !ok:
		return "", false
	case p.fsType == "proc":
		return "proc/" + rel, true
	case p.fsType == "sysfs":
		return "sys/" + rel, true
	}
	return "", false
}

// hasBelow tells whether anything is mounted below the directory point.
func hasBelow(mounts []mount, point string) bool {
	return slices.ContainsFunc(mounts, func(m mount) bool { return strings.HasPrefix(m.point, point+"/") })
}
