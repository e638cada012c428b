// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// files are files that are opened one after the other and closed together. After an
// error the methods open nothing more and return nil.
type files struct {
	opener *held.Opener
	open   []*held.File
	err    error
}

// Close closes the files.
func (f *files) Close() {
	for _, file := range f.open {
		file.Close()
	}
	f.open = nil
}

// opened returns source, whose files are f. It closes them and returns nil if one
// could not be opened.
func opened[T any](source *T, f *files) (*T, error) {
	if f.err != nil {
		f.Close()
		return nil, f.err
	}
	return source, nil
}

func (f *files) add(file *held.File, err error) *held.File {
	if f.err = err; file != nil {
		f.open = append(f.open, file)
	}
	return file
}

// must opens a file of the group that is so many levels above the container's own.
func (f *files) must(level int, path string) *held.File {
	if f.err != nil {
		return nil
	}
	return f.add(openAt(f.opener, level, path))
}

// optional is must, but returns nil without an error if there is no such file.
func (f *files) optional(level int, path string) *held.File {
	if f.err != nil {
		return nil
	}
	return f.add(openOptionalAt(f.opener, level, path))
}

// own opens a file of the group, the first of dirs. The error is ErrRemoved if the
// group is gone. It returns nil without an error if the group does not have the file.
func (f *files) own(dirs []string, name string) *held.File {
	if len(dirs) == 0 {
		return nil
	}
	file := f.optional(0, dirs[0]+"/"+name)
	if file == nil && f.err == nil {
		f.err = checkRemoved(dirs)
	}
	return file
}

// counted is own for a file that every group of the hierarchy has.
func (f *files) counted(dirs []string, name string) *held.File {
	file := f.own(dirs, name)
	if file == nil && f.err == nil {
		f.err = notEnabled(dirs, name)
	}
	return file
}

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

// openOptionalAt is openAt, but returns nil without an error if there is no such file:
// the controller is not enabled there, or the kernel is older.
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

// reader reads files one after the other into buf, which it replaces by a larger one
// if needed. After an error it reads nothing more and returns what stands for nothing:
// an empty text, 0, no limit.
type reader struct {
	buf []byte
	err error
}

// text returns the text of a file, valid until the next call.
func (r *reader) text(f *held.File) []byte {
	if r.err != nil {
		return nil
	}
	b, err := f.Read(r.buf)
	if err != nil {
		r.err = err
		return nil
	}
	r.buf = b
	return b
}

// bad notes that the text of f is not what it should be.
func (r *reader) bad(f *held.File, want string, text []byte) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: not %s: %q", f.Path(), want, text[:min(len(text), 80)])
	}
}

// number reads a file of one number.
func (r *reader) number(f *held.File) uint64 {
	text := r.text(f)
	v, n := scan.Uint(text)
	if n == 0 {
		r.bad(f, "a number", text)
	}
	return v
}

// limit reads a file of one limit. It is NoLimit if f is nil.
func (r *reader) limit(f *held.File) uint64 {
	if f == nil {
		return NoLimit
	}
	text := r.text(f)
	if bytes.HasPrefix(text, []byte("max")) {
		return NoLimit
	}
	v, n := scan.Uint(text)
	if n == 0 {
		r.bad(f, "a number or max", text)
		return NoLimit
	}
	return v1Limit(v)
}
