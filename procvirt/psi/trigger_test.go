// SPDX-License-Identifier: Apache-2.0

package psi

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseTakesWhatTheKernelTakes(t *testing.T) {
	for text, want := range map[string]Trigger{
		"some 150000 1000000\x00":    {false, 150000, 1000000},
		"full 50000 1000000\n":       {true, 50000, 1000000},
		"some 1 500000":              {false, 1, 500000},
		"some 10000000 10000000":     {false, 10000000, 10000000},
		"some150000\t\n 1000000":     {false, 150000, 1000000},
		"full 00001 2000000 garbage": {true, 1, 2000000},
		"some 1 2000000us":           {false, 1, 2000000},
	} {
		if got, err := Parse([]byte(text)); got != want || err != nil {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "\x00", "some", "some 150000", "some 1500001000000", "Some 150000 1000000", " some 150000 1000000",
		"some -1 1000000", "some 150000 -1", "some 0x10 1000000", "some 150000,1000000", "both 150000 1000000",
		"some 150000 499999", "some 150000 10000001", "some 0 1000000", "some 1000001 1000000",
		"some 150000 4295967296", "some 4294967297 2000000", "some 99999999999999999999999 2000000",
		"some 150000\x001000000",
	} {
		if got, err := Parse([]byte(text)); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestOnlyMultiplesOfTwoSecondsAreCheap(t *testing.T) {
	for window, want := range map[uint32]bool{500000: false, 1000000: false, 2000000: true, 3000000: false, 4000000: true, 10000000: true} {
		if got := (Trigger{Threshold: 1, Window: window}).Cheap(); got != want {
			t.Errorf("%d: %t", window, got)
		}
	}
}

// FuzzParse: what is parsed is in the limits, and means the same when the kernel
// is told.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"some 150000 1000000\x00", "full 1 2000000\n", "some", "some1 500000x", "some 1 4294967296"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text)
		if err != nil {
			if !errors.Is(err, unix.EINVAL) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if got.Window < 500_000 || got.Window > 10_000_000 || got.Threshold == 0 || got.Threshold > got.Window {
			t.Errorf("%q: %+v", text, got)
		}
		if again, err := Parse([]byte(got.String())); again != got || err != nil || len(got.String()) > 31 {
			t.Errorf("%q: %+v, and then %+v, %v", text, got, again, err)
		}
	})
}
