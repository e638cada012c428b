// SPDX-License-Identifier: Apache-2.0

package seccomptest

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// gate is machine code in the lowest 2 GiB, and words behind it: int $0x80 takes addresses
// of 32 bits, and Go has no other way to it.
var gate = sync.OnceValue(func() []byte {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_32BIT)
	if err != nil {
		panic(err)
	}
	words := uint32(uintptr(unsafe.Pointer(&b[gateWords])))
	code := []byte{0x53} // push %rbx
	for i, load := range [][]byte{
		{0x8b, 0x04, 0x25}, // mov WORD, %eax
		{0x8b, 0x1c, 0x25}, // %ebx
		{0x8b, 0x0c, 0x25}, // %ecx
		{0x8b, 0x14, 0x25}, // %edx
	} {
		code = binary.LittleEndian.AppendUint32(append(code, load...), words+uint32(4*i))
	}
	code = append(code, 0xcd, 0x80)                                                    // int $0x80
	code = binary.LittleEndian.AppendUint32(append(code, 0x89, 0x04, 0x25), words+4*4) // mov %eax, WORD
	copy(b, append(code, 0x5b, 0xc3))                                                  // pop %rbx; ret
	return b
})

const gateWords = 1024

var gateMu sync.Mutex

// call32 makes a system call of the table of i386.
func call32(args [7]uintptr) (int, unix.Errno) {
	gateMu.Lock()
	defer gateMu.Unlock()
	b := gate()
	for i := range 4 {
		binary.LittleEndian.PutUint32(b[gateWords+4*i:], uint32(args[i]))
	}
	// A func value points to a word that has the address of the code.
	entry := unsafe.Pointer(&b[0])
	closure := unsafe.Pointer(&entry)
	(*(*func())(unsafe.Pointer(&closure)))()
	r := int32(binary.LittleEndian.Uint32(b[gateWords+16:]))
	if r < 0 && r > -4096 {
		return -1, unix.Errno(-r)
	}
	return int(r), 0
}

// Has32 reports whether programs of i386 run here.
func Has32(tb testing.TB) bool {
	tb.Helper()
	const address, status = 0x10000, 42
	le := binary.LittleEndian
	// A file header, a program header and code (elf(5)).
	b := []byte("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, n := range []uint16{2, 3} { // ET_EXEC, EM_386
		b = le.AppendUint16(b, n)
	}
	for _, n := range []uint32{1, address + 84, 52, 0, 0} {
		b = le.AppendUint32(b, n)
	}
	for _, n := range []uint16{52, 32, 1, 40, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	for _, n := range []uint32{1, 0, address, address, 96, 96, 5, 4096} { // PT_LOAD, readable and executable
		b = le.AppendUint32(b, n)
	}
	b = append(b, 0xb8, 1, 0, 0, 0, 0xbb, status, 0, 0, 0, 0xcd, 0x80) // exit(42)
	path := filepath.Join(tb.TempDir(), "exit32")
	if err := os.WriteFile(path, b, 0o700); err != nil {
		tb.Fatal(err)
	}
	err := exec.Command(path).Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.ExitCode() == status
}
