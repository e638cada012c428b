// SPDX-License-Identifier: Apache-2.0

// Package mountinfo parses /proc/PID/mountinfo (proc_pid_mountinfo(5)).
//
// github.com/moby/sys/mountinfo v0.7.3 does not fit: it fails for the whole file
// if one line is longer than 64 KiB. A container needs no privilege on the host to
// make such a line. A tmpfs below 80 directories whose names are 255 backslashes
// makes one of 81,723 bytes.
package mountinfo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one line of mountinfo.
type Mount struct {
	ID, Parent int
	Dev        uint64 // st_dev of the files on it
	Root       string // which directory or file of the file system is mounted
	Point      string // where, below the root directory of the process
	FSType     string // with the subtype: "fuse.lxcfs"
	Options    string // of the superblock, separated by commas
	// Shared is the number of the peer group that mounts and unmounts on this
	// mount propagate to. It is empty if the mount is not shared.
	Shared string
}

// maxSize bounds what Read reads, in bytes. The kernel allows 100,000 mounts in a
// mount namespace by default (fs.mount-max).
const maxSize = 64 << 20

// Read returns the text of the mountinfo file at path. It never waits for a file
// system: the kernel makes the text from its own memory. A text above 64 MiB is an
// error.
func Read(path string) ([]byte, error) { return readAtMost(path, maxSize) }

func readAtMost(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > size {
		return nil, fmt.Errorf("read %s: more than %d bytes", path, size)
	}
	return text, nil
}

// Load reads and parses the mountinfo file at path.
func Load(path string) ([]Mount, error) {
	text, err := Read(path)
	if err != nil {
		return nil, err
	}
	mounts, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return mounts, nil
}

// LoadFD reads the mountinfo file with descriptor fd from its beginning, and parses it.
func LoadFD(fd int) ([]Mount, error) {
	// Each read returns a page at most.
	text := make([]byte, 0, 16<<10)
	for {
		if len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
		n, err := unix.Pread(fd, text[len(text):cap(text)], int64(len(text)))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read mountinfo: %w", err)
		case n == 0:
			return Parse(text)
		}
		if text = text[:len(text)+n]; len(text) > maxSize {
			return nil, fmt.Errorf("read mountinfo: more than %d bytes", maxSize)
		}
	}
}

// ErrMalformed is returned by Parse for a text that is no mountinfo.
var ErrMalformed = errors.New("malformed mountinfo")

// Parse returns the mounts of a mountinfo, in the order of its lines. Of several
// mounts at one point the last is the topmost.
func Parse(text []byte) ([]Mount, error) {
	mounts := make([]Mount, 0, bytes.Count(text, []byte("\n")))
	for line := range strings.Lines(string(text)) {
		m, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(mounts)+1, err)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// parseLine parses one line:
//
//	36 35 98:0 /root /mnt rw,noatime shared:1 master:2 - ext3 /dev/root rw
func parseLine(line string) (m Mount, err error) {
	before, after, ok := strings.Cut(line, " - ")
	var f [6]string // the fields before the optional ones
	rest, more := before, true
	for i := range f {
		if !more {
			return m, ErrMalformed
		}
		f[i], rest, more = strings.Cut(rest, " ")
	}
	fsType, after, okType := strings.Cut(after, " ")
	_, options, okSource := strings.Cut(after, " ")
	if !ok || !okType || !okSource {
		return m, ErrMalformed
	}
	major, minor, _ := strings.Cut(f[2], ":")
	var numbers [4]int
	for i, s := range [...]string{f[0], f[1], major, minor} {
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return m, ErrMalformed
		}
		numbers[i] = int(n)
	}
	m = Mount{
		ID:      numbers[0],
		Parent:  numbers[1],
		Dev:     unix.Mkdev(uint32(numbers[2]), uint32(numbers[3])),
		Root:    unescape(f[3]),
		Point:   unescape(f[4]),
		FSType:  unescape(fsType),
		Options: options,
	}
	for option := range strings.SplitSeq(rest, " ") {
		if group, ok := strings.CutPrefix(option, "shared:"); ok {
			m.Shared = group
		}
	}
	return m, nil
}

// Top returns the topmost mount at point.
func Top(mounts []Mount, point string) (top Mount, ok bool) {
	for _, m := range mounts {
		if m.Point == point {
			top, ok = m, true
		}
	}
	return top, ok
}

// unescape replaces the octal escapes of fs/proc_namespace.c, such as \040 for a
// space, by what they stand for.
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
