// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestChoiceTakesItsWordsOnly(t *testing.T) {
	var off bool
	c := choice{words: [2]string{"on", "off"}, second: &off}
	for _, tt := range []struct {
		word, want string
		fails      bool
	}{{"off", "off", false}, {"maybe", "off", true}, {"on", "on", false}} {
		if err := c.Set(tt.word); (err != nil) != tt.fails || c.String() != tt.want || off != (tt.want == "off") {
			t.Errorf("%s: %v, %q, off is %v", tt.word, err, c.String(), off)
		}
	}
	if c.Type() != "off|on" {
		t.Errorf("type %q", c.Type())
	}
}
