// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// debianSuite is the suite of the guest's root, on every kernel: one set of programs, so that what differs is the kernel.
const debianSuite = "trixie"

// debianPackages are the programs that tests try on the served files, beside what every Debian has.
func debianPackages() []string {
	return []string{
		"procps", "util-linux", "mount", "busybox-static", "htop", "sysstat", "strace", "python3", "nodejs",
		"runc", "crun", "podman",
		"atop", "prometheus-node-exporter", "numactl", "hwloc-nox", "python3-psutil",
		"lxcfs",           // for LXC's mount hook
		"systemd", "dbus", // for guests that systemd runs
	}
}

// enginePackages are the container engines that -engines adds to the root. Their services do not start with the guest.
func enginePackages() []string {
	return []string{"docker.io", "docker-cli", "containerd", "lxc", "systemd-container"}
}

// engineOptions are further options for a root with enginePackages.
func engineOptions() []string {
	const units = "docker.service docker.socket containerd.service lxc.service lxc-net.service lxc-monitord.service machines.target"
	return []string{`--customize-hook=chroot "$1" systemctl disable ` + units}
}

// The JVM asks /proc/cgroups for the memory controller, as those before JDK 25 do. Debian trixie does not have this one. The
// libraries that it starts with are in the root: libstdc++ is also nodejs's.
const (
	javaSuite   = "bookworm"
	javaPackage = "openjdk-17-jre-headless"
	javaProgram = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java"
)

// debianOptions keep documentation and translations out of the root: 350 MiB with them, that nothing reads.
func debianOptions() []string {
	return []string{
		"--mode=root", "--variant=apt", "--quiet",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		// They would be busy in guests that systemd runs.
		`--customize-hook=chroot "$1" systemctl mask atop.service atopacct.service prometheus-node-exporter.service`,
	}
}

// debianImage returns the path of an ext4 image of a Debian root, which it makes where dir does not have it: an image
// belongs to the suite, the packages and the options it was made of. Making it needs root, mmdebstrap and mke2fs, and
// takes a minute. It holds a lock meanwhile, so that runs side by side make it once.
//
// With engines it has enginePackages too.
func debianImage(ctx context.Context, dir, mirror string, engines bool) (path string, err error) {
	packages, options, size := debianPackages(), debianOptions(), "2g"
	if engines {
		packages, options, size = append(packages, enginePackages()...), append(options, engineOptions()...), "4g"
	}
	key := sha256.Sum256(fmt.Append(nil, debianSuite, packages, options, javaSuite, javaPackage, javaProgram))
	path = filepath.Join(dir, fmt.Sprintf("debian-%x.ext4", key[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".debian.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("flock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return path, err
	}
	if os.Geteuid() != 0 {
		return "", errors.New("mmdebstrap needs root to make it")
	}
	tmp, err := os.MkdirTemp(dir, ".debian-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	root, image := filepath.Join(tmp, "root"), filepath.Join(tmp, "image")
	debian, err := findMirror(ctx, mirror, debianSuite)
	if err != nil {
		return "", err
	}
	args := append(options, "--include="+strings.Join(packages, ","), debianSuite, root, debian)
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	// It binds the machine's /dev and /sys into the root. In a mount namespace of its own they are not in the way of the
	// RemoveAll above when it is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if _, err := outputOf(cmd); err != nil {
		return "", err
	}
	if err := addJava(ctx, filepath.Join(tmp, "apt"), mirror, root); err != nil {
		return "", fmt.Errorf("%s: %w", javaPackage, err)
	}
	// No journal: what the guest writes is lost anyway. The file is sparse.
	if _, err := output(ctx, "", "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", root, image, size); err != nil {
		return "", err
	}
	return path, os.Rename(image, path)
}

// addJava puts the JVM into the root, as /usr/bin/java. apt keeps its state in dir.
func addJava(ctx context.Context, dir, mirror, root string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	a, err := openArchive(ctx, dir, javaSuite, mirror)
	if err != nil {
		return err
	}
	if err := a.unpack(root, javaPackage); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, javaProgram)); err != nil {
		return err
	}
	return os.Symlink(javaProgram, filepath.Join(root, "usr/bin/java"))
}
