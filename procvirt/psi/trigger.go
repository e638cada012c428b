// Package psi keeps triggers on pressure stall information (PSI): each is a file
// *.pressure of a control group to which a threshold was written, and which
// poll(2) then tells when it was passed (Documentation/accounting/psi.rst).
package psi

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/internal/scan"
)

// Limits of a window in microseconds, as the kernel documents them. Kernels since
// 6.4 take smaller ones, of which each costs the host a wake-up ten times in the
// window.
const (
	minWindow = 500_000
	maxWindow = 10_000_000
	// averaging is the period in which the kernel makes its averages. Triggers
	// with a window that is a multiple of it are looked after on that occasion,
	// and need no real-time thread (Linux 6.5).
	averaging = 2_000_000
)

// Trigger is what a program wants to be told: that tasks were stalled for
// Threshold within Window. Both are in microseconds.
type Trigger struct {
	// Full asks for the time in which all tasks were stalled, not only some.
	Full              bool
	Threshold, Window uint32
}

// Parse reads what a program has written, "some 150000 1000000" with anything
// behind it, as the kernel does for a control group's file (psi_trigger_create,
// kernel/sched/psi.c). Numbers that the kernel would cut to 32 bits are refused.
// All errors are EINVAL.
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
		for len(text) > 0 && isSpace(text[0]) {
			text = text[1:]
		}
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

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, unix.EINVAL)...)
}

// Cheap tells whether the kernel needs no thread of its own for the trigger, so
// that it lets everyone set it (Linux 6.5).
func (t Trigger) Cheap() bool { return t.Window%averaging == 0 }

// String is the trigger as the kernel reads it.
func (t Trigger) String() string {
	which := "some"
	if t.Full {
		which = "full"
	}
	return fmt.Sprintf("%s %d %d", which, t.Threshold, t.Window)
}
