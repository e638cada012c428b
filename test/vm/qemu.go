// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// outSize is the room for what a guest leaves in /out, in bytes. The file is sparse.
const outSize = 256 << 20

// commandLine: PID 1's console is the first serial line. Under load the guest measures its TSC wrongly and its clock runs
// many times too fast, so it gets another one, and its check of the timer at boot finds none and panics ("IO-APIC + timer
// doesn't work!", seen with 5.10), so there is no check. mitigations=off: TCG is slow enough.
const commandLine = "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr mitigations=off random.trust_cpu=on tsc=unstable clocksource=hpet no_timer_check"

// boot runs c's command in a guest, writes its output to w and returns its exit status. The error is
// context.DeadlineExceeded when the guest took longer than c.timeout. Safe for concurrent use.
func boot(ctx context.Context, c config, w io.Writer) (status int, err error) {
	k, err := openKernel(ctx, c.kernels, c.suite, c.mirror)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	token := "vm-" + rand.Text() // nothing else on the console looks like it
	t, err := buildTree(ctx, c, k, token)
	if err != nil {
		return 0, err
	}
	args, err := qemuArgs(c, k, t, dir)
	if err != nil {
		return 0, err
	}
	end := fmt.Errorf("no end after %s: %w", c.timeout, context.DeadlineExceeded)
	bounded, cancel := context.WithTimeoutCause(ctx, c.timeout, end)
	defer cancel()
	qemuErr := runQEMU(bounded, args, w)
	console, err := os.ReadFile(filepath.Join(dir, "console"))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // QEMU did not get as far
		return 0, err
	}
	report := regexp.MustCompile(token + ` (?:status (\d+)|(failed: .*?))\r?\n`).FindSubmatch(console)
	switch {
	case report != nil && len(report[2]) != 0:
		return 0, fmt.Errorf("guest %s", report[2])
	case report != nil:
		if status, err = strconv.Atoi(string(report[1])); err != nil {
			return 0, fmt.Errorf("guest status: %w", err)
		}
	case bounded.Err() != nil:
		return 0, withConsole(context.Cause(bounded), console)
	case qemuErr != nil:
		return 0, qemuErr
	default:
		return 0, withConsole(errors.New("guest ended without a status"), console)
	}
	if c.out != "" {
		return status, unpack(filepath.Join(dir, "out"), c.out)
	}
	return status, nil
}

// withConsole adds the end of the guest's console to an error.
func withConsole(err error, console []byte) error {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(console), "\r", "")), "\n")
	return fmt.Errorf("%w; end of its console:\n%s", err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
}

// qemuArgs writes the guest's initramfs and disks to dir and returns QEMU's arguments.
func qemuArgs(c config, k *kernel, t tree, dir string) ([]string, error) {
	initramfs := filepath.Join(dir, "initramfs")
	f, err := os.Create(initramfs)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(t.writeTo(f), f.Close()); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	args := []string{
		"-M", "pc,usb=off,vmport=off", "-nodefaults", "-no-user-config", "-nic", "none", "-display", "none", "-no-reboot",
		// A socket for each node: the kernel warns about CPUs that share a cache and not a node.
		"-smp", fmt.Sprintf("%d,sockets=%d", c.cpus, c.nodes), "-m", strconv.Itoa(c.memory),
		"-serial", "file:" + filepath.Join(dir, "console"), "-serial", "stdio",
		"-kernel", k.image, "-initrd", initramfs, "-append", commandLine + " " + c.append,
	}
	if c.nodes > 1 {
		args = append(args, numaArgs(c)...)
	}
	switch c.accel {
	case "tcg":
		// QEMU before 8.1 (Debian 12 has 7.2.22), with a thread for each CPU, may run a breakpoint that the guest's kernel has
		// taken away again. The kernel patches its code so when a static key flips, as the scheduler's does with the first and
		// the last CPU quota of the machine, and dies then ("Oops: int3"): under load within 4 s of such flips, in 4 guests of
		// 4, and with one thread for all CPUs in none of 60 s. Guests go two at a time, and take no longer so.
		// Without la57 the guest has 4 levels of page tables, which is quicker.
		args = append(args, "-accel", "tcg,thread=single,tb-size=256", "-cpu", "max,la57=off")
	default:
		args = append(args, "-accel", c.accel, "-cpu", "host")
	}
	drive := func(id, file, options string) error {
		file, err := filepath.Abs(file)
		args = append(args, "-drive", "if=none,format=raw,id="+id+",file="+strings.ReplaceAll(file, ",", ",,")+options,
			"-device", "virtio-blk-pci,drive="+id)
		return err
	}
	if c.disk != "" {
		if err := drive("disk", c.disk, ",snapshot=on"); err != nil {
			return nil, err
		}
	}
	if c.out != "" {
		out := filepath.Join(dir, "out")
		if err := os.WriteFile(out, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(out, outSize); err != nil {
			return nil, err
		}
		if err := drive("out", out, ",cache=unsafe"); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// numaArgs are QEMU's arguments for c.nodes nodes, with consecutive CPUs each.
func numaArgs(c config) (args []string) {
	cpus, memory := c.cpus/c.nodes, c.memory/c.nodes
	for n := range c.nodes {
		args = append(args,
			"-object", fmt.Sprintf("memory-backend-ram,id=node%d,size=%dM", n, memory),
			"-numa", fmt.Sprintf("node,nodeid=%d,cpus=%d-%d,memdev=node%[1]d", n, n*cpus, (n+1)*cpus-1))
	}
	return args
}

// runQEMU runs QEMU until the guest powers off or ctx ends. The guest's second serial line goes to w.
func runQEMU(ctx context.Context, args []string, w io.Writer) error {
	// The parent-death signal is sent when the thread dies that started the child, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	var diagnostics strings.Builder
	cmd.Stdout, cmd.Stderr = w, &diagnostics
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("qemu-system-x86_64 is not installed (package qemu-system-x86)")
	}
	if err != nil {
		return fmt.Errorf("qemu: %w: %s", err, strings.TrimSpace(diagnostics.String()))
	}
	return nil
}

// unpack extracts the tar archive that a guest wrote on the disk image into dir.
func unpack(image, dir string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // the archive cannot name a file outside
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read /out: %w", err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(filepath.Clean(h.Name), 0o755)
		case tar.TypeReg:
			err = extract(root, h, r)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory", h.Name)
		}
		if err != nil {
			return fmt.Errorf("unpack /out: %w", err)
		}
	}
}

func extract(root *os.Root, h *tar.Header, r io.Reader) error {
	f, err := root.OpenFile(filepath.Clean(h.Name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
