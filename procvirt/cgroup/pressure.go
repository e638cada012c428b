// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"vprocfs/procvirt/held"
)

// ErrNoPressure is returned for a v2 group if no group counts its stalls
// (cgroup_disable=pressure, or a kernel without it).
var ErrNoPressure = errors.New("control group has no pressure stall information")

// Resource is what a task can be stalled for.
type Resource int

// The resources that have a file in every v2 group, if the kernel counts them.
const (
	CPUPressure Resource = iota
	MemoryPressure
	IOPressure
	IRQPressure
	NumResources
)

var pressureFiles = [NumResources]string{"cpu.pressure", "memory.pressure", "io.pressure", "irq.pressure"}

// PressureFile returns the path of the file that says how much the group at p was
// stalled for r (cgroup-v2.rst, "CPU Interface Files" and the like).
func PressureFile(p Place, r Resource) string { return p.Dirs[0] + "/" + pressureFiles[r] }

// PressureFiles keeps open the files that were asked for. Methods but Close and
// Open are safe for concurrent use.
type PressureFiles struct {
	files [NumResources]*held.File
}

// Open opens the file of r at p. It is read from no other group: an ancestor's
// stalls are not the container's. EOPNOTSUPP says that cgroup.pressure is 0.
func (f *PressureFiles) Open(o *held.Opener, p Place, r Resource) error {
	if f.files[r] != nil {
		return nil
	}
	file, err := o.Open(PressureFile(p, r))
	if errors.Is(err, unix.ENOENT) {
		if !isDir(p.Dirs[0]) {
			return fmt.Errorf("%s: %w", p.Dirs[0], ErrRemoved)
		}
		// Since Linux 6.1 the group can be told not to count them, and has no such
		// file then. Reads of one that is open for long fail with EOPNOTSUPP.
		if held.ReadsAs(p.Dirs[0]+"/cgroup.pressure", "0") {
			return fmt.Errorf("%s: %w", PressureFile(p, r), unix.EOPNOTSUPP)
		}
		return fmt.Errorf("%s: %w", PressureFile(p, r), ErrNoPressure)
	}
	f.files[r] = file
	return err
}

// Has reports whether the file of r is open.
func (f *PressureFiles) Has(r Resource) bool { return f.files[r] != nil }

// Read returns the text for r, in buf's memory if that is large enough.
func (f *PressureFiles) Read(r Resource, buf []byte) ([]byte, error) {
	b, err := f.files[r].Read(buf)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%s: %w", f.files[r].Path(), ErrNoPressure)
	}
	return b, err
}

// Close closes the files.
func (f *PressureFiles) Close() {
	for r, file := range f.files {
		file.Close()
		f.files[r] = nil
	}
}
