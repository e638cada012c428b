// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"math"
	"os"
	"path/filepath"

	"vprocfs/procvirt/held"
	"vprocfs/procvirt/internal/scan"
)

// sharesPerCPU is how many CPU shares stand for a request of one CPU
// (MilliCPUToShares, pkg/kubelet/cm/helpers_linux.go of Kubernetes).
const sharesPerCPU = 1024

// The largest weight of v2 and the largest shares of v1.
const (
	maxWeight = 10000
	maxShares = 262144
)

// Formula is how a runtime makes a cpu.weight of v2 of the CPU shares it is asked for.
type Formula int

const (
	// Shares converts nothing: v1 has the shares themselves.
	Shares Formula = iota
	// Linear is weight = 1 + (shares-2)*9999/262142, rounded down, as Kubernetes'
	// KEP-2254 has it: runc before 1.3.2, crun before 1.23, the kubelet before 1.35.
	Linear
	// Quadratic is weight = 10^((l*l+125*l)/612 - 7/34), rounded up, where l is
	// log2(shares): later versions of them. It makes the default 100 of the default 1024.
	Quadratic
)

func (f Formula) String() string { return [...]string{"shares", "linear", "quadratic"}[f] }

// invert returns the least and the most shares that the formula makes weight of.
func (f Formula) invert(weight uint64) (least, most float64) {
	switch {
	case f == Shares:
		return float64(weight), float64(weight)
	case weight <= 1:
		return 2, 2 // also of no request at all
	case weight >= maxWeight:
		return maxShares, maxShares
	case f == Linear:
		const step = 262142. / 9999
		return 2 + math.Ceil(float64(weight-1)*step), 1 + math.Ceil(float64(weight)*step)
	}
	solve := func(weight uint64) float64 {
		return math.Exp2((math.Sqrt(125*125+4*612*(math.Log10(float64(weight))+7./34)) - 125) / 2)
	}
	// A share less, for the power is not exact: a weight of 101 may be that of 1024.
	return math.Floor(solve(weight - 1)), math.Floor(solve(weight))
}

// CPUs returns how many CPUs were requested if that made weight, rounded up, at least 1.
// Several requests make the same weight. The least of them counts, so that a request of
// whole CPUs is always right, and one at most 3 % above is taken for whole.
func (f Formula) CPUs(weight uint64) int {
	least, _ := f.invert(weight)
	return int(max(1, min(math.Ceil(least/sharesPerCPU), MaxCPUs)))
}

// RequestFile keeps open the file that says how much CPU a container requested.
type RequestFile struct {
	files
	file *held.File // nil if there is none
	// Formula is how the file is to be read.
	Formula Formula
}

// OpenRequest opens the cpu.weight or cpu.shares of the group at p. sys is where sysfs
// is mounted. A group without the controller has the weight of its parent if it is the
// only one there: some runtimes put a container into a group below its own. Otherwise
// it has none.
func OpenRequest(o *held.Opener, p Place, sys string) (*RequestFile, error) {
	r := &RequestFile{files: files{opener: o}}
	name := "/cpu.shares"
	if p.V2 {
		name = "/cpu.weight"
	}
	for i, dir := range p.Dirs {
		if p.Root || i > 0 && !hasOneChild(dir) {
			break
		}
		if r.file = r.optional(i, dir+name); r.file != nil && p.V2 {
			r.Formula = formulaOf(p.Dirs[i:], sys)
		}
		if r.file != nil || r.err != nil {
			break
		}
	}
	if r.file == nil && r.err == nil {
		r.err = checkRemoved(p.Dirs)
	}
	return opened(r, &r.files)
}

// hasOneChild reports whether the group has one child and no more.
func hasOneChild(dir string) bool {
	list, err := os.ReadDir(dir)
	n := 0
	for _, e := range list {
		if e.IsDir() {
			n++
		}
	}
	return err == nil && n == 1
}

// Read returns how many CPUs the container requested, rounded up, and 0 if that is not
// known. It works in buf, which it returns, grown if needed.
func (f *RequestFile) Read(buf []byte) (int, []byte, error) {
	if f.file == nil {
		return 0, buf, nil
	}
	r := reader{buf: buf}
	weight := r.number(f.file)
	return f.Formula.CPUs(weight), r.buf, r.err
}

// Path returns the path of the file, "" if there is none.
func (f *RequestFile) Path() string {
	if f.file == nil {
		return ""
	}
	return f.file.Path()
}

// formulaOf finds out which formula made the weight of the group dirs[0]. The weight
// itself does not tell. But in Kubernetes the containers of a pod do not request more
// than the pod, and all pods not more than the node has CPUs. A weight of the
// quadratic formula that is read by the linear one is 4 times as much at 0.1 CPUs and 1.6
// times at 10, and does not fit in there. The kubelet writes the weights of pods, and the
// runtime those of containers, and they may differ.
//
// formulaOf returns Quadratic if there are no sums to compare.
func formulaOf(dirs []string, sys string) Formula {
	node := -1
	for i, dir := range dirs {
		if base := filepath.Base(dir); base == "kubepods.slice" || base == "kubepods" {
			node = i
		}
	}
	if node < 2 { // dirs[0] is not a container of a pod
		return Quadratic
	}
	cpus := onlineCPUs(sys)
	all, ok := weightOf(dirs[node])
	if !ok || cpus == 0 {
		return Quadratic
	}
	kubelet := Linear
	if least, _ := Linear.invert(all); least > float64(cpus)*sharesPerCPU {
		kubelet = Quadratic
	}
	pod, ok := weightOf(dirs[1])
	if !ok {
		return kubelet
	}
	list, err := os.ReadDir(dirs[1])
	if err != nil {
		return kubelet
	}
	_, most := kubelet.invert(pod)
	requested := 0.
	for _, e := range list {
		if !e.IsDir() {
			continue
		}
		if weight, ok := weightOf(filepath.Join(dirs[1], e.Name())); ok {
			least, _ := Linear.invert(weight)
			requested += least - 2
		}
	}
	if requested > most {
		return Quadratic
	}
	return Linear
}

// weightOf reads the cpu.weight of a group. It returns false if there is none.
func weightOf(dir string) (weight uint64, ok bool) {
	text, err := os.ReadFile(dir + "/cpu.weight")
	weight, n := scan.Uint(text)
	return weight, err == nil && n > 0
}

// onlineCPUs returns how many CPUs are online, 0 if that is not known.
func onlineCPUs(sys string) int {
	var set CPUs
	text, err := os.ReadFile(filepath.Join(sys, "devices/system/cpu/online"))
	if err != nil || set.Parse(text) != nil {
		return 0
	}
	return set.Count()
}
