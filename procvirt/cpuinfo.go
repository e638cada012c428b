// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
)

func cpuinfoFile() File {
	return File{
		Path: "proc/cpuinfo", Node: 19, Mode: 0o444, Size: SizeContent,
		host:    host.Source{Records: true},
		needs:   sourceCPU,
		numbers: func() numbers { return new(cpuinfo) },
	}
}

// cpuinfo is what /proc/cpuinfo shows.
type cpuinfo struct {
	cpuView
	host *cpuinfoText
	// packages count the visible CPUs by physical id, ascending.
	packages []cpuPackage
	cores    []core // what packages is made from
}

func (n *cpuinfo) reset() {
	n.cpuView.reset()
	*n = cpuinfo{cpuView: n.cpuView, packages: n.packages[:0], cores: n.cores[:0]}
}

func (n *cpuinfo) gather(c *Container) (err error) {
	if err := n.cpuView.gather(c); err != nil {
		return err
	}
	if n.host, err = c.hostCPUInfo(); err != nil {
		return err
	}
	n.countPackages()
	return nil
}

// cpuinfoAge is how old the host's text may be, in nanoseconds. All containers share
// it: nothing in it is a limit, and to read it takes 11 us with two CPUs (6.18).
const cpuinfoAge = int64(time.Second)

// cpuinfoText is the host's text. It does not change once it is made.
type cpuinfoText struct {
	lines []cpuinfoLine
	read  int64 // when, on the clock of Config.Now
}

// hostCPUInfo returns the host's text.
func (c *Container) hostCPUInfo() (_ *cpuinfoText, err error) {
	shared := &c.registry.cpuinfo
	if t := shared.Load(); t != nil && c.now < t.read+cpuinfoAge {
		return t, nil
	}
	if c.host, err = c.registry.readHost("proc/cpuinfo", c.host); err != nil {
		return nil, err
	}
	t := parseCPUInfo(c.host)
	t.read = c.now
	shared.Store(t)
	return t, nil
}

// /proc/cpuinfo is made by each architecture in its own way (show_cpuinfo or
// c_show, arch/*/kernel). Two layouts cover them:
//
//   - x86, arm64, ppc64, riscv: a block of lines for each CPU that is online. It
//     begins with "processor : N" and ends with an empty line. What stands before
//     the first block (loongarch) or behind the last (ppc64) is of the machine.
//   - s390x: lines of the machine, with "# processors : COUNT" and a line
//     "processor N: ..." for each CPU. Then come blocks, each an empty line,
//     "cpu number : N" and more.

// cpuPackage is a physical package of CPUs, as far as the container sees it.
type cpuPackage struct {
	id uint64 // as cpuinfo's "physical id"
	// cpus is how many of its CPUs are visible, cores how many cores these are
	// in.
	cpus, cores uint64
}

// core is where a visible CPU sits.
type core struct {
	cpu       int
	pkg, core uint64
	known     bool // which package it is in
}

// cpuinfoLine is one line.
type cpuinfoLine struct {
	text []byte
	// cpu is the CPU that the line is about, -1 for the machine.
	cpu  int
	kind cpuinfoKind
	// value is the number of the kinds that have one.
	value uint64
}

// cpuinfoKind says what a line is, as far as it matters.
type cpuinfoKind uint8

const (
	otherLine   cpuinfoKind = iota
	blockLine               // a CPU's block begins here
	countLine               // s390x: how many CPUs there are
	packageLine             // physical id
	coreLine                // core id
	siblingsLine
	coresLine
)

// cpuinfoKinds are the kinds of lines with a number, by their labels.
var cpuinfoKinds = map[string]cpuinfoKind{
	"processor": blockLine, "cpu number": blockLine, "# processors": countLine,
	"physical id": packageLine, "core id": coreLine, "siblings": siblingsLine, "cpu cores": coresLine,
}

// parseCPUInfo takes the text of /proc/cpuinfo apart. It keeps nothing of it.
func parseCPUInfo(text []byte) *cpuinfoText {
	text = bytes.Clone(text)
	t := &cpuinfoText{lines: make([]cpuinfoLine, 0, bytes.Count(text, []byte("\n"))+1)}
	cpu := -1 // whose block it is, -1 for none
	s390 := false
	for len(text) > 0 {
		var l cpuinfoLine
		l.text, text = scan.Line(text)
		label, value := splitCPUInfo(l.text)
		if isNumber(value) {
			l.kind = cpuinfoKinds[string(label)]
			l.value, _ = scan.Uint(value)
		}
		l.cpu = cpu
		switch {
		case l.kind == blockLine:
			cpu = cpuNumber(value)
			l.cpu = cpu
		case string(label) == "# processors":
			s390 = true
		case len(l.text) == 0 && s390:
			// It belongs to the block that begins behind it, if one does.
			cpu = blockAfter(text)
			l.cpu = cpu
		case len(l.text) == 0:
			cpu = -1
		case s390 && cpu < 0:
			if n, ok := bytes.CutPrefix(label, []byte("processor ")); ok && isNumber(n) {
				l.cpu = cpuNumber(n)
			}
		}
		t.lines = append(t.lines, l)
	}
	return t
}

