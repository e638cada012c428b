package test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// controllersOf returns the controllers that a process has, as /proc/cgroups names them,
// with their hierarchies.
func controllersOf(t testing.TB, pid int) map[string]string {
	t.Helper()
	want := make(map[string]string)
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/cgroup", pid))) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for name := range strings.SplitSeq(f[1], ",") {
			if name != "" && !strings.HasPrefix(name, "name=") {
				want[name] = f[0]
			}
		}
		if f[1] != "" {
			continue
		}
		file := filepath.Join(cgroupMount(t, "cgroup2", ""), f[2], "cgroup.controllers")
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for name := range strings.FieldsSeq(string(text)) {
			if name == "io" {
				name = "blkio"
			}
			want[name] = "0"
		}
	}
	return want
}

func TestCgroupsListsTheControllersOfTheContainer(t *testing.T) {
	c := startContainer(t, "--memory", "256M", "--cpus", "1", "--cpuset", "0")
	got := make(map[string]string)
	for i, line := range strings.Split(strings.TrimSuffix(c.sh(t, "cat /proc/cgroups"), "\n"), "\n") {
		f := strings.Split(line, "\t")
		switch {
		case i == 0:
			if line != "#subsys_name\thierarchy\tnum_cgroups\tenabled" {
				t.Errorf("heading %q", line)
			}
		case len(f) != 4 || f[2] != "1" || f[3] != "1":
			t.Errorf("%q: not one group", line)
		case got[f[0]] != "":
			t.Errorf("%s is there twice", f[0])
		default:
			got[f[0]] = f[1]
		}
	}
	want := controllersOf(t, c.init)
	for name, hierarchy := range want {
		if got[name] != hierarchy {
			t.Errorf("%s: hierarchy %q, want %s", name, got[name], hierarchy)
		}
	}
	// Container support of JVMs needs all of these.
	for _, name := range []string{"memory", "cpu", "cpuacct", "cpuset"} {
		if got[name] == "" {
			t.Errorf("%s is missing: there are %v", name, slices.Sorted(maps.Keys(got)))
		}
	}
	for name, hierarchy := range got {
		if want[name] == "" && hierarchy != "0" {
			t.Errorf("%s is in hierarchy %s, and the container is not", name, hierarchy)
		}
	}
}

// TestAJVMTakesTheContainersMemoryForIts: the heap is a quarter of the memory that the JVM
// believes it has.
func TestAJVMTakesTheContainersMemoryForIts(t *testing.T) {
	need(t, "java", "default-jre-headless")
	// No compiler, which takes long to start in a guest.
	out := inContainer(t, []string{"--memory", "512M", "--cpus", "1"}, "sh", "-c",
		"java -Xint -XX:+UseSerialGC -XX:+PrintFlagsFinal -XshowSettings:system -version 2>&1")
	heap := regexp.MustCompile(`\bMaxHeapSize += (\d+)`).FindStringSubmatch(out)
	if heap == nil || heap[1] != "134217728" {
		t.Errorf("MaxHeapSize %q, want a quarter of 512 MiB:\n%s", heap, out)
	}
	if !regexp.MustCompile(`Memory Limit: 512\.00M`).MatchString(out) {
		t.Errorf("no memory limit of 512 MiB in the JVM's own words:\n%s", out)
	}
}
