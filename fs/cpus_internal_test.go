// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// smallTree is a CPUTree of two CPUs with one file each.
func smallTree(t testing.TB) *HostTree {
	t.Helper()
	dir := t.TempDir()
	for cpu := range 2 {
		sub := fmt.Sprintf("%s/cpu%d", dir, cpu)
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sub+"/file", []byte("x"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := OpenCPUTree(dir, NodeCPU, allCPUs{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return tree
}

// allCPUs is a CPUView of all CPUs.
type allCPUs struct{}

func (allCPUs) LastCPU(*Turn) (int, error)          { return math.MaxInt, nil }
func (allCPUs) CPUOffline(*Turn, int) (bool, error) { return false, nil }

// The kernel holds the ids of the host's entries over a change of daemons.
func TestHostIDsNeverChange(t *testing.T) {
	tree := smallTree(t)
	nodes := &HostTree{salt: "node:"}
	if got := nodes.id("node0/cpulist"); got != 0x93821a75d63a6708 {
		t.Errorf("node0/cpulist has id %#x", uint64(got))
	}
	for path, id := range map[string]NodeID{
		"cpu0":                  0xdb6309151b56cfec,
		"cpu1/topology/core_id": 0xd41f54a69af9d7b6,
		"kernel_max":            0xe1a8a32ae0030a9e,
	} {
		if got := tree.id(path); got != id {
			t.Errorf("%s has id %#x, had %#x", path, uint64(got), uint64(id))
		}
	}
}

func TestHostIDsDiffer(t *testing.T) {
	tree := smallTree(t)
	seen := make(map[NodeID]string)
	for cpu := range 2048 {
		for file := range 100 {
			path := fmt.Sprintf("cpu%d/topology/file%d", cpu, file)
			id := tree.id(path)
			if other, ok := seen[id]; ok || id&hostBit == 0 {
				t.Fatalf("%s and %s have the id %#x", path, other, uint64(id))
			}
			seen[id] = path
		}
	}
}

func TestTwoEntriesWithOneIDAreNotMixedUp(t *testing.T) {
	tree := smallTree(t)
	tree.paths[tree.id("cpu0")] = "other"
	if _, err := tree.remember("cpu0"); err == nil {
		t.Error("one has taken the other's place")
	}
}

// TestMadeUpNamesCostNoMemory looks names up that the host does not have.
func TestMadeUpNamesCostNoMemory(t *testing.T) {
	tree := smallTree(t)
	s := NewTestServer(NewConn(devNull(t)), content("x"), ServerOptions{Hosts: []*HostTree{tree}})
	w := newTurn(s)
	execute(s, w, wire(header(opLookup, NodeCPU), "cpu0\x00"))
	for i := range 10_000 {
		execute(s, w, wire(header(opLookup, NodeCPU), fmt.Sprintf("cpu%d\x00", i+2)))
		execute(s, w, wire(header(opLookup, tree.id("cpu0")), fmt.Sprintf("name%d\x00", i)))
	}
	for _, name := range []string{"", ".", "..", "../..", "cpu0/file", "cpu0/../../..", "/etc", "cpu0/"} {
		execute(s, w, wire(header(opLookup, NodeCPU), name+"\x00"))
		execute(s, w, wire(header(opLookup, tree.id("cpu0")), name+"\x00"))
	}
	if len(tree.paths) != 1 {
		t.Errorf("%d names are kept: %v", len(tree.paths), tree.paths)
	}
}

func TestKnownPathsAreBounded(t *testing.T) {
	tree := smallTree(t)
	if _, err := tree.remember("cpu0/file"); err != nil {
		t.Fatal(err)
	}
	for i := range maxPaths + 10 {
		if _, err := tree.remember(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(tree.paths) > maxPaths {
		t.Errorf("%d paths are kept", len(tree.paths))
	}
	// What was forgotten is found again, but not while all others wait.
	s := &Server{hosts: []*HostTree{tree}}
	id := tree.id("cpu0/file")
	if _, _, err := s.hostEntryOf(&Turn{request: request{id: id}, blockErr: unix.EAGAIN}); err != unix.EAGAIN {
		t.Errorf("without blocking: %v", err)
	}
	if h, path, err := s.findHost(id); h != tree || path != "cpu0/file" || err != nil {
		t.Errorf("%q, %v", path, err)
	}
	if _, _, err := s.findHost(tree.id("cpu2/file")); err != unix.ESTALE {
		t.Errorf("what is not there: %v", err)
	}
}

func TestPathsLeadNowhereElse(t *testing.T) {
	tree := smallTree(t)
	for _, path := range []string{"..", "../..", "cpu0/../..", "/", "/etc/passwd"} {
		if fd, err := tree.open(path, unix.O_PATH); err == nil {
			unix.Close(fd)
			t.Errorf("%s leads somewhere", path)
		}
	}
}

func TestNumbersOfCPUs(t *testing.T) {
	for path, want := range map[string]int{
		"cpu0": 0, "cpu12": 12, "cpu12/topology/core_id": 12, "cpu": -1, "cpufreq": -1, "cpuidle/x": -1,
		"cpu-1": -1, "cpu+1": -1, "cpu1x": -1, "online": -1, ".": -1, "x/cpu1": -1, "cpu99999999999999999999": -1,
	} {
		if got, _ := cpuOf(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

// FuzzHostRequest gives any bytes to the dispatcher of a server that shows the
// host's CPUs.
func FuzzHostRequest(f *testing.F) {
	tree := smallTree(f)
	for _, path := range []string{"cpu0", "cpu1/file", "gone"} {
		for _, node := range []NodeID{NodeCPU, tree.id(path)} {
			for op := range uint32(60) {
				f.Add(wire(header(op, node), ""))
				f.Add(wire(header(op, node), "cpu1\x00"))
				f.Add(wire(fuse.ReadIn{InHeader: header(op, node), Fh: 1, Size: 4096, ReadFlags: fuse.READ_LOCKOWNER}, ""))
				f.Add(wire(fuse.ReadIn{InHeader: header(op, node), Fh: 1, Offset: 1<<64 - 1, Size: 1<<32 - 1}, ""))
				f.Add(wire(fuse.AccessIn{InHeader: header(op, node), Mask: 4}, ""))
			}
		}
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		s := NewTestServer(NewConn(devNull(t)), content("content\n"), ServerOptions{Hosts: []*HostTree{tree}})
		s.Stop() // a reader that takes over ends at once
		w := newTurn(s)
		in := s.journal.Slot()
		n := copy(in, request)
		execute(s, w, in[:n])
		s.active.Wait()
		if w := s.waits; w.work.running != 0 || w.hostReads.running != 0 || len(w.hostReads.busy) != 0 || len(w.pending) != 0 {
			t.Errorf("a turn is left: %+v", w)
		}
	})
}

// FuzzDirents gives any bytes as those of getdents64(2).
func FuzzDirents(f *testing.F) {
	entry := make([]byte, 24)
	binary.NativeEndian.PutUint16(entry[16:], 24)
	entry[18] = unix.DT_DIR
	copy(entry[19:], "cpu0")
	f.Add(entry)
	f.Add(append(entry, entry[:20]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		left := len(b)
		for rest := b; ; {
			d, next, ok := nextDirent(rest)
			if !ok {
				break
			}
			if left -= direntFixed + len(d.name); left < 0 || len(next) >= len(rest) {
				t.Fatalf("%d bytes are left of %d", len(next), len(b))
			}
			rest = next
		}
	})
}
