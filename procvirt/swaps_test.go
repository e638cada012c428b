// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/procfs"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/fixture"
)

const swapsHeader = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

func headerOf(text string) []byte {
	header, _, _ := strings.Cut(text, "\n")
	return []byte(header)
}

func swapsOracle(tb testing.TB, text []byte) []*procfs.Swap {
	tb.Helper()
	swaps, err := oracleFS(tb, map[string][]byte{"swaps": text}).Swaps()
	if err != nil {
		tb.Fatalf("prometheus/procfs on swaps: %v\n%s", err, text)
	}
	return swaps
}

func TestSwapsAgreesWithMeminfo(t *testing.T) {
	used := false
	for _, h := range fixture.All(t, "testdata/host") {
		for _, off := range []bool{false, true} {
			v := fixtureRegistry(t, h, func(c *Config) { c.NoSwap = off })
			s := subject(t, h, h.Roles["child"])
			m, _ := oracle(t, render(t, v, "meminfo", s), []byte(hostStat))
			swaps := swapsOracle(t, render(t, v, "swaps", s))
			if (len(swaps) == 1) != (*m.SwapTotal > 0) || off && len(swaps) != 0 {
				t.Errorf("%s, off %v: %d lines, SwapTotal %d kB", h.Name, off, len(swaps), *m.SwapTotal)
			}
			if len(swaps) != 1 {
				continue
			}
			used = used || swaps[0].Used > 0
			if got := swaps[0]; got.Filename != "none" || got.Type != "virtual" || got.Priority != 0 ||
				uint64(got.Size) != *m.SwapTotal || uint64(got.Size-got.Used) != *m.SwapFree {
				t.Errorf("%s: %+v, meminfo has %d and %d kB", h.Name, *got, *m.SwapTotal, *m.SwapFree)
			}
		}
	}
	if !used {
		t.Error("no capture has used swap: nothing is tested")
	}
}

func TestSwapsHasTheKernelsColumns(t *testing.T) {
	const (
		old    = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
		device = "/dev/sda                                partition\t1\t\t0\t\t-2\n"
		none   = "none                                    virtual\t\t"
	)
	for _, tt := range []struct {
		host         string
		limit, usage uint64 // kB
		want         string
	}{
		{swapsHeader + device, 9_999_999, 0, swapsHeader + none + "9999999\t\t0\t\t0\n"},
		{swapsHeader, 10_000_000, 99_999_999, swapsHeader + none + "10000000\t10000000\t0\n"},
		{old + device, 12, 5, old + none + "12\t5\t0\n"},
		{swapsHeader + device, 0, 7, swapsHeader},
	} {
		v := &swaps{header: headerOf(tt.host), host: 1 << 60}
		v.memory.MemoryUsage = cgroup.MemoryUsage{SwapAccounted: true, SwapFree: cgroup.NoLimit, SwapLimit: tt.limit<<10 + 1023, SwapUsage: tt.usage << 10}
		if got := string(v.append(nil)); got != tt.want {
			t.Errorf("%d of %d kB: %q, want %q", tt.usage, tt.limit, got, tt.want)
		}
	}
}

// TestWithoutSwapNothingElseIsRead spares a host without swap what only its size needs.
func TestWithoutSwapNothingElseIsRead(t *testing.T) {
	h := load(t, "dev-hybrid")
	r := fixtureRegistry(t, h, nil)
	s := subject(t, h, h.Roles["child"])
	render(t, r, "swaps", s)
	for path, text := range map[string]string{"proc/swaps": swapsHeader, "proc/meminfo": "garbage"} {
		if err := os.WriteFile(filepath.Join(r.cfg.Root, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	own := policyDirs(t, r, s)[0]
	if err := os.WriteFile(filepath.Join(own, "memory.usage_in_bytes"), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := string(render(t, r, "swaps", s)); got != swapsHeader {
		t.Errorf("%q", got)
	}
	if n := r.Stats(); len(n) != 0 {
		t.Errorf("the host's file was shown: %v", n)
	}
}

func FuzzSwaps(f *testing.F) {
	f.Add(swapsHeader, uint64(1<<30), uint64(1<<20), uint64(1<<21))
	f.Add("", ^uint64(0), ^uint64(0), uint64(5))
	f.Fuzz(func(t *testing.T, host string, total, limit, usage uint64) {
		v := &swaps{header: headerOf(host), host: total}
		v.memory.MemoryUsage = cgroup.MemoryUsage{SwapAccounted: true, SwapFree: cgroup.NoLimit, SwapLimit: limit, SwapUsage: usage}
		swaps := swapsOracle(t, v.append(nil))
		if min(total, limit) < 1024 {
			if len(swaps) != 0 {
				t.Fatalf("%+v", *swaps[0])
			}
			return
		}
		if len(swaps) != 1 || swaps[0].Used > swaps[0].Size || uint64(swaps[0].Size) != min(total, limit)>>10 {
			t.Fatalf("%d lines: %+v", len(swaps), swaps)
		}
	})
}
