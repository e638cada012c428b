// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// dirent is an entry of a directory of the host.
type dirent struct {
	ino uint64
	// off is where the directory goes on behind the entry. In sysfs it comes
	// from the names (kernfs_name_hash), so it is the same at every opening.
	off  int64
	mode uint32 // the type bits of st_mode
	name string
}

// direntFixed is the size of struct linux_dirent64 before its name: d_ino, d_off,
// d_reclen, d_type.
const direntFixed = 19

// nextDirent takes the first entry from what getdents64(2) has filled b with; ok
// is false at the end.
func nextDirent(b []byte) (d dirent, rest []byte, ok bool) {
	if len(b) < direntFixed {
		return d, nil, false
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size < direntFixed || size > len(b) {
		return d, nil, false
	}
	name := b[direntFixed:size]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	d.ino = binary.NativeEndian.Uint64(b)
	d.off = int64(binary.NativeEndian.Uint64(b[8:]))
	d.mode = uint32(b[18]) << 12 // DT_DIR is S_IFDIR>>12, and so on
	d.name = string(name)
	return d, b[size:], true
}

// readDir calls each with the entries of the directory at path from the offset
// off on, "." and ".." among them, until it returns false.
func (t *HostTree) readDir(path string, off int64, each func(dirent) bool) error {
	fd, err := t.open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if off != 0 {
		if _, err := unix.Seek(fd, off, unix.SEEK_SET); err != nil {
			return err
		}
	}
	buf := make([]byte, requestSize)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return err
		}
		for rest := buf[:n]; ; {
			d, next, ok := nextDirent(rest)
			if !ok {
				break
			}
			if shown(d.mode) && !each(d) {
				return nil
			}
			rest = next
		}
	}
}

// list returns the entries of the directory at path, but for "." and "..".
func (t *HostTree) list(path string) (entries []dirent, err error) {
	err = t.readDir(path, 0, func(d dirent) bool {
		entries = append(entries, d)
		return true
	})
	entries = slices.DeleteFunc(entries, func(d dirent) bool { return d.name == "." || d.name == ".." })
	return entries, err
}
