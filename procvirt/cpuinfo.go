package procvirt

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"

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
	host []byte // the host's text
	// packages count the visible CPUs by physical id, ascending.
	packages []cpuPackage
	cores    []core // what packages is made from
}

func (n *cpuinfo) reset() {
	n.cpuView.reset()
	*n = cpuinfo{cpuView: n.cpuView, packages: n.packages[:0], cores: n.cores[:0]}
}

func (n *cpuinfo) gather(c *Container) error {
	if err := n.cpuView.gather(c); err != nil {
		return err
	}
	var err error
	if c.host, err = c.registry.readHost("proc/cpuinfo", c.host); err != nil {
		return err
	}
	n.host = c.host
	n.countPackages()
	return nil
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

// cpuinfoLine is one line, taken apart.
type cpuinfoLine struct {
	text         []byte
	label, value []byte // without blanks; both empty if there is no colon
	// cpu is the CPU that the line is about, -1 for the machine.
	cpu int
	// first says that a block begins here.
	first bool
}

// cpuinfoLines goes through the text of /proc/cpuinfo.
type cpuinfoLines struct {
	text []byte
	cpu  int // whose block it is in, -1 if it is in none
	s390 bool
}

func newCPUInfoLines(text []byte) cpuinfoLines { return cpuinfoLines{text: text, cpu: -1} }

// next cuts off a line. It returns false at the end.
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

// isBlock reports whether a block begins with the line.
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

// sees reports whether the line is shown.
func (n *cpuinfo) sees(l *cpuinfoLine) bool { return l.cpu < 0 || n.visible.Has(l.cpu) }

// countPackages fills packages from host and visible.
func (n *cpuinfo) countPackages() {
	n.cores = n.cores[:0]
	lines := newCPUInfoLines(n.host)
	for l, ok := lines.next(); ok; l, ok = lines.next() {
		if l.cpu < 0 || !n.sees(&l) {
			continue
		}
		if l.first {
			// A CPU without a core id is a core.
			n.cores = append(n.cores, core{cpu: l.cpu, core: uint64(l.cpu)})
		}
		if len(n.cores) == 0 || !isNumber(l.value) {
			continue
		}
		last := &n.cores[len(n.cores)-1]
		switch string(l.label) {
		case "physical id":
			last.pkg, _ = scan.Uint(l.value)
			last.known = true
		case "core id":
			last.core, _ = scan.Uint(l.value)
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
	lines := newCPUInfoLines(n.host)
	for l, ok := lines.next(); ok; l, ok = lines.next() {
		if !n.sees(&l) {
			continue
		}
		if l.first {
			pkg = nil
		}
		most := uint64(math.MaxUint64)
		switch string(l.label) {
		case "# processors":
			most = uint64(n.visible.Count())
		case "physical id":
			pkg = n.pkg(l.value)
		case "siblings":
			if pkg != nil {
				most = pkg.cpus
			}
		case "cpu cores":
			if pkg != nil {
				most = pkg.cores
			}
		}
		if most < math.MaxUint64 {
			dst = appendAtMost(dst, &l, most)
		} else {
			dst = append(dst, l.text...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// pkg finds a package by its physical id.
func (n *cpuinfo) pkg(id []byte) *cpuPackage {
	want, _ := scan.Uint(id)
	i, ok := slices.BinarySearchFunc(n.packages, want, func(p cpuPackage, id uint64) int { return cmp.Compare(p.id, id) })
	if !ok || !isNumber(id) {
		return nil
	}
	return &n.packages[i]
}

// appendAtMost writes a line with its number, or most if that is less.
func appendAtMost(dst []byte, l *cpuinfoLine, most uint64) []byte {
	n, digits := scan.Uint(l.value)
	if digits == 0 || digits < len(l.value) || n <= most {
		return append(dst, l.text...)
	}
	at := bytes.LastIndex(l.text, l.value)
	dst = append(dst, l.text[:at]...)
	return strconv.AppendUint(dst, most, 10)
}
