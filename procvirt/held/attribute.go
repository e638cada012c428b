// SPDX-License-Identifier: Apache-2.0

package held

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxAttribute is the longest value that Attribute returns, in bytes.
const MaxAttribute = 4096

// Attribute appends the value of an extended attribute of the file to buf. name must
// end in a NUL byte. It appends nothing if there is no such attribute, if this process
// may not see it (trusted.* wants CAP_SYS_ADMIN in the initial user namespace), or if
// the file system has none at all. It does not allocate if buf has room for
// MaxAttribute bytes.
//
// A longer value is the error ERANGE. The kernel returns the last value also of a
// directory that is removed.
func (f *File) Attribute(name, buf []byte) ([]byte, error) {
	// Most files have none. Asked for the length only, the kernel allocates no memory.
	_, _, errno := unix.Syscall6(unix.SYS_FGETXATTR, uintptr(f.fd), uintptr(unsafe.Pointer(&name[0])), 0, 0, 0, 0)
	if errno == unix.ENODATA || errno == unix.EOPNOTSUPP {
		return buf, nil
	}
	n := len(buf)
	if cap(buf)-n < MaxAttribute {
		buf = append(make([]byte, 0, n+2*MaxAttribute), buf...)
	}
	room := buf[:n+MaxAttribute]
	size, _, errno := unix.Syscall6(unix.SYS_FGETXATTR, uintptr(f.fd), uintptr(unsafe.Pointer(&name[0])),
		uintptr(unsafe.Pointer(&room[n])), MaxAttribute, 0, 0)
	switch errno {
	case 0:
		return room[:n+int(size)], nil
	case unix.ENODATA, unix.EOPNOTSUPP:
		return buf, nil
	}
	return buf, &ReadError{f.path, errno}
}

// Has reports whether the directory has an entry. name must end in a NUL byte. It does
// not allocate.
func (f *File) Has(name []byte) bool {
	_, _, errno := unix.Syscall(unix.SYS_FACCESSAT, uintptr(f.fd), uintptr(unsafe.Pointer(&name[0])), unix.F_OK)
	return errno == 0
}