// blockAfter returns the CPU whose block begins with text, -1 if none does.
func blockAfter(text []byte) int {
	line, _ := scan.Line(text)
	if label, value := splitCPUInfo(line); isNumber(value) && cpuinfoKinds[string(label)] == blockLine {
		return cpuNumber(value)
	}
	return -1
}

// splitCPUInfo returns what stands before and behind the colon of a line, without
// blanks. Both are empty if there is no colon.
func splitCPUInfo(line []byte) (label, value []byte) {
	label, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return nil, nil
	}
	return bytes.Trim(label, " \t"), bytes.Trim(value, " \t")
}

func isNumber(b []byte) bool {
	_, n := scan.Uint(b)
	return n > 0 && n == len(b)
}

// cpuNumber reads the number of a CPU; one too large to be in a set stays so.
func cpuNumber(b []byte) int {
	n, _ := scan.Uint(b)
	return int(min(n, cgroup.MaxCPUs))
}

// sees reports whether the line is shown.
func (n *cpuinfo) sees(l *cpuinfoLine) bool { return l.cpu < 0 || n.visible.Has(l.cpu) }

// countPackages fills packages from host and visible.
func (n *cpuinfo) countPackages() {
	n.cores = n.cores[:0]
	for i := range n.host.lines {
		l := &n.host.lines[i]
		if l.cpu < 0 || !n.sees(l) {
			continue
		}
		if l.kind == blockLine {
			// A CPU without a core id is a core.
			n.cores = append(n.cores, core{cpu: l.cpu, core: uint64(l.cpu)})
		}
		if len(n.cores) == 0 {
			continue
		}
		last := &n.cores[len(n.cores)-1]
		switch l.kind {
		case packageLine:
			last.pkg, last.known = l.value, true
		case coreLine:
			last.core = l.value
		}
	}
	slices.SortFunc(n.cores, func(a, b core) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.core, b.core))
	})
	n.packages = n.packages[:0]
	var before *core
	for i := range n.cores {
		c := &n.cores[i]
		if !c.known {
			continue
		}
		if before == nil || before.pkg != c.pkg {
			n.packages = append(n.packages, cpuPackage{id: c.pkg})
			before = nil
		}
		p := &n.packages[len(n.packages)-1]
		p.cpus++
		if before == nil || before.core != c.core {
			p.cores++
		}
		before = c
	}
}

// append writes /proc/cpuinfo: the host's lines, without those of CPUs that
// are not visible. The counts of CPUs are no larger than what is visible; all
// other numbers are the hardware's, those of the CPUs too, so that they fit
// sched_getaffinity(2).
func (n *cpuinfo) append(dst []byte) []byte {
	var pkg *cpuPackage // of the block
	for i := range n.host.lines {
		l := &n.host.lines[i]
		if !n.sees(l) {
			continue
		}
		most := uint64(math.MaxUint64)
		switch l.kind {
		case blockLine:
			pkg = nil
		case countLine:
			most = uint64(n.visible.Count())
		case packageLine:
			pkg = n.pkg(l.value)
		case siblingsLine:
			if pkg != nil {
				most = pkg.cpus
			}
		case coresLine:
			if pkg != nil {
				most = pkg.cores
			}
		}
		if l.value > most {
			dst = appendNumber(dst, l.text, most)
		} else {
			dst = append(dst, l.text...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// pkg finds a package by its physical id, nil if no visible CPU is in it.
func (n *cpuinfo) pkg(id uint64) *cpuPackage {
	i, ok := slices.BinarySearchFunc(n.packages, id, func(p cpuPackage, id uint64) int { return cmp.Compare(p.id, id) })
	if !ok {
		return nil
	}
	return &n.packages[i]
}

// appendNumber writes a line whose value is a number with n in its place.
func appendNumber(dst, line []byte, n uint64) []byte {
	_, value := splitCPUInfo(line)
	dst = append(dst, line[:bytes.LastIndex(line, value)]...)
	return strconv.AppendUint(dst, n, 10)
}
