// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProgramsThatTrustTheLengthCopyWholeFiles: with a length that is a bound,
// copyFileSync never returns, git fails, tar pads with NULs, and busybox tail -c finds
// nothing.
func TestProgramsThatTrustTheLengthCopyWholeFiles(t *testing.T) {
	need(t, "busybox", "busybox-static")
	need(t, "node", "nodejs")
	need(t, "git", "git")
	need(t, "python3", "python3-minimal")
	c, dir := readContainer(t)
	files := map[string]*regexp.Regexp{cpuDir + "/online": regexp.MustCompile(`^[\d,-]+\n$`), cpuDir + "/possible": regexp.MustCompile(`^[\d,-]+\n$`)}
	for name, whole := range wholeFiles() {
		files["/proc/"+name] = whole
	}
	for path, whole := range files {
		run := func(command string) string {
			return unended(t, c, strings.NewReplacer("%", path, "COPY", dir+"/copy").Replace(command))
		}
		for _, copies := range []string{
			`timeout 30 node -e 'fs.copyFileSync("%", "COPY")' && cat COPY`,
			"tar cPf COPY % && tar xPOf COPY",
			"git hash-object % >/dev/null && cat %",
			"cp % COPY && cat COPY", "busybox cp % COPY && cat COPY", "busybox tail -c 100000 %", "tail -c 100000 %",
		} {
			if out := run(copies + " || echo failed"); !whole.MatchString(out) {
				t.Errorf("%s of %s: %q", copies, path, out[max(0, len(out)-80):])
			}
		}
		if tail := run("busybox tail -c 2 %"); len(tail) != 2 || tail[1] != '\n' {
			t.Errorf("busybox tail -c 2 of %s: %q", path, tail)
		}
		if wrong := alone(t, c, `python3 -c 'import os
for i in range(50):
    fd = os.open("`+path+`", os.O_RDONLY)
    size = os.fstat(fd).st_size
    if os.fstat(fd).st_size != size: print("two lengths")
    n = len(os.read(fd, 1 << 20))
    if n != size: print(n, "bytes, fstat said", size)
    os.close(fd)'`); wrong != "" {
			t.Errorf("%s: %s", path, wrong)
		}
	}
}

// TestAnUnprivilegedContainerBindsTheWholeTree, as LXC's and Incus's containers do with
// /var/lib/lxcfs: the tree has no mount in it, which a user namespace could not leave out.
func TestAnUnprivilegedContainerBindsTheWholeTree(t *testing.T) {
	dir, _ := serve(t)
	out, err := exec.Command("unshare", "-U", "--map-root-user", "-m", "sh", "-ec", `
		mount -o bind "$0" /mnt
		head -c 9 /mnt/proc/meminfo; echo
		if [ -e /proc/pressure/cpu ]; then head -c 4 /mnt/proc/pressure/cpu; fi
	`, dir).CombinedOutput()
	want := "MemTotal:\n"
	if len(pressureFiles()) > 0 {
		want += "some"
	}
	if err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
	if n := strings.Count(readFile(t, "/proc/self/mountinfo"), dir); n != 1 {
		t.Errorf("%d mounts", n)
	}
}

// TestOnlyPressureIsWritten with what a shell has.
func TestOnlyPressureIsWritten(t *testing.T) {
	dir, _ := serve(t)
	for _, command := range []string{
		"touch uptime", "echo 1 > uptime", "echo 1 >> meminfo", "chmod 600 stat", "chown 1 stat", "rm -f loadavg", "rmdir pressure",
		"mkdir new", "mv uptime new", "ln uptime new", "ln -s uptime new", "touch new", "truncate -s 0 stat", "mknod new p",
	} {
		out, err := exec.Command("sh", "-c", "cd "+dir+"/proc && "+command).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Read-only file system") {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
	if len(pressureFiles()) == 0 {
		return
	}
	f, err := os.OpenFile(dir+"/proc/pressure/cpu", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("sh", "-c", "cd "+dir+"/proc/pressure && touch cpu && : > cpu").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if f, err = os.OpenFile(dir+"/proc/pressure/cpu", os.O_WRONLY|os.O_APPEND, 0); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("garbage"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("garbage appended: %v, want EINVAL", err)
	}
	if _, err := f.WriteString("some 100000 2000000"); err != nil {
		t.Errorf("a trigger appended: %v", err)
	}
}
