package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrapperSaysOnceThatARuntimeHasNoTimeNamespaces runs containers with runc 1.1 or
// what looks like it.
func TestWrapperSaysOnceThatARuntimeHasNoTimeNamespaces(t *testing.T) {
	need(t, "runc", "runc")
	dir, _ := serve(t)
	old := filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(old, []byte("#!/bin/sh\n[ \"$1\" != features ] || { echo '{}'; exit; }\nexec runc \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile("/run/vprocfs-timens"); err == nil && strings.Contains(string(text), old) {
			os.Remove("/run/vprocfs-timens")
		}
	})
	at := writeBundle(t, "", "vprocfs-wrapper-timens", "")
	for _, want := range []string{"vprocfs: runtime: the container starts with the clocks of the host: " + old + " has no time namespaces (runc 1.2 and crun 1.21 have them)\n", ""} {
		began := boottime(t)
		cmd := exec.Command("vprocfs", "runtime", "--mount", dir, "--timens", "--runtime", old, "--", "--root", t.TempDir(), "run", "-b", at, fmt.Sprintf("vprocfs-wrapper-timens-%d", os.Getpid()))
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil || said.String() != want {
			t.Fatalf("%v, %q, want %q", err, said.String(), want)
		}
		checkShown(t, string(out), boottime(t)-began)
	}
}
