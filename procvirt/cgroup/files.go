package cgroup

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// notEnabled is the error for a group, the first of dirs, that does not have a file.
func notEnabled(dirs []string, file string) error {
	if len(dirs) == 0 {
		return fmt.Errorf("%s: %w", file, ErrNotEnabled)
	}
	return fmt.Errorf("%s/%s: %w", dirs[0], file, ErrNotEnabled)
}

// checkRemoved returns ErrRemoved if the group, the first of dirs, is gone.
func checkRemoved(dirs []string) error {
	if len(dirs) > 0 && !isDir(dirs[0]) {
		return fmt.Errorf("%s: %w", dirs[0], ErrRemoved)
	}
	return nil
}

// openOwn opens a file of the group, the first of dirs. It returns ErrRemoved if the
// group is gone, and nil without an error if it does not have the file.
func openOwn(o *held.Opener, dirs []string, file string) (*held.File, error) {
	if len(dirs) == 0 {
		return nil, nil
	}
	f, err := openOptional(o, dirs[0]+"/"+file)
	if f == nil && err == nil {
		err = checkRemoved(dirs)
	}
	return f, err
}

// openOptional opens path, and returns nil without an error where there is no
// such file: the controller is not enabled there, or the kernel is older.
func openOptional(o *held.Opener, path string) (*held.File, error) {
	return openOptionalAt(o, 0, path)
}

// openOptionalAt is openOptional with openAt.
func openOptionalAt(o *held.Opener, level int, path string) (*held.File, error) {
	f, err := openAt(o, level, path)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return f, err
}

// openAt opens a file of the group that is so many levels above the container's
// own. Other containers are in that group too, and share the file.
func openAt(o *held.Opener, level int, path string) (*held.File, error) {
	if level == 0 {
		return o.Open(path)
	}
	return o.OpenShared(path)
}

// readUint reads a file of one number.
func readUint(f *held.File, v *uint64, buf []byte) ([]byte, error) {
	b, err := f.Read(buf)
	if err != nil {
		return buf, err
	}
	n := 0
	if *v, n = scan.Uint(b); n == 0 {
		return b, fmt.Errorf("%s: not a number: %q", f.Path(), b[:min(len(b), 40)])
	}
	return b, nil
}

// readMin lowers v to the limit in the file, if it is open. "max" is none.
func readMin(f *held.File, v *uint64, buf []byte) ([]byte, error) {
	if f == nil {
		return buf, nil
	}
	b, err := f.Read(buf)
	if err != nil {
		return buf, err
	}
	if bytes.HasPrefix(b, []byte("max")) {
		return b, nil
	}
	limit, n := scan.Uint(b)
	if n == 0 {
		return b, fmt.Errorf("%s: neither a number nor max: %q", f.Path(), b[:min(len(b), 40)])
	}
	*v = min(*v, v1Limit(limit))
	return b, nil
}
