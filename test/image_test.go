// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestImageIsReproducibleAndRuns(t *testing.T) {
	binary, err := exec.LookPath("vprocfs")
	if err != nil {
		t.Fatal(err)
	}
	var archives [2]string
	for i := range archives {
		archives[i] = filepath.Join(t.TempDir(), "vprocfs.tar")
		cmd := exec.Command("go", "run", "./deploy/image", "-binary", binary, "-version", "1.2.3", "-output", archives[i])
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if readFile(t, archives[0]) != readFile(t, archives[1]) {
		t.Error("two builds differ")
	}

	p := newPodman(t)
	loaded, err := p.command("load", "--input", archives[0]).CombinedOutput()
	if err != nil {
		t.Fatalf("podman load: %v\n%s", err, loaded)
	}
	// The default command is help.
	for command, want := range map[string]string{"vprocfs --version": "\ngo-fuse  ", "": "serve"} {
		out, err := p.runImage(nil, []string{"vprocfs:1.2.3"}, strings.Fields(command)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v\n%s", command, err, out)
		}
	}
}
