// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"bytes"
	"math"
	"math/big"
	"testing"
)

func FuzzUint(f *testing.F) {
	for _, s := range []string{"", "0", "18446744073709551615", "18446744073709551616", "99999999999999999999999x", "-1", "12 3"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n := Uint(b)
		digits := len(b) - len(bytes.TrimLeft(b, "0123456789"))
		if n != digits {
			t.Fatalf("%q: took %d bytes, want %d", b, n, digits)
		}
		if n == 0 {
			return
		}
		want, _ := new(big.Int).SetString(string(b[:n]), 10)
		if !want.IsUint64() {
			want.SetUint64(math.MaxUint64)
		}
		if want.Uint64() != v {
			t.Fatalf("%q is %d, want %v", b, v, want)
		}
	})
}

func FuzzLinesAndFields(f *testing.F) {
	f.Add([]byte("a 1\n\n b\t22 x\nlast 3"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var lines [][]byte
		for b := text; len(b) > 0; {
			var line []byte
			line, b = Line(b)
			lines = append(lines, line)
			fields := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
			rest := line
			for i := 0; ; i++ {
				var field []byte
				field, rest = Field(rest)
				if len(field) == 0 {
					if i != len(fields) {
						t.Fatalf("%q: %d fields, want %d", line, i, len(fields))
					}
					break
				}
				if !bytes.Equal(field, fields[i]) {
					t.Fatalf("%q: field %d is %q", line, i, field)
				}
			}
			if key, _, ok := KeyValue(line); ok && (len(fields) < 2 || !bytes.Equal(key, fields[0])) {
				t.Fatalf("%q: key %q", line, key)
			}
		}
		if got := bytes.Join(lines, []byte("\n")); !bytes.Equal(got, bytes.TrimSuffix(text, []byte("\n"))) {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
