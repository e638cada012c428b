// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

var update = flag.Bool("update", false, "write the golden files anew")

// addThreads makes what the captures do not have: lists of the processes and threads of
// groups, which here are the callers, and what is below /proc/PID/task. The ids that they
// have in the container are 1, 2 and so on (host comes first, and is in none).
func addThreads(tb testing.TB, h *fixture.Host) {
	tb.Helper()
	mounts, err := cgroup.Discover(h.Root)
	if err != nil {
		tb.Fatal(err)
	}
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	pids := slices.Sorted(maps.Values(h.Roles))
	for _, pid := range pids {
		if exists(filepath.Join(h.Root, fmt.Sprintf("proc/%d/task", pid))) {
			return // another Registry of this host
		}
		p, err := mounts.Locate(cgroup.CPUAcct, cgroup.Caller, h.Read(tb, fmt.Sprintf("proc/%d/cgroup", pid)), nil)
		if err != nil {
			tb.Fatal(err)
		}
		list := map[bool]string{false: "tasks", true: "cgroup.threads"}[p.V2]
		write(filepath.Join(p.Dirs[0], list), fmt.Sprintf("%d\n", pid))
		for _, ctl := range cgroup.Controllers() {
			if p, err := mounts.Locate(ctl, cgroup.Caller, h.Read(tb, fmt.Sprintf("proc/%d/cgroup", pid)), nil); err == nil {
				write(filepath.Join(p.Dirs[0], "cgroup.procs"), fmt.Sprintf("%d\n", pid))
			}
		}
		dir := filepath.Join(h.Root, fmt.Sprintf("proc/%d/task/%d", pid, pid))
		write(filepath.Join(dir, "stat"), string(h.Read(tb, fmt.Sprintf("proc/%d/stat", pid))))
		write(filepath.Join(dir, "status"), fmt.Sprintf("Name:\tx\nNSpid:\t%d\t%d\n", pid, slices.Index(pids, pid)))
	}
}

// TestGolden renders every file for every caller of every captured host. Look at
// a difference with care before -update: these are what users see.
func TestGolden(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		t.Run(h.Name, func(t *testing.T) {
			v := fixtureRegistry(t, h, nil)
			got := &txtar.Archive{}
			for _, role := range slices.Sorted(maps.Keys(h.Roles)) {
				s := subject(t, h, h.Roles[role])
				for _, f := range v.Files() {
					got.Files = append(got.Files, txtar.File{Name: role + "/" + f.String(), Data: renderFile(t, v, f, s)})
				}
			}
			path := filepath.Join("testdata/golden", h.Name+".txtar")
			if *update {
				if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(txtar.Format(got))); d != "" {
				t.Errorf("golden %s (-want +got):\n%s", path, d)
			}
		})
	}
}
