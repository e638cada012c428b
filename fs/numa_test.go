// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// fakeNodes is a fs.NodeView: user 0 sees all, others node 1 and CPU 1, and cpulist is ours.
type fakeNodes struct{}

func (fakeNodes) Nodes(t *fs.Turn) (func(int) bool, error) {
	return func(n int) bool { return t.Caller().UID == 0 || n == 1 }, nil
}

func (v fakeNodes) CPUs(t *fs.Turn) (func(int) bool, error) { return v.Nodes(t) }

func (fakeNodes) AppendNode(dst []byte, node int, name string, t *fs.Turn) ([]byte, bool, error) {
	if name != "cpulist" {
		return dst, false, nil
	}
	return fmt.Appendf(dst, "%d of %d\n", node, t.Caller().UID), true, nil
}

// serveNodes serves the directories of CPUs and of three memory nodes, and returns where the
// latter is shown.
func serveNodes(t testing.TB) string {
	t.Helper()
	dir := tempDir(t)
	fakeFile(t, dir, "online", "host\n", 0o444)
	fakeFile(t, dir, "uevent", "", 0o444)
	for node := range 3 {
		fakeFile(t, dir, fmt.Sprintf("node%d/cpulist", node), "host\n", 0o444)
		fakeFile(t, dir, fmt.Sprintf("node%d/distance", node), fmt.Sprintf("%d\n", node), 0o444)
		for cpu := range 2 {
			if err := os.Symlink(fmt.Sprintf("../../cpu/cpu%d", cpu), fmt.Sprintf("%s/node%d/cpu%d", dir, node, cpu)); err != nil {
				t.Fatal(err)
			}
		}
	}
	nodes, err := fs.OpenNodeTree(dir, fs.NodeNUMA, fakeNodes{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Close)
	cpus := openCPUs(t, fakeCPUs(t, 2), nil)
	m := serve(t, constant("ours\n"), fs.ServerOptions{Hosts: []*fs.HostTree{cpus, nodes}})
	if got, err := readAll(m.dir + "/sys/devices/system/cpu/cpu1/topology/core_id"); got != "1\n" || err != nil {
		t.Errorf("beside the nodes: %q, %v", got, err)
	}
	return m.dir + "/sys/devices/system/node"
}

func TestTheDirectoryOfNodesShowsThoseOfTheCaller(t *testing.T) {
	dir := serveNodes(t)
	for name, want := range map[string]string{
		"online": "ours\n", "uevent": "", "node0/cpulist": "0 of 0\n", "node2/cpulist": "2 of 0\n", "node2/distance": "2\n",
	} {
		for range 2 {
			if got, err := readAll(dir + "/" + name); got != want || err != nil {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	}
	names := func(path string) []string {
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		return names
	}
	if got := names(dir); !slices.Equal(got, []string{"node0", "node1", "node2", "online", "uevent"}) {
		t.Errorf("root sees %v", got)
	}
	asUser(t, 1234, func() {
		if got := names(dir); !slices.Equal(got, []string{"node1", "online", "uevent"}) {
			t.Errorf("a user sees %v", got)
		}
		if got := names(dir + "/node1"); !slices.Equal(got, []string{"cpu1", "cpulist", "distance"}) {
			t.Errorf("a user sees %v of node 1", got)
		}
		if got, err := readAll(dir + "/node1/cpulist"); got != "1 of 1234\n" || err != nil {
			t.Errorf("cpulist of node 1: %q, %v", got, err)
		}
		for _, name := range []string{"node0", "node2/distance", "node1/cpu0"} {
			var st unix.Stat_t
			if err := unix.Lstat(dir+"/"+name, &st); !errors.Is(err, unix.ENOENT) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
