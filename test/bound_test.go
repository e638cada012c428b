// SPDX-License-Identifier: Apache-2.0

package test

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestRunBindsAllThatIsServed: what the daemon's tree has at its leaves, and the
// directory of the CPUs as a whole.
func TestRunBindsAllThatIsServed(t *testing.T) {
	dir, _ := serve(t)
	want := []string{cpuDir}
	err := filepath.WalkDir(filepath.Join(dir, "proc"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			want = append(want, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(want) < 9 { // uptime meminfo stat cpuinfo loadavg swaps diskstats slabinfo, and the CPUs
		t.Fatalf("it serves %q", want)
	}
	for _, flags := range [][]string{nil, {"--mount", dir}} {
		out := inContainer(t, flags, append([]string{"stat", "-f", "-c", "%n %T"}, want...)...)
		for line := range strings.Lines(out) {
			// Which of them stat calls FUSE depends on the version of coreutils.
			if path, fs, _ := strings.Cut(strings.TrimSpace(line), " "); fs != "fuse" && fs != "fuseblk" {
				t.Errorf("%v: %s is a file of %s", flags, path, fs)
			}
		}
		if n := strings.Count(out, "\n"); n != len(want) {
			t.Errorf("%v: %d of %d files in the container:\n%s", flags, n, len(want), out)
		}
	}
}
