// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestEveryVerbOfTheHelpHasTwoExamples, which are what one types: they begin with the
// program, or have it further on.
func TestEveryVerbOfTheHelpHasTwoExamples(t *testing.T) {
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		list := examples(c.name)
		if len(list) < 2 {
			t.Errorf("%s has %d examples", c.name, len(list))
		}
		for _, e := range list {
			if e.Does == "" || !strings.Contains(e.Command, "vprocfs") {
				t.Errorf("%s: %q", c.name, e)
			}
		}
	}
}
