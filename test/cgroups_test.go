// SPDX-License-Identifier: Apache-2.0

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

// javaHeap returns the heap that a JVM takes in a container of 512 MiB and one CPU, in bytes, and
// all that it says. First a shell runs before.
func javaHeap(t *testing.T, before string) (heap, out string) {
	t.Helper()
	// No compiler, which takes long to start in a guest.
	out = inContainer(t, []string{"--memory", "512M", "--cpus", "1"}, "sh", "-c",
		before+"java -Xint -XX:+UseSerialGC -XX:+PrintFlagsFinal -XshowSettings:system -version 2>&1")
	m := regexp.MustCompile(`\bMaxHeapSize += (\d+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no MaxHeapSize:\n%s", out)
	}
	return m[1], out
}

// TestAJVMTakesTheContainersMemoryForIts: the heap is a quarter of the memory that the JVM
// believes it has. With the kernel's own /proc/cgroups that of JDK 17 is right only if the kernel
// lists the controllers; later ones need not look there.
func TestAJVMTakesTheContainersMemoryForIts(t *testing.T) {
	need(t, "java", "openjdk-17-jre-headless")
	const quarter = "134217728"
	heap, out := javaHeap(t, "")
	if heap != quarter {
		t.Errorf("MaxHeapSize %s, want a quarter of 512 MiB:\n%s", heap, out)
	}
	if !regexp.MustCompile(`Memory Limit: 512\.00M`).MatchString(out) {
		t.Errorf("no memory limit of 512 MiB in the JVM's own words:\n%s", out)
	}
	heap, out = javaHeap(t, "umount /proc/cgroups && ")
	listed := strings.Contains(readFile(t, "/proc/cgroups"), "\nmemory\t")
	if (heap == quarter) != listed && (listed || strings.Contains(out, `version "17.`)) {
		t.Errorf("with the kernel's /proc/cgroups, where memory is listed: %t: MaxHeapSize %s\n%s", listed, heap, out)
	}
}
