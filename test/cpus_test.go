// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sys/devices/system/cpu in real containers.

const cpuDir = "/sys/devices/system/cpu"

// cpuList returns the numbers of a list such as 0-2,4.
func cpuList(t testing.TB, text string) (cpus []int) {
	t.Helper()
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		if part == "" {
			continue
		}
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		to, err := strconv.Atoi(last)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// TestCPUFilesAreOnePicture compares the lists with what the kernel says of the
// container's affinity, with /proc/stat and with each other.
func TestCPUFilesAreOnePicture(t *testing.T) {
	all := testCPUs(t)
	last := fmt.Sprint(all[len(all)-1])
	for _, flags := range [][]string{nil, {"--cpus", "1"}, {"--cpuset", "0"}, {"--cpuset", last}, {"--cpuset", last, "--cpus", "1"}} {
		c := startContainer(t, flags...)
		lists := make(map[string][]int)
		for _, name := range []string{"online", "offline", "present", "possible"} {
			lists[name] = cpuList(t, c.sh(t, "cat "+cpuDir+"/"+name))
		}
		allowed := cpuList(t, strings.TrimPrefix(c.sh(t, "grep Cpus_allowed_list: /proc/self/status"), "Cpus_allowed_list:"))
		online := lists["online"]
		if !slices.Contains(flags, "--cpus") && !slices.Equal(online, allowed) {
			t.Errorf("%v: online are %v, the process may run on %v", flags, online, allowed)
		}
		if stat := statCPUs(t, c.sh(t, "cat /proc/stat")); !slices.Equal(online, stat) {
			t.Errorf("%v: online are %v, stat has %v", flags, online, stat)
		}
		var whole []int
		for cpu := range allowed[len(allowed)-1] + 1 {
			whole = append(whole, cpu)
		}
		both := slices.Concat(online, lists["offline"])
		slices.Sort(both)
		if !slices.Equal(lists["possible"], whole) || !slices.Equal(lists["present"], whole) || !slices.Equal(both, whole) {
			t.Errorf("%v: %v, want %v possible and present, and the same online or offline", flags, lists, whole)
		}
		var dirs []int
		for name := range strings.FieldsSeq(c.sh(t, "ls "+cpuDir)) {
			if cpu, err := strconv.Atoi(strings.TrimPrefix(name, "cpu")); err == nil {
				dirs = append(dirs, cpu)
			}
		}
		slices.Sort(dirs)
		if !slices.Equal(dirs, whole) {
			t.Errorf("%v: the directories are those of %v, want %v", flags, dirs, whole)
		}
	}
}

// TestProgramsCountTheContainersCPUs asks programs how many there are.
func TestProgramsCountTheContainersCPUs(t *testing.T) {
	c := startContainer(t, "--cpuset", "0")
	for command, want := range map[string]string{
		"getconf _NPROCESSORS_ONLN": "1\n",
		"getconf _NPROCESSORS_CONF": "1\n",
		"nproc":                     "1\n",
		"nproc --all":               "1\n",
		"python3 -c 'import os;print(os.cpu_count())'": "1\n",
		"LC_ALL=C lscpu | sed -n 's/^CPU(s): *//p'":    "1\n",
		"LC_ALL=C lscpu | sed -n 's/^On-line.*: *//p'": "0\n",
	} {
		if got := c.sh(t, command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	// A quota leaves the others there, off-line.
	c = startContainer(t, "--cpus", "1")
	for command, want := range map[string]string{
		"getconf _NPROCESSORS_ONLN":                    "1\n",
		"python3 -c 'import os;print(os.cpu_count())'": "1\n",
		"LC_ALL=C lscpu | sed -n 's/^On-line.*: *//p'": fmt.Sprintln(testCPUs(t)[0]),
		"nproc --all": fmt.Sprintln(testCPUs(t)[hostCPUs(t)-1] + 1),
	} {
		if got := c.sh(t, command); got != want {
			t.Errorf("by quota: %s: %q, want %q", command, got, want)
		}
	}
}

// physicalCores counts as psutil.cpu_count(logical=False) does.
const physicalCores = `import glob
print(len({open(p).read().strip() for p in
	glob.glob("/sys/devices/system/cpu/cpu[0-9]*/topology/core_cpus_list") or
	glob.glob("/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")}))`

// TestACPUThatAQuotaHidesLooksSwitchedOff counts CPUs and cores as programs do, and
// looks at the files of the CPU that is hidden.
func TestACPUThatAQuotaHidesLooksSwitchedOff(t *testing.T) {
	if hostCPUs(t) < 2 {
		t.Skip("a machine of one CPU hides none")
	}
	hidden := fmt.Sprintf("%s/cpu%d", cpuDir, testCPUs(t)[1])
	if readFile(t, hidden+"/online") != "1\n" {
		t.Fatalf("%s is not on", hidden)
	}
	dir, _ := serve(t)
	g := newGroup(t)
	c := startContainer(t, "--mount", dir)
	g.adopt(t, c)
	count, err := exec.Command("python3", "-c", physicalCores).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, on := range []bool{true, false, true} {
		state, gone, cpus, cores := "1\n", "", len(testCPUs(t)), string(count)
		if g.limitCPU(t, 0); !on {
			g.limitCPU(t, 50)
			state, gone, cpus, cores = "0\n", "gone\n", 1, "1\n"
		}
		for command, want := range map[string]string{
			"cat " + hidden + "/online":                                         state,
			"test -e " + hidden + "/topology || echo gone":                      gone,
			"cat " + hidden + "/topology/core_id > /dev/null 2>&1 || echo gone": gone,
			"ls " + hidden + " | grep -q topology || echo gone":                 gone,
			"python3 -c '" + physicalCores + "'":                                cores,
			"LC_ALL=C lscpu -p=CPU | grep -vc '#'":                              fmt.Sprintln(cpus),
		} {
			if got := c.sh(t, command); got != want {
				t.Errorf("on %t: %s: %q, want %q", on, command, got, want)
			}
		}
	}
}

// TestTheHostsCPUFilesPassThrough compares every entry with the host's: who may
// read it, what is in it, where a link points.
func TestTheHostsCPUFilesPassThrough(t *testing.T) {
	c := startContainer(t, "--cpuset", "0")
	ours := strings.Split(strings.TrimSuffix(c.sh(t, "cd "+cpuDir+" && find . -mindepth 1 -printf '%P %y %m %U %G %l\\n'"), "\n"), "\n")
	var host []string
	secret := 0
	err := filepath.WalkDir(cpuDir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, cpuDir), "/")
		if name == "" {
			return nil
		}
		if cpu, err := strconv.Atoi(strings.TrimPrefix(name, "cpu")); err == nil && cpu > 0 {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		kind, link := "f", ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			kind = "d"
		case unix.S_IFLNK:
			kind = "l"
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if kind == "f" && st.Mode&0o004 == 0 {
			secret++
		}
		host = append(host, fmt.Sprintf("%s %s %o %d %d %s", name, kind, st.Mode&0o7777, st.Uid, st.Gid, link))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(host)
	slices.Sort(ours)
	if !slices.Equal(host, ours) {
		t.Errorf("the container has\n%s\nthe host\n%s", strings.Join(ours, "\n"), strings.Join(host, "\n"))
	}
	t.Logf("%d entries, %d files that not everybody may read", len(host), secret)

	// nobody reads just what everybody may
	readable := c.sh(t, "cd "+cpuDir+` && find . -type f -perm -004 | sort > /dev/shm/$$.want
		setpriv --reuid 65534 --regid 65534 --clear-groups find . -type f -readable | sort | diff - /dev/shm/$$.want && echo same
		setpriv --reuid 65534 --regid 65534 --clear-groups find . -type f ! -perm -004 -exec cat {} + 2>/dev/null | wc -c
		rm -f /dev/shm/$$.want`)
	if readable != "same\n0\n" {
		t.Errorf("nobody: %s", readable)
	}
	// what is in them, where it does not change by itself
	for _, name := range []string{"kernel_max", "isolated", "modalias", "uevent", "cpu0/topology/core_id", "cpu0/topology/thread_siblings_list", "vulnerabilities/meltdown"} {
		want, err := os.ReadFile(filepath.Join(cpuDir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := c.sh(t, "cat "+cpuDir+"/"+name); got != string(want) {
			t.Errorf("%s: %q, the host's is %q", name, got, want)
		}
	}
}

func TestCPUFilesCannotBeWrittenNorLeft(t *testing.T) {
	dir, _ := serve(t)
	c := startContainer(t, "--mount", dir, "--cpuset", "0")
	for command, want := range map[string]string{
		"echo 0 2>&1 > " + cpuDir + "/cpu0/uevent":                    "Read-only file system",
		"mkdir " + cpuDir + "/cpu9 2>&1":                              "Read-only file system",
		"rm " + cpuDir + "/kernel_max 2>&1":                           "Read-only file system",
		"cat " + dir + cpuDir + "/../../../kernel/uevent_seqnum 2>&1": "No such file or directory",
		"cat " + dir + cpuDir + "/cpu0/subsystem/uevent 2>&1":         "No such file or directory",
		"ls " + dir + "/sys/devices/system":                           "cpu\n",
		"ls " + dir + "/sys":                                          "devices\n",
	} {
		if got := c.sh(t, "("+command+") 2>&1"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// TestHiddenCPUsAreNotThereInAContainer asks a daemon for a CPU beyond the
// container's from two containers in turn, one of which has it.
func TestHiddenCPUsAreNotThereInAContainer(t *testing.T) {
	all := testCPUs(t)
	if len(all) < 2 {
		t.Skip("LOUD: this machine lets the tests use one CPU only: nothing can be hidden")
	}
	dir, _ := serve(t)
	small := startContainer(t, "--mount", dir, "--cpuset", fmt.Sprint(all[0]))
	large := startContainer(t, "--mount", dir, "--cpuset", fmt.Sprintf("%d,%d", all[0], all[1]))
	hidden := fmt.Sprintf("%s/cpu%d", cpuDir, all[1])
	probe := fmt.Sprintf("for t in 'test -e %[1]s' 'stat %[1]s' 'ls %[1]s' '(cd %[1]s)' 'cat %[1]s/uevent' 'test -e %[1]s/topology/core_id' 'ls -d %[1]s'; do eval $t >/dev/null 2>&1 && echo yes || echo no; done", hidden)
	for range 3 {
		if got := small.sh(t, probe); got != strings.Repeat("no\n", 7) {
			t.Errorf("the container without it: %q", got)
		}
		if got := large.sh(t, probe); got != strings.Repeat("yes\n", 7) {
			t.Errorf("the container with it: %q", got)
		}
	}
}

// TestAnOpenListingFollowsTheCpuset changes the cpuset while a directory is open.
func TestAnOpenListingFollowsTheCpuset(t *testing.T) {
	all := testCPUs(t)
	if len(all) < 2 {
		t.Skip("LOUD: this machine lets the tests use one CPU only: nothing can be hidden")
	}
	g := newGroup(t)
	c := startCommand(t, nil, "python3", "-uc", `
import os, sys
fd = os.open("`+cpuDir+`", os.O_RDONLY)
for line in sys.stdin:
    os.lseek(fd, 0, os.SEEK_SET)
    print(" ".join(sorted(n for n in os.listdir(fd) if n[3:].isdigit())))
    print(open("`+cpuDir+`/online").read().strip())
    print(".")
`)
	g.adopt(t, c)
	for _, cpus := range []int{2, 1, 2} {
		last := all[cpus-1]
		g.limitCPUs(t, fmt.Sprint(last))
		var want []string
		for cpu := range last + 1 {
			want = append(want, fmt.Sprintf("cpu%d", cpu))
		}
		slices.Sort(want)
		if got := c.answer(t, "", "."); got != fmt.Sprintf("%s\n%d\n", strings.Join(want, " "), last) {
			t.Errorf("with CPU %d: %q", last, got)
		}
	}
}
