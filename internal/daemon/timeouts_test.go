// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestATimeoutOfTheKernelIsNamed: fs.fuse.*_request_timeout aborts a connection whose
// worker is being replaced.
func TestATimeoutOfTheKernelIsNamed(t *testing.T) {
	for _, c := range []struct {
		byDefault, most string
		want            []string // what the warnings name
	}{
		{"", "", nil}, // before Linux 6.15
		{"0\n", "0\n", nil},
		{"30\n", "60\n", nil},
		{"29\n", "0\n", []string{"fs.fuse.default_request_timeout is 29s"}},
		{"60\n", "15\n", []string{"fs.fuse.max_request_timeout is 15s"}},
		{"1\n", "2\n", []string{"default_request_timeout is 1s", "max_request_timeout is 2s"}},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "proc/sys/fs/fuse")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"default_request_timeout": c.byDefault, "max_request_timeout": c.most} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got := requestTimeouts(root, 30*time.Second)
		if len(got) != len(c.want) {
			t.Errorf("%q, %q: %q", c.byDefault, c.most, got)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) || !strings.Contains(got[i], "--max-outage, which is 30s") {
				t.Errorf("%q, %q: %q", c.byDefault, c.most, got[i])
			}
		}
	}
}
