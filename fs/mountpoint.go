package fs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probeTimeout is how long another mount may take to answer before it counts as
// hung. It is generous: it delays only the start of a daemon that will be
// refused.
const probeTimeout = 2 * time.Second

// clearMountPoint returns the absolute path of dir without symbolic links, once
// it is a directory with nothing mounted on it. It detaches dead mounts of type
// fsType from it.
func clearMountPoint(dir, fsType string) (string, error) {
	for {
		var path string
		var fd int
		err := withTimeout(func() (err error) {
			path, fd, err = resolveDir(dir)
			return err
		})
		if err != nil {
			return "", err
		}
		mounted, err := mountedType(path)
		if err == nil && mounted != "" {
			err = probe(fd, path, mounted, fsType)
		} else {
			unix.Close(fd)
		}
		if err != nil {
			return "", err
		}
		if mounted == "" {
			return path, nil
		}
		if err := Unmount(path); err != nil {
			return "", fmt.Errorf("replace the mount of a dead daemon: %w", err)
		}
	}
}

// resolveDir opens dir with O_PATH, which sends no request to the file system
// mounted on it, and returns the path the kernel has for it.
func resolveDir(dir string) (path string, fd int, err error) {
	fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", -1, err
	}
	path, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		unix.Close(fd)
		return "", -1, err
	}
	return path, fd, nil
}

// probe returns nil if the mount behind fd is of type fsType and its daemon is
// dead. It closes fd. It asks with fstatfs(2), because stat(2) of a dead mount
// may still be answered from the kernel's cache.
func probe(fd int, path, mounted, fsType string) error {
	if mounted != fsType {
		unix.Close(fd)
		return fmt.Errorf("%w (type %s)", ErrMounted, mounted)
	}
	err := withTimeout(func() error {
		defer unix.Close(fd)
		var st unix.Statfs_t
		return unix.Fstatfs(fd, &st)
	})
	switch {
	case err == nil:
		return fmt.Errorf("%w (type %s)", ErrMounted, mounted)
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		return nil
	default:
		return fmt.Errorf("statfs %s: %w", path, err)
	}
}

// withTimeout runs f in a goroutine of its own and returns ErrMountHung where f
// does not return in time. f's goroutine then lives for as long as the mount
// that holds it: there is no way to call a system call back.
func withTimeout(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(probeTimeout):
		return ErrMountHung
	}
}

// mountedType returns the type of the topmost mount on path, "" where there is
// none.
func mountedType(path string) (string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	fsType, _ := findMount(string(info), path)
	return fsType, nil
}

// findMount looks path up in the text of /proc/PID/mountinfo (man 5 proc):
//
//	36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// The last line for a mount point is the topmost mount.
func findMount(mountinfo, path string) (fsType string, dev uint64) {
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if len(fields) < 6 || unescape(fields[4]) != path {
			continue
		}
		fsType, _, _ = strings.Cut(after, " ")
		major, minor, _ := strings.Cut(fields[2], ":")
		dev = unix.Mkdev(number(major), number(minor))
	}
	return unescape(fsType), dev
}

func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32) // the kernel's own text
	return uint32(n)
}

// unescape decodes the octal escapes of fs/proc_namespace.c: \040 space, \011
// tab, \012 newline, \134 backslash, \043 hash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
