// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// runReader runs the tools that read the view in ways of their own; other is
// what any other name gives.
func runReader(tool string, args []string, other error) error {
	switch tool {
	case "watch":
		return watch(args[0], args[1])
	case "through":
		return through(args[0])
	case "readfile":
		return readWhole(args)
	case "sizehint":
		return readBySize(args)
	}
	return other
}

// through holds path open, and for each line of its input, the name of a way to
// read, prints what that way gives of it, or an error, and a line ".".
func through(path string) error {
	ways := map[string]func(f *os.File, to *os.File) error{
		"read":            readWay,
		"sendfile":        sendfileWay,
		"splice":          spliceWay,
		"copy_file_range": copyFileRangeWay,
		"mmap":            mmapWay,
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fd, err := unix.MemfdCreate("copy", unix.MFD_CLOEXEC)
		if err != nil {
			return err
		}
		to := os.NewFile(uintptr(fd), "copy")
		err = ways[in.Text()](f, to)
		b := make([]byte, 1<<20)
		n, _ := to.ReadAt(b, 0) // the end of the file is not an error
		to.Close()
		if err != nil {
			fmt.Printf("error: %v\n", err)
		}
		fmt.Printf("%s.\n", b[:n])
	}
	return nil
}

// copySize is more than any file of a test machine has.
const copySize = 1 << 18

func readWay(f, to *os.File) error {
	b := make([]byte, copySize)
	n, err := unix.Pread(int(f.Fd()), b, 0)
	if err != nil {
		return err
	}
	_, err = to.Write(b[:n])
	return err
}

func sendfileWay(f, to *os.File) error {
	offset := int64(0)
	for {
		n, err := unix.Sendfile(int(to.Fd()), int(f.Fd()), &offset, copySize)
		if err != nil || n == 0 {
			return err
		}
	}
}

func spliceWay(f, to *os.File) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	offset := int64(0)
	for {
		n, err := unix.Splice(int(f.Fd()), &offset, int(w.Fd()), nil, 4096, 0)
		if err != nil || n == 0 {
			return err
		}
		if _, err := io.CopyN(to, r, n); err != nil {
			return err
		}
	}
}

func copyFileRangeWay(f, to *os.File) error {
	offset := int64(0)
	for {
		n, err := unix.CopyFileRange(int(f.Fd()), &offset, int(to.Fd()), nil, copySize, 0)
		if err != nil || n == 0 {
			return err
		}
	}
}

// mmapWay copies one page from memory, which the kernel fills from the page
// cache. Touching a page that cannot be filled is a SIGBUS.
func mmapWay(f, to *os.File) (err error) {
	// Fill the page cache if that can be done.
	_ = unix.Fadvise(int(f.Fd()), 0, 4096, unix.FADV_WILLNEED)
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(b)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errors.New("SIGBUS")
		}
	}()
	page := bytes.TrimRight(bytes.Clone(b), "\x00")
	_, err = to.Write(page)
	return err
}

// readWhole prints each path as Go programs read it, and a NUL behind it.
func readWhole(paths []string) error {
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Printf("%s\x00", b)
	}
	return nil
}

// readBySize prints each path as the JVM's Files.readAllBytes reads it, and a NUL
// behind it: a buffer of the size that fstat(2) gives is filled first, and then
// comes a read for what the file may have grown by.
func readBySize(paths []string) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		b := make([]byte, info.Size())
		n, err := io.ReadFull(f, b)
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		rest, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		f.Close()
		fmt.Printf("%s%s\x00", b[:n], rest)
	}
	return nil
}
