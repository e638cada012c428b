// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed init.sh
var initScript []byte

// entry is a file of the initramfs.
type entry struct {
	name         string // relative to /, clean
	mode         uint32 // as in struct stat, with the type
	data         []byte // content, or target of a symbolic link
	major, minor uint32 // of a device
}

// tree is an initramfs by path; a later file replaces an earlier one.
type tree map[string]entry

// put adds an entry and the directories above it.
func (t tree) put(e entry) {
	for d := path.Dir(e.name); d != "."; d = path.Dir(d) {
		if _, ok := t[d]; !ok {
			t[d] = entry{name: d, mode: unix.S_IFDIR | 0o755}
		}
	}
	t[e.name] = e
}

func (t tree) file(name string, mode uint32, data []byte) {
	t.put(entry{name: name, mode: unix.S_IFREG | mode, data: data})
}

func (t tree) link(name, target string) {
	t.put(entry{name: name, mode: unix.S_IFLNK | 0o777, data: []byte(target)})
}

// carry adds a file, or a directory with all below it, of this machine.
func (t tree) carry(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		name := path.Join(to, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			t.put(entry{name: name, mode: unix.S_IFDIR | 0o755})
			return nil
		case p != from && d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err == nil {
				t.link(name, target)
			}
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		t.file(name, uint32(info.Mode().Perm()), data)
		return static(p, data)
	})
}

// static refuses programs that the guest could not start: it has no shared libraries.
func static(name string, data []byte) error {
	if !strings.HasPrefix(string(data), elf.ELFMAG) {
		return nil
	}
	f, err := elf.NewFile(strings.NewReader(string(data)))
	if err != nil {
		return nil // a test file that only looks like one
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs shared libraries; build it with CGO_ENABLED=0, or put it on a -disk", name)
		}
	}
	return nil
}

// buildTree makes the guest's root: busybox, modules, what c carries, and the command to run.
func buildTree(ctx context.Context, c config, k *kernel, token string) (tree, error) {
	t := tree{}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "root", "mnt", "newroot", "out", "data", "t", "var/lib"} {
		t.put(entry{name: d, mode: unix.S_IFDIR | 0o755})
	}
	// The kernel opens it for PID 1 before devtmpfs is mounted.
	t.put(entry{name: "dev/console", mode: unix.S_IFCHR | 0o600, major: 5, minor: 1})
	if err := addBusybox(ctx, t); err != nil {
		return nil, err
	}
	t.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	t.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	t.file("init", 0o755, initScript)

	var env strings.Builder
	names := append([]string{"fuse"}, strings.Fields(c.modules)...)
	if c.disk != "" || c.out != "" {
		names = append(names, "virtio_pci", "virtio_blk")
	}
	if c.disk != "" {
		names = append(names, "crc32c_generic", "ext4") // ext4 asks for crc32c by name, not by dependency
		if c.debian {
			env.WriteString("ROOT=/dev/vda\n")
			if c.systemd {
				env.WriteString("SYSTEMD=1\n")
			}
		} else {
			env.WriteString("DISK=/dev/vda\n")
		}
	}
	if c.out != "" {
		dev := "/dev/vda"
		if c.disk != "" {
			dev = "/dev/vdb"
		}
		env.WriteString("OUT=" + dev + "\n")
	}
	if c.swap != 0 {
		names = append(names, "lzo_rle", "lzo", "zram")
	}
	modules, err := k.load(ctx, names)
	if err != nil {
		return nil, err
	}
	var order []string
	for _, m := range modules {
		order = append(order, m.name)
		m.name = "modules/" + m.name + ".ko"
		t.put(m)
	}
	fmt.Fprintf(&env, "CGROUP=%s\nSWAP=%d\nTOKEN=%s\nMODULES='%s'\n", c.cgroup, c.swap, token, strings.Join(order, " "))
	t.file("env", 0o644, []byte(env.String()))

	for _, f := range c.files {
		from, to, ok := strings.Cut(f, ":")
		if !ok {
			to = "t/" + filepath.Base(from)
		}
		if err := t.carry(from, strings.TrimPrefix(path.Clean("/"+to), "/")); err != nil {
			return nil, err
		}
	}
	command := append([]string(nil), c.command...)
	if strings.Contains(command[0], "/") {
		to := "t/" + filepath.Base(command[0])
		if err := t.carry(command[0], to); err != nil {
			return nil, err
		}
		command[0] = "/" + to
	}
	for i, a := range command {
		command[i] = quote(a)
	}
	t.file("command", 0o755, []byte("#!/bin/sh\nexec "+strings.Join(command, " ")+"\n"))
	return t, nil
}

// quote makes one word of a shell command of s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// addBusybox puts busybox into /bin, with a link for each of its applets.
func addBusybox(ctx context.Context, t tree) error {
	bin, err := exec.LookPath("busybox")
	if err != nil {
		return errors.New("busybox is not installed (package busybox-static)")
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	if err := static(bin, data); err != nil {
		return err
	}
	applets, err := output(ctx, "", bin, "--list")
	if err != nil {
		return err
	}
	for _, a := range strings.Fields(applets) {
		t.link("bin/"+a, "busybox")
	}
	t.file("bin/busybox", 0o755, data)
	for _, d := range []string{"sbin", "usr/bin", "usr/sbin"} {
		t.link(d, "/bin")
	}
	return nil
}

// writeTo writes the tree as an uncompressed cpio archive of the "new ASCII" format (kernel
// Documentation/driver-api/early-userspace/buffer-format.rst). All files belong to root.
func (t tree) writeTo(w io.Writer) error {
	names := make([]string, 0, len(t))
	for n := range t {
		names = append(names, n)
	}
	sort.Strings(names) // a directory comes before what it holds
	for i, n := range names {
		if err := writeEntry(w, uint32(i+1), t[n]); err != nil {
			return err
		}
	}
	return writeEntry(w, 0, entry{name: "TRAILER!!!"})
}

func writeEntry(w io.Writer, inode uint32, e entry) error {
	pad := func(n int) string { return "\x00\x00\x00"[:-n&3] }
	name := e.name + "\x00"
	// inode mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, e.major, e.minor, len(name), 0)
	if _, err := io.WriteString(w, header+name+pad(len(header)+len(name))); err != nil {
		return err
	}
	if _, err := w.Write(e.data); err != nil {
		return err
	}
	_, err := io.WriteString(w, pad(len(e.data)))
	return err
}
