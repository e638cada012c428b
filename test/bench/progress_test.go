// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"
)

func TestTimeLeftFollowsThePaceOfTheMachine(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	m := &meter{out: &out, terminal: true, now: func() time.Time { return now }}
	m.plan("first", 10, 100*time.Second)
	m.plan("second", 5, 200*time.Second)
	m.enter("first")
	if got := m.left(); got != 300*time.Second {
		t.Errorf("%s left at first, want what is nominal", got)
	}
	now = now.Add(40 * time.Second)
	for range 2 { // it takes twice as long
		m.step()
	}
	if got := m.left(); got != 160*time.Second+400*time.Second {
		t.Errorf("%s left, want 560 s", got)
	}
	if !strings.Contains(out.String(), "bench: first, 2 of 10; 9 min left") {
		t.Errorf("%q", out.String())
	}
	now = now.Add(160 * time.Second)
	m.leave()
	m.enter("second")
	if got := m.left(); got != 400*time.Second {
		t.Errorf("%s left, want 400 s", got)
	}
	for range 7 { // more than was planned
		now = now.Add(time.Second)
		m.step()
	}
	if got := m.left(); got != 0 {
		t.Errorf("%s left after the last step", got)
	}
}

func TestWithoutATerminalAPartIsALine(t *testing.T) {
	var out strings.Builder
	m := &meter{out: &out, now: time.Now}
	m.plan("first", 10, time.Second)
	m.enter("first")
	m.step()
	m.say("a word")
	m.leave()
	if got := out.String(); got != "bench: measuring first\nbench: a word\n" {
		t.Errorf("%q", got)
	}
}
