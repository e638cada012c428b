// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// measured returns what might be measured of two binaries: values that scatter by noise around
// 100 and around slower * 100, each sitting around a middle of its own.
func measured(sittings int, slower, noise float64) *result {
	random := rand.New(rand.NewPCG(1, 2))
	r := &result{what: "x"}
	for range sittings {
		var was, is []float64
		middle := 1 + noise*(random.Float64()-0.5)
		for range 12 {
			was = append(was, 100*(1+noise*random.Float64()))
			is = append(is, 100*slower*middle*(1+noise*random.Float64()))
		}
		r.old, r.new = append(r.old, was), append(r.new, is)
	}
	return r
}

func TestSlowerIsWhatIsSlowerInEachSitting(t *testing.T) {
	for _, tt := range []struct {
		name          string
		slower, noise float64
		want          int
		verdict       string
	}{
		{"the same", 1, 0.1, 0, ""},
		{"much noise", 1, 0.8, 0, ""},
		{"faster", 0.7, 0.1, 0, "faster"},
		{"slower, within the bound", 1.15, 0.05, 0, "slower, within the bound"},
		{"slower", 1.4, 0.1, 1, "slower"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := measured(minSittings, tt.slower, tt.noise)
			table, slower := judge([]*result{r}, 25)
			if slower != tt.want || !strings.Contains(table.String(), "| "+tt.verdict) {
				t.Errorf("%d slower\n%s", slower, table)
			}
			s := r.ratio()
			if s.Confidence < confidence {
				t.Errorf("confidence %v of %d sittings, want %v", s.Confidence, minSittings, confidence)
			}
		})
	}
}

func TestComparisonIsHandedOn(t *testing.T) {
	c, err := parseComparison(strings.Fields("--short --percent 7.5 old new"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (comparison{"old", "new", 7.5, 6, 12, 150}); c != want {
		t.Errorf("%+v, want %+v", c, want)
	}
	if again, err := parseComparison(c.args()); err != nil || again != c {
		t.Errorf("%+v, %v, want %+v", again, err, c)
	}
	for _, line := range []string{"old", "old new more", "--sittings 5 old new", "--each 0 old new"} {
		if _, err := parseComparison(strings.Fields(line)); err == nil {
			t.Errorf("%s: taken", line)
		}
	}
}
