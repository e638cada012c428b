// SPDX-License-Identifier: Apache-2.0

//go:build runtimes

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newestRuntime returns the path of a program that `make test-runtimes` has built.
func newestRuntime(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../build/runtimes", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (make test-runtimes builds it)", err)
	}
	return path
}

// TestRuntimesTimeNamespaceAgreesWithTheView compares the view with what the kernel says
// in system calls, in a /proc of its own, and to Debian's ps.
func TestRuntimesTimeNamespaceAgreesWithTheView(t *testing.T) {
	dir, _ := serve(t)
	name := fmt.Sprintf("vprocfs-timens-%d", os.Getpid())
	at := writeBundle(t, "", name, "")
	b := readConfig(t, at)
	for _, d := range []string{"bin", "lib", "lib64", "usr"} {
		if err := os.MkdirAll(filepath.Join(b.Root.Path, d), 0o755); err != nil {
			t.Fatal(err)
		}
		b.Mounts = append(b.Mounts, bindMount{"/" + d, "bind", "/" + d, []string{"rbind", "ro"}})
	}
	b.Mounts = append(b.Mounts, bindMount{"/dev", "tmpfs", "tmpfs", nil}) // else runc fills that of the root, once
	b.Process.Args = []string{"/bin/sh", "-c", strings.Join([]string{
		"kernel=$(mktemp -d)", "mount -t proc proc $kernel",
		"sleep 2", // a container that is one second old may look like one of none
		"cat $kernel/uptime", "cat /proc/uptime", "python3 -c 'import time; print(time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())'", "cat $kernel/uptime",
		"sed -n 's/^btime //p' $kernel/stat", "sed -n 's/^btime //p' /proc/stat",
		"date +%s", "ps -o etimes= -p 1", "cut -d' ' -f22 /proc/1/stat", "umount $kernel", "rmdir $kernel",
	}, "\n")}
	b.Process.Env = []string{"PATH=/usr/bin:/bin"}
	b.Process.Capabilities = map[string][]string{"bounding": {"CAP_SYS_ADMIN"}, "effective": {"CAP_SYS_ADMIN"}, "permitted": {"CAP_SYS_ADMIN"}}
	writeConfig(t, at, b)
	for range 2 { // the clocks of a second run begin again
		out, err := exec.Command("vprocfs", "runtime", "--mount", dir, "--timens", "--runtime", newestRuntime(t, "runc"), "--", "--root", t.TempDir(), "run", "-b", at, name).Output()
		if err != nil {
			t.Fatal(failure(err))
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) != 9 {
			t.Fatalf("the container says:\n%s", out)
		}
		before, shown, clocks, after := floats(t, lines[0])[0], floats(t, lines[1])[0], floats(t, lines[2]), floats(t, lines[3])[0]
		if before > shown || shown > after || before < 2 || after > 60 {
			t.Errorf("up for %.2f s, the kernel says %.2f to %.2f", shown, before, after)
		}
		if clocks[0] < before || clocks[0] > after+0.01 || clocks[1] < 2 || clocks[1] > after+1 {
			t.Errorf("CLOCK_BOOTTIME and CLOCK_MONOTONIC are %.2f, while /proc/uptime goes from %.2f to %.2f", clocks, before, after)
		}
		if lines[4] != lines[5] {
			t.Errorf("btime %s, the kernel says %s", lines[5], lines[4])
		}
		// btime and now are whole seconds of the same clock.
		if age := parseInt(t, lines[6]) - parseInt(t, lines[5]); age < 1 || age > 60 {
			t.Errorf("booted %d s ago", age)
		}
		if etime := parseInt(t, strings.TrimSpace(lines[7])); etime < 1 || etime > 60 {
			t.Errorf("ps says that the init has run for %d s", etime)
		}
		if start := parseInt(t, lines[8]); start < 0 || start > 6000 {
			t.Errorf("the init started at tick %d", start)
		}
	}
}
