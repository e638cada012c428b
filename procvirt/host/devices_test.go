// SPDX-License-Identifier: Apache-2.0

package host

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestStackedMajorsAreThoseOfBlockDevices(t *testing.T) {
	proc := t.TempDir()
	text := "Character devices:\n  1 mem\n  9 md\n\nBlock devices:\n  7 loop\n253 device-mapper\n254 mdp\n259 blkext\n"
	if err := os.WriteFile(filepath.Join(proc, "devices"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := StackedMajors(proc)
	if err != nil || !maps.Equal(got, map[uint32]bool{7: true, 253: true}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := StackedMajors("/proc"); err != nil {
		t.Error(err)
	}
}
