// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"vprocfs/procvirt/held"
)

// linear and quadratic are what the runtimes do.
func linear(shares uint64) uint64 {
	if shares < 2 {
		return 1
	}
	return 1 + (shares-2)*9999/262142
}

func quadratic(shares uint64) uint64 {
	if shares <= 2 {
		return 1
	}
	if shares >= 262144 {
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7./34)))
}

func formulas() map[Formula]func(uint64) uint64 {
	return map[Formula]func(uint64) uint64{Shares: func(s uint64) uint64 { return s }, Linear: linear, Quadratic: quadratic}
}

func TestRequestIsRoundedUpToWholeCPUs(t *testing.T) {
	for f, convert := range formulas() {
		for _, tt := range []struct {
			milli uint64
			want  int
		}{
			{1, 1}, {10, 1}, {100, 1}, {500, 1}, {999, 1}, {1000, 1}, {1100, 2}, {1500, 2}, {1900, 2},
			{2000, 2}, {2500, 3}, {4000, 4}, {7500, 8}, {32000, 32}, {100_000, 100}, {256_000, 256},
		} {
			shares := tt.milli * 1024 / 1000
			if got := f.CPUs(convert(shares)); got != tt.want {
				t.Errorf("%s: a request of %dm, weight %d: %d CPUs, want %d", f, tt.milli, convert(shares), got, tt.want)
			}
		}
		for cpus := uint64(1); cpus <= 256; cpus++ {
			if got := f.CPUs(convert(1024 * cpus)); got != int(cpus) {
				t.Errorf("%s: a request of %d CPUs: %d", f, cpus, got)
			}
		}
	}
}

func TestRequestIsNeverTooLargeForASet(t *testing.T) {
	for _, f := range []Formula{Shares, Linear, Quadratic} {
		for _, weight := range []uint64{0, 1, 2, 100, 10000, 262144, math.MaxUint64} {
			if n := f.CPUs(weight); n < 1 || n > MaxCPUs {
				t.Errorf("%s: weight %d is %d CPUs", f, weight, n)
			}
		}
	}
}

// TestInverseHoldsTheSharesItCameFrom over all that there are.
func TestInverseHoldsTheSharesItCameFrom(t *testing.T) {
	for f, convert := range formulas() {
		for shares := uint64(2); shares <= 262144; shares++ {
			least, most := f.invert(convert(shares))
			if weight := convert(shares); weight > 1 && weight < 10000 && (float64(shares) < least || float64(shares) > most) {
				t.Fatalf("%s: %d shares make %d, which is of %v to %v", f, shares, weight, least, most)
			}
		}
	}
}

// kubeNode is a node of Kubernetes with one pod, below a directory of the test.
type kubeNode struct{ root string }

func (n kubeNode) write(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(n.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

const pod = "cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"

func (n kubeNode) place() Place {
	p := Place{V2: true}
	for dir := filepath.Join(n.root, pod, "cri-containerd-0.scope"); dir != filepath.Join(n.root, "cgroup"); dir = filepath.Dir(dir) {
		p.Dirs = append(p.Dirs, dir)
	}
	return p
}

// TestFormulaIsFoundFromWhatThePodRequested, whatever versions the kubelet and the
// runtime have.
func TestFormulaIsFoundFromWhatThePodRequested(t *testing.T) {
	for _, tt := range []struct {
		name       string
		cpus       int // of the node
		reserved   uint64
		containers []uint64 // requests in milli-CPUs, the container's first
	}{
		{"one container", 4, 100, []uint64{1500}},
		{"with a sidecar", 8, 0, []uint64{1500, 100}},
		{"the sidecar", 16, 500, []uint64{100, 3000}},
		{"without a request beside it", 2, 0, []uint64{1500, 0}},
		{"small ones", 4, 0, []uint64{250, 250, 250}},
		{"a large one", 64, 1000, []uint64{48_000, 10}},
	} {
		for _, kubelet := range []Formula{Linear, Quadratic} {
			for _, runtime := range []Formula{Linear, Quadratic} {
				t.Run(fmt.Sprintf("%s, kubelet %s, runtime %s", tt.name, kubelet, runtime), func(t *testing.T) {
					n, sum := kubeNode{t.TempDir()}, uint64(0)
					weight := func(f Formula, milli uint64) string {
						return fmt.Sprint(formulas()[f](max(milli*1024/1000, 2)))
					}
					n.write(t, "sys/devices/system/cpu/online", fmt.Sprintf("0-%d", tt.cpus-1))
					n.write(t, pod+"/cri-containerd-sandbox.scope/cpu.weight", "1")
					for i, milli := range tt.containers {
						n.write(t, fmt.Sprintf("%s/cri-containerd-%d.scope/cpu.weight", pod, i), weight(runtime, milli))
						sum += milli
					}
					n.write(t, pod+"/cpu.weight", weight(kubelet, sum))
					n.write(t, "cgroup/kubepods.slice/cpu.weight", weight(kubelet, uint64(tt.cpus)*1000-tt.reserved))
					var o held.Opener
					r, err := OpenRequest(&o, n.place(), filepath.Join(n.root, "sys"))
					if err != nil {
						t.Fatal(err)
					}
					got, _, err := r.Read(nil)
					if want := int(tt.containers[0]+999) / 1000; r.Formula != runtime || got != want || err != nil {
						t.Errorf("%d CPUs by the formula %s (%v), want %d", got, r.Formula, err, want)
					}
					r.Close()
					if o.Count() != 0 {
						t.Errorf("%d files are open", o.Count())
					}
				})
			}
		}
	}
}

func TestRequestOfAGroupWithoutTheController(t *testing.T) {
	for _, siblings := range []bool{false, true} {
		n := kubeNode{t.TempDir()}
		n.write(t, "cgroup/a/cpu.weight", "138")
		n.write(t, "cgroup/a/container/cgroup.procs", "")
		want := 2 // the group above is the container's alone
		if siblings {
			n.write(t, "cgroup/a/other/cgroup.procs", "")
			want = 0
		}
		p := Place{V2: true, Dirs: []string{filepath.Join(n.root, "cgroup/a/container"), filepath.Join(n.root, "cgroup/a")}}
		r, err := OpenRequest(new(held.Opener), p, filepath.Join(n.root, "sys"))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := r.Read(nil); got != want || err != nil {
			t.Errorf("siblings %t: %d CPUs (%v), want %d", siblings, got, err, want)
		}
		r.Close()
	}
}
