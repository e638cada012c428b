package procvirt

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"

	"vprocfs/procvirt/cgroup"
	"vprocfs/procvirt/internal/scan"
)

// /proc/cpuinfo is made by each architecture in its own way (show_cpuinfo or
// c_show, arch/*/kernel). Two layouts cover them:
//
//   - x86, arm64, ppc64, riscv: a block of lines for each CPU that is online. It
//     begins with "processor : N" and ends with an empty line. What stands before
//     the first block (loongarch) or behind the last (ppc64) is of the machine.
//   - s390x: lines of the machine, with "# processors : COUNT" and a line
//     "processor N: ..." for each CPU. Then come blocks, each an empty line,
//     "cpu number : N" and more.

// Package is a physical package of CPUs, as far as the container sees it.
type Package struct {
	ID uint64 // as cpuinfo's "physical id"
	// CPUs is how many of its CPUs are visible, Cores how many cores these are
	// in.
	CPUs, Cores uint64
}

// core is where a visible CPU sits.
type core struct {
	cpu       int
	pkg, core uint64
	known     bool // which package it is in
}

// cpuinfoLine is one line, taken apart.
type cpuinfoLine struct {
	text         []byte
	label, value []byte // without blanks; both empty where there is no colon
	// cpu is the CPU that the line is about, -1 for the machine.
	cpu int
	// first says that a block begins here.
	first bool
}

// cpuinfoLines goes through the text of /proc/cpuinfo.
type cpuinfoLines struct {
	text []byte
	cpu  int // whose block it is in, -1 where it is in none
	s390 bool
}

func newCPUInfoLines(text []byte) cpuinfoLines { return cpuinfoLines{text: text, cpu: -1} }

// next cuts off a line. It answers false at the end.
func (l *cpuinfoLines) next() (line cpuinfoLine, ok bool) {
	if len(l.text) == 0 {
		return line, false
	}
	line.text, l.text = scan.Line(l.text)
	line.split()
	switch {
	case line.isBlock():
		l.cpu, line.first = cpuNumber(line.value), true
	case string(line.label) == "# processors":
		l.s390 = true
	case len(line.text) == 0 && l.s390:
		// It belongs to the block that begins behind it, if one does.
		l.cpu = -1
		var after cpuinfoLine
		after.text, _ = scan.Line(l.text)
		if after.split(); after.isBlock() {
			l.cpu = cpuNumber(after.value)
		}
	case len(line.text) == 0:
		line.cpu, l.cpu = l.cpu, -1
		return line, true
	case l.s390 && l.cpu < 0:
		if n, ok := bytes.CutPrefix(line.label, []byte("processor ")); ok && isNumber(n) {
			line.cpu = cpuNumber(n)
			return line, true
		}
	}
	line.cpu = l.cpu
	return line, true
}

func (l *cpuinfoLine) split() {
	label, value, ok := bytes.Cut(l.text, []byte(":"))
	if ok {
		l.label, l.value = bytes.Trim(label, " \t"), bytes.Trim(value, " \t")
	}
}

// isBlock tells whether a block begins with the line.
func (l *cpuinfoLine) isBlock() bool {
	switch string(l.label) {
	case "processor", "cpu number":
		return isNumber(l.value)
	}
	return false
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

// sees tells whether the line is shown.
func (v *View) sees(l *cpuinfoLine) bool { return l.cpu < 0 || v.Visible.Has(l.cpu) }

// countPackages fills Packages from Host and Visible.
func (v *View) countPackages() {
	v.cores = v.cores[:0]
	lines := newCPUInfoLines(v.Host)
	for l, ok := lines.next(); ok; l, ok = lines.next() {
		if l.cpu < 0 || !v.sees(&l) {
			continue
		}
		if l.first {
			// A CPU without a core id is a core.
			v.cores = append(v.cores, core{cpu: l.cpu, core: uint64(l.cpu)})
		}
		if len(v.cores) == 0 || !isNumber(l.value) {
			continue
		}
		last := &v.cores[len(v.cores)-1]
		switch string(l.label) {
		case "physical id":
			last.pkg, _ = scan.Uint(l.value)
			last.known = true
		case "core id":
			last.core, _ = scan.Uint(l.value)
		}
	}
	slices.SortFunc(v.cores, func(a, b core) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.core, b.core))
	})
	v.Packages = v.Packages[:0]
	var before *core
	for i := range v.cores {
		c := &v.cores[i]
		if !c.known {
			continue
		}
		if before == nil || before.pkg != c.pkg {
			v.Packages = append(v.Packages, Package{ID: c.pkg})
			before = nil
		}
		p := &v.Packages[len(v.Packages)-1]
		p.CPUs++
		if before == nil || before.core != c.core {
			p.Cores++
		}
		before = c
	}
}

// appendCPUInfo makes /proc/cpuinfo: the host's lines, without those of CPUs that
// are not visible. The counts of CPUs are no larger than what is visible; all
// other numbers are the hardware's, those of the CPUs too, so that they fit
// sched_getaffinity(2).
func appendCPUInfo(dst []byte, v *View) []byte {
	var pkg *Package // of the block
	lines := newCPUInfoLines(v.Host)
	for l, ok := lines.next(); ok; l, ok = lines.next() {
		if !v.sees(&l) {
			continue
		}
		if l.first {
			pkg = nil
		}
		switch string(l.label) {
		case "# processors":
			dst = appendAtMost(dst, &l, uint64(v.Visible.Count()))
		case "physical id":
			pkg = v.pkg(l.value)
			dst = append(dst, l.text...)
		case "siblings":
			if pkg != nil {
				dst = appendAtMost(dst, &l, pkg.CPUs)
				break
			}
			dst = append(dst, l.text...)
		case "cpu cores":
			if pkg != nil {
				dst = appendAtMost(dst, &l, pkg.Cores)
				break
			}
			dst = append(dst, l.text...)
		default:
			dst = append(dst, l.text...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// pkg finds a package by its physical id.
func (v *View) pkg(id []byte) *Package {
	n, _ := scan.Uint(id)
	i, ok := slices.BinarySearchFunc(v.Packages, n, func(p Package, id uint64) int { return cmp.Compare(p.ID, id) })
	if !ok || !isNumber(id) {
		return nil
	}
	return &v.Packages[i]
}

// appendAtMost writes a line with its number, or most where that is less.
func appendAtMost(dst []byte, l *cpuinfoLine, most uint64) []byte {
	n, _ := scan.Uint(l.value)
	if !isNumber(l.value) || n <= most {
		return append(dst, l.text...)
	}
	at := bytes.LastIndex(l.text, l.value)
	dst = append(dst, l.text[:at]...)
	return strconv.AppendUint(dst, most, 10)
}
