// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// statusBits reads a hexadecimal field of a /proc/PID/status.
func statusBits(t *testing.T, status, field string) uint64 {
	t.Helper()
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in\n%s", field, status)
	return 0
}

// buildWithCgo builds the program as a plain go build does where there is a C
// compiler, and returns its path.
func buildWithCgo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vprocfs")
	cmd := exec.Command("go", "build", "-o", path, module+"/cmd/vprocfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return path
}

// TestServeGivesUpWhatItDoesNotNeed looks at all threads, and at what they still
// can do, with each way to find an init.
func TestServeGivesUpWhatItDoesNotNeed(t *testing.T) {
	const needed = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_SYS_CHROOT
	own := statusBits(t, readFile(t, "/proc/self/status"), "CapEff")
	if own&^needed == 0 {
		t.Fatal("these tests have nothing to give up themselves")
	}
	type run struct{ name, program, method string }
	runs := []run{{"auto", "vprocfs", "auto"}, {"fork", "vprocfs", "fork"}}
	if os.Getenv(binaryEnv) == "" { // else there is no Go to build with
		runs = append(runs, run{"built with cgo", buildWithCgo(t), "auto"})
	}
	for _, r := range runs {
		t.Run(r.name, func(t *testing.T) {
			dir := t.TempDir()
			d := startDaemonCommand(t, dir, exec.Command(r.program, "serve", "--init-pid", r.method, dir), nil)
			d.line(t)
			c := startContainer(t, "--mount", dir, "--memory", "64M", "--cpus", "0.5")
			wantView(t, c)
			for _, name := range servedFiles(t, dir) {
				if info, err := os.Stat("/proc/" + name); err == nil && info.Mode().IsRegular() {
					c.sh(t, "cat /proc/"+name+" >/dev/null || echo failed")
				}
			}
			var threads []string
			for _, pid := range []int{d.cmd.Process.Pid, d.worker(t)} {
				of, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
				if err != nil || len(of) < 2 {
					t.Fatalf("threads %v, %v", of, err)
				}
				threads = append(threads, of...)
			}
			for _, path := range threads {
				status := readFile(t, path)
				for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
					if got := statusBits(t, status, set); got&^needed != 0 {
						t.Errorf("%s: %s %x, more than %x", path, set, got, uint64(needed))
					}
				}
				if got, want := statusBits(t, status, "CapEff"), own&(1<<unix.CAP_SYS_PTRACE); got&want != want {
					t.Errorf("%s: CapEff %x lacks what it needs", path, got)
				}
				for _, set := range []string{"CapInh", "CapAmb"} {
					if got := statusBits(t, status, set); got != 0 {
						t.Errorf("%s: %s %x", path, set, got)
					}
				}
				stat := readFile(t, strings.TrimSuffix(path, "us"))
				// The nice value is field 19, and the state, after the name, is 3 (proc_pid_stat(5)).
				f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
				if nice := f[19-3]; nice != "-10" && own&(1<<unix.CAP_SYS_NICE) != 0 {
					t.Errorf("%s: nice %s", path, nice)
				}
				if got := statusBits(t, status, "NoNewPrivs"); got != 1 {
					t.Errorf("%s: NoNewPrivs %d", path, got)
				}
				if got := statusBits(t, status, "Umask"); got != 0x77 {
					t.Errorf("%s: Umask %x", path, got)
				}
			}
		})
	}
}
