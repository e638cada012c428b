// SPDX-License-Identifier: Apache-2.0

package mountinfo

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestViewsAreOfNamespaceAndRoot(t *testing.T) {
	proc := t.TempDir()
	add := func(name, mnt, root string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(proc, name, "ns"), 0o700); err != nil {
			t.Fatal(err)
		}
		for link, to := range map[string]string{"ns/mnt": mnt, "root": root} {
			if to == "" {
				continue
			}
			if err := os.Symlink(to, filepath.Join(proc, name, link)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for pid := range 6 {
		add(strconv.Itoa(10+pid), "mnt:[7]", "/")
	}
	add("20", "mnt:[7]", "/chroot")
	add("21", "mnt:[8]", "/")
	add("22", "", "/")        // no namespace: it has ended
	add("23", "mnt:[9]", "")  // no root
	add("24", "mnt:[x]", "/") // not a namespace
	add("sys", "mnt:[10]", "/")

	views, err := Views(proc)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int) // by namespace and whether pid 20 is in it
	for _, v := range views {
		got[fmt.Sprint(v.NS, v.PIDs[0] == 20)] = len(v.PIDs)
	}
	if d := cmp.Diff(map[string]int{"7 false": maxPIDs, "7 true": 1, "8 false": 1}, got); d != "" {
		t.Error(d)
	}
	if _, err := Views(proc + "/none"); err == nil {
		t.Error("no error without a procfs")
	}
}

func TestOwnViewIsFound(t *testing.T) {
	views, err := Views("/proc")
	if err != nil {
		t.Fatal(err)
	}
	own, err := Namespace("/proc", "self")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range views {
		if v.NS == own {
			return
		}
	}
	t.Errorf("namespace %d is not among %d views", own, len(views))
}
