// SPDX-License-Identifier: Apache-2.0

// Package psi keeps triggers on pressure stall information (PSI). A trigger is an
// open file *.pressure of a control group to which a threshold was written; poll(2)
// reports when it is passed (Documentation/accounting/psi.rst).
package psi

import (
	"bytes"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/internal/scan"
)

// Limits of a window in microseconds, as the kernel documents them. Linux 6.4 and
// later take smaller ones. Each trigger costs the host ten wake-ups in a window.
const (
	minWindow = 500_000
	maxWindow = 10_000_000
	// averaging is the period of the kernel's averages. A trigger with a window
	// that is a multiple of it is checked when the averages are made, and needs no
	// real-time thread (Linux 6.5).
	averaging = 2_000_000
)

// Trigger asks for an event when tasks were stalled for Threshold within Window,
// both in microseconds.
type Trigger struct {
	// Full counts the time in which all tasks were stalled, not only some.
	Full              bool
	Threshold, Window uint32
}

// Parse parses what a program has written: "some 150000 1000000", with anything after
// it, as the kernel does for a control group's file (psi_trigger_create,
// kernel/sched/psi.c). It refuses numbers that the kernel would cut to 32 bits. All
// errors are EINVAL.
func Parse(text []byte) (Trigger, error) {
	var t Trigger
	if len(text) < 4 {
		return t, invalid("no trigger")
	}
	switch string(text[:4]) {
	case "some":
	case "full":
		t.Full = true
	default:
		return t, invalid("neither some nor full")
	}
	text = text[4:]
	for _, n := range [...]*uint32{&t.Threshold, &t.Window} {
		text = bytes.TrimLeft(text, " \t\n\v\f\r")
		v, digits := scan.Uint(text)
		if digits == 0 || v > math.MaxUint32 {
			return t, invalid("not two numbers of 32 bits")
		}
		*n = uint32(v)
		text = text[digits:]
	}
	switch {
	case t.Window < minWindow || t.Window > maxWindow:
		return t, invalid("window is not from %d to %d us", minWindow, maxWindow)
	case t.Threshold == 0 || t.Threshold > t.Window:
		return t, invalid("threshold is not from 1 us to the window")
	}
	return t, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, unix.EINVAL)...)
}

// Cheap reports whether the kernel needs no thread of its own for the trigger. It
// lets everyone set such a trigger (Linux 6.5).
func (t Trigger) Cheap() bool { return t.Window%averaging == 0 }

// String returns the trigger as the kernel reads it.
func (t Trigger) String() string {
	which := "some"
	if t.Full {
		which = "full"
	}
	return fmt.Sprintf("%s %d %d", which, t.Threshold, t.Window)
}
