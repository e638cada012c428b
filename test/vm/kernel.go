// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel is an unpacked kernel of the cache.
type kernel struct {
	image   string            // path of vmlinuz
	modules map[string]string // name, with _ for -, to the path of its .ko or .ko.xz
}

// openKernel returns the kernel of a suite, which it fetches where the cache does not have it. It holds a lock
// meanwhile, so that runs side by side fetch once and never see half a kernel.
func openKernel(ctx context.Context, cache, suite, mirror string) (*kernel, error) {
	if suite == "" || strings.ContainsAny(suite, "/ ") || suite[0] == '.' {
		return nil, fmt.Errorf("no suite: %q", suite)
	}
	cache, err := filepath.Abs(cache) // apt takes relative directories as its own
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "."+suite+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("flock %s: %w", lock.Name(), err)
	}
	dir := filepath.Join(cache, suite)
	k, err := findKernel(dir)
	if err == nil {
		return k, nil
	}
	if err := fetchKernel(ctx, dir, suite, mirror); err != nil {
		return nil, fmt.Errorf("fetch kernel: %w", err)
	}
	return findKernel(dir)
}

// findKernel looks through an unpacked kernel. Where the image lies depends on the version: boot/vmlinuz-VERSION, and
// usr/lib/modules/VERSION/vmlinuz since 7.x.
func findKernel(dir string) (*kernel, error) {
	k := &kernel{modules: map[string]string{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, ext, module := strings.Cut(d.Name(), ".ko")
		switch {
		case d.IsDir():
		case module && (ext == "" || ext == ".xz"):
			k.modules[strings.ReplaceAll(name, "-", "_")] = path
		case name == "vmlinuz" || strings.HasPrefix(name, "vmlinuz-"):
			k.image = path
		}
		return nil
	})
	if err == nil && k.image == "" {
		err = fmt.Errorf("no vmlinuz below %s", dir)
	}
	return k, err
}

// fetchKernel puts the newest cloud kernel of a suite into dir. Old point releases vanish from the mirrors, so the
// kernel is the one that the metapackage names.
func fetchKernel(ctx context.Context, dir, suite, mirror string) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".fetch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	a, err := openArchive(ctx, tmp, suite, mirror)
	if err != nil {
		return err
	}
	meta, err := a.show("linux-image-cloud-amd64")
	if err != nil {
		return err
	}
	image := regexp.MustCompile(`linux-image-(\d\S*-cloud-amd64)`).FindStringSubmatch(meta)
	if image == nil {
		return fmt.Errorf("suite %s has no cloud kernel", suite)
	}
	// In newer kernels the image package is empty and depends on two others that hold the files.
	depends, err := a.show(image[0])
	if err != nil {
		return err
	}
	names := []string{image[0]}
	for _, prefix := range []string{"linux-binary-", "linux-modules-"} {
		if name := prefix + image[1]; strings.Contains(depends, name+" ") {
			names = append(names, name)
		}
	}
	root := filepath.Join(tmp, "root")
	if err := a.unpack(root, names...); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(root, dir)
}

// load returns names and the modules that they depend on, in an order that insmod can load, as name and content.
// A name that is no file is built in, or not part of that kernel; what needs it then fails in the guest.
func (k *kernel) load(ctx context.Context, names []string) (mods []entry, err error) {
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		path, ok := k.modules[name]
		if seen[name] || !ok {
			return nil
		}
		seen[name] = true
		data, err := readModule(ctx, path)
		if err != nil {
			return err
		}
		depends, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		mods = append(mods, entry{name: name, mode: unix.S_IFREG | 0o644, data: data})
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return mods, nil
}

func readModule(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	s, err := output(ctx, "", "xz", "-dc", path)
	return []byte(s), err
}

// moduleDepends returns the depends= line of a module's .modinfo section (kernel Documentation/kbuild/modules.rst).
// The packages come without modules.dep, which depmod writes on installation.
func moduleDepends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for line := range strings.SplitSeq(string(info), "\x00") {
		if d, ok := strings.CutPrefix(line, "depends="); ok && d != "" {
			return strings.Split(d, ","), nil
		}
	}
	return nil, nil
}

// output runs a command in dir and returns its standard output.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	return outputOf(cmd)
}

// outputOf runs a command and returns its standard output. The error carries the last line of its standard error, and
// says which command is missing.
func outputOf(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("%s is not installed", cmd.Args[0])
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return "", fmt.Errorf("%s: %w: %s", cmd.Args[0], err, lines[len(lines)-1])
	}
	return stdout.String(), nil
}
