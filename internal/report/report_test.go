// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"vprocfs/internal/daemon"
	"vprocfs/procvirt"
)

// hostile is a name that would do something to a terminal.
const hostile = "evil\x1b[2J\x1b]0;owned\a\u009b31m\u202e\u200b\r\n\t\x7f\xff\U000e0001"

// TestPrintableLeavesNoControlCharacter, also none beyond ASCII, and leaves words alone.
func TestPrintableLeavesNoControlCharacter(t *testing.T) {
	for _, r := range Printable(hostile) {
		if !unicode.IsPrint(r) {
			t.Errorf("%q", r)
		}
	}
	if got := Printable("naïve 名前 a-b"); got != "naïve 名前 a-b" {
		t.Errorf("%q", got)
	}
}

// TestJSONIsSafeOnATerminal, and means the same.
func TestJSONIsSafeOnATerminal(t *testing.T) {
	var b strings.Builder
	if err := JSON(&b, map[string]string{"name": hostile}); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		if !unicode.IsPrint(r) && r != '\n' {
			t.Errorf("%q in %q", r, b.String())
		}
	}
	var back map[string]string
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back["name"] != strings.ToValidUTF8(hostile, "\ufffd") {
		t.Errorf("%q, %v", back, err)
	}
}

// TestExplanationHasNoEscapes: the names of groups are in errors too.
func TestExplanationHasNoEscapes(t *testing.T) {
	var b strings.Builder
	e := &daemon.Explanation{
		Known: &procvirt.Known{Fallbacks: 1, LastFallback: hostile}, Unknown: []string{hostile},
		Controllers: []procvirt.ControllerExplanation{{Name: "memory", Error: hostile}, {Name: "cpu", Group: hostile, Dir: hostile}},
		Policy:      []daemon.PolicyWord{{Key: "cpu", Value: hostile, Dir: hostile}},
	}
	if err := Explanation(&b, e, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		if !unicode.IsPrint(r) && r != '\n' {
			t.Errorf("%q in %q", r, b.String())
		}
	}
}

func FuzzJSONIsSafeOnATerminal(f *testing.F) {
	f.Add(hostile)
	f.Add("\u2028\ufeff\U0001f600")
	f.Fuzz(func(t *testing.T, name string) {
		var b strings.Builder
		if err := JSON(&b, name); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != strings.ToValidUTF8(name, "\ufffd") {
			// encoding/json replaces each byte that is not UTF-8.
			if strings.ToValidUTF8(name, "") == name {
				t.Errorf("%q: %q, %v", name, back, err)
			}
		}
		for _, r := range strings.TrimSuffix(b.String(), "\n") {
			if !unicode.IsPrint(r) {
				t.Errorf("%q in %q", r, b.String())
			}
		}
	})
}
