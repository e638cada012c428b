package procvirt

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"vprocfs/procvirt/internal/fixture"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fixtureViews returns the views of a captured host, at the time of the capture.
func fixtureViews(tb testing.TB, h *fixture.Host, change func(*Config)) *Views {
	tb.Helper()
	cfg := Config{
		Root: h.Root, Recheck: time.Minute, MaxFiles: 1000,
		Now: func() int64 { return h.Boottime },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	// The captures have none: a container is shown the head of it only.
	if slabs := filepath.Join(h.Root, "proc/slabinfo"); !exists(slabs) {
		text := slabinfoHeader + "kmem_cache            45     64    256   32    2 : tunables    0    0    0 : slabdata      2      2      0\n"
		if err := os.WriteFile(slabs, []byte(text), 0o400); err != nil {
			tb.Fatal(err)
		}
	}
	if change != nil {
		change(&cfg)
	}
	v, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	v.slowAfter = time.Hour // the machine may be busy
	tb.Cleanup(v.Close)
	return v
}

// subject is the caller with the given pid of a captured host.
func subject(tb testing.TB, h *fixture.Host, pid int) *Subject {
	tb.Helper()
	s := &Subject{NS: 4026540000, Init: h.Init, Groups: h.Read(tb, fmt.Sprintf("proc/%d/cgroup", pid))}
	if pid == h.Roles["host"] {
		s.NS, s.Init, s.Host = 4026531836, 1, true
	}
	return s
}

func render(tb testing.TB, v *Views, f File, s *Subject) []byte {
	tb.Helper()
	text, err := v.Append(nil, f, s, true)
	if err != nil {
		tb.Fatalf("%v: %v", f, err)
	}
	return text
}

// TestGolden renders every file for every caller of every captured host. Look at
// a difference with care before -update: these are what users see.
func TestGolden(t *testing.T) {
	for _, h := range fixture.All(t, "testdata/host") {
		t.Run(h.Name, func(t *testing.T) {
			v := fixtureViews(t, h, nil)
			got := &txtar.Archive{}
			for _, role := range slices.Sorted(maps.Keys(h.Roles)) {
				s := subject(t, h, h.Roles[role])
				for f := range numFiles {
					got.Files = append(got.Files, txtar.File{Name: role + "/" + f.String(), Data: render(t, v, f, s)})
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
