// SPDX-License-Identifier: Apache-2.0

package cgroup

import "testing"

func TestEachCounterHasAName(t *testing.T) {
	if len(countersByName) != NumCounters {
		t.Errorf("%d names for %d counters", len(countersByName), NumCounters)
	}
	for _, c := range []Counter{OOMKill, PageIn, PageOut, scanDirect, stealDirect} {
		if got, ok := CounterNamed([]byte(c.String())); !ok || got != c || c.String() == "" {
			t.Errorf("%d is %q, and that %d", c, c, got)
		}
	}
	if scanDirect.String() != "pgscan_direct" || PageOut.String() != "pgpgout" || OOMKill.String() != "oom_kill" {
		t.Errorf("%s %s %s", scanDirect, PageOut, OOMKill)
	}
}

func TestReclaimOfNoKindIsDirect(t *testing.T) {
	for text, want := range map[string]uint64{
		"pgscan 5\npgsteal 4\n":                                 5, // 5.10
		"pgscan 9\npgsteal 4\npgscan_kswapd 7\npgscan_direct 2": 2,
	} {
		var c Counters
		c.parse([]byte(text), true)
		if c[scanDirect] != want {
			t.Errorf("%q: %d", text, c[scanDirect])
		}
	}
}

// On v1 pgpgin and pgpgout are charges, and a group's own keys leave out descendants.
func TestV1HasNoIOInMemoryStat(t *testing.T) {
	var c Counters
	c.parse([]byte("pgfault 3\npgpgin 9\ntotal_pgfault 5\ntotal_pgpgin 7\ntotal_pgmajfault 1\n"), false)
	want := Counters{}
	for name, n := range map[string]uint64{"pgfault": 5, "pgmajfault": 1} {
		i, _ := CounterNamed([]byte(name))
		want[i] = n
	}
	if c != want {
		t.Errorf("%v, want %v", c, want)
	}
}

func FuzzCounters(f *testing.F) {
	f.Add("pgscan 5\npgsteal 18446744073709551616\noom_kill 8\npgpgin 7\n", true)
	f.Add("total_pgfault 5\ntotal_ 3\n\npgfault\n", false)
	f.Fuzz(func(t *testing.T, text string, v2 bool) {
		var c Counters
		c.parse([]byte(text), v2)
		if c[OOMKill]|c[PageIn]|c[PageOut] != 0 {
			t.Fatalf("%q: memory.stat does not count these", text)
		}
	})
}
