// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vprocfs/internal/mountinfo"
)

func TestHierarchiesAreFoundOnEveryLayout(t *testing.T) {
	for _, tt := range []struct {
		name, mounts, membership string
		want                     []hierarchy
	}{{
		"v2",
		"29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
		"0::/user.slice/session-1.scope\n",
		[]hierarchy{{v2: true, mount: "/sys/fs/cgroup", own: "/sys/fs/cgroup/user.slice/session-1.scope"}},
	}, {
		"v1 with controllers mounted together, and a hierarchy that has only a name",
		"31 30 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd\n" +
			"32 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:11 - cgroup cgroup rw,cpu,cpuacct\n",
		"2:cpu,cpuacct:/a:b\n1:name=systemd:/x\n",
		[]hierarchy{{controllers: []string{"cpu", "cpuacct"}, mount: "/sys/fs/cgroup/cpu,cpuacct", own: "/sys/fs/cgroup/cpu,cpuacct/a:b"}},
	}, {
		"hybrid",
		"32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
		"4:memory:/\n0::/\n",
		[]hierarchy{
			{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory"},
			{v2: true, mount: "/sys/fs/cgroup/unified", own: "/sys/fs/cgroup/unified"},
		},
	}, {
		"in a container that sees its own part",
		"32 31 0:29 /docker/a\\040b /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
		"4:memory:/docker/a b/sub\n",
		[]hierarchy{{controllers: []string{"memory"}, mount: "/sys/fs/cgroup/memory", own: "/sys/fs/cgroup/memory/sub"}},
	}, {
		"a part that we are not in, then the whole, then the whole again",
		"32 31 0:29 /docker/ab /mnt rw - cgroup2 cgroup2 rw\n" +
			"33 31 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n" +
			"34 31 0:29 / /again rw - cgroup2 cgroup2 rw\n",
		"0::/docker/abc\n",
		[]hierarchy{{v2: true, mount: "/sys/fs/cgroup", own: "/sys/fs/cgroup/docker/abc"}},
	}} {
		t.Run(tt.name, func(t *testing.T) {
			mounts, err := mountinfo.Parse([]byte(tt.mounts))
			if err != nil {
				t.Fatal(err)
			}
			got, err := hierarchiesIn(mounts, []byte(tt.membership))
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(hierarchy{})); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	for _, mounts := range [][]mountinfo.Mount{nil, {{Point: "/proc", FSType: "proc"}}} {
		if got, err := hierarchiesIn(mounts, []byte("0::/\n")); err == nil {
			t.Errorf("%v: %v, want an error", mounts, got)
		}
	}
}

// fakeV2 makes directories that look like a v2 tree: path -> subtree_control.
func fakeV2(t *testing.T, root string, subtrees map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "cgroup.controllers"), root)
	for path, text := range subtrees {
		write(filepath.Join(dir, path, "cgroup.subtree_control"), text)
	}
	return dir
}

func TestTheNearestGroupThatDelegatesIsTaken(t *testing.T) {
	all := "cpuset cpu io memory pids\n"
	for _, tt := range []struct {
		name     string
		root     string
		subtrees map[string]string
		own      string
		want     string
	}{
		{"the root has all", all, map[string]string{".": all, "user": "memory pids", "user/session": ""}, "user/session", "."},
		{"a nearer one has all", all, map[string]string{".": all, "user": all, "user/session": ""}, "user/session", "user"},
		{"our own has all", all, map[string]string{".": all, "user": all}, "user", "user"},
		{"what the kernel lacks is not asked for", "memory", map[string]string{".": "memory", "user": ""}, "user", "."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := fakeV2(t, tt.root, tt.subtrees)
			h := &hierarchy{v2: true, mount: dir, own: filepath.Join(dir, tt.own)}
			names, needed := wanted(Limits{Memory: 1}, []hierarchy{*h})
			got, err := delegate(h, names, needed)
			if err != nil || got != filepath.Join(dir, tt.want) {
				t.Errorf("%s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestOnlyV2ControllersAreAskedOfV2(t *testing.T) {
	hybrid := []hierarchy{{controllers: []string{"cpu", "cpuacct"}}, {controllers: []string{"memory"}}, {v2: true}}
	names, needed := wanted(Limits{Memory: 1, CPUs: 1, CPUSet: CPUList{text: "0"}}, hybrid)
	if got := strings.Join(names, " "); got != "cpuset io" || needed != 1 {
		t.Errorf("%s, %d of them needed", got, needed)
	}
}

func TestLimitsAreParsed(t *testing.T) {
	for text, want := range map[string]ByteSize{"1": 1, "512k": 512 << 10, "256M": 256 << 20, "1G": 1 << 30, "2t": 2 << 40, "8388607T": 8388607 << 40} {
		var got ByteSize
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("size %s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "0M", "M", "-1", "+1", "1.5G", "1MB", "8388608T", "18446744073709551616"} {
		var got ByteSize
		if err := got.Set(text); err == nil || got != 0 {
			t.Errorf("size %q: %d, want an error", text, got)
		}
	}
	for text, want := range map[string]int{"0.01": 1000, "1": 100000, "1.5": 150000, "0.333": 33300, "8192": 819200000} {
		var got CPUCount
		if err := got.Set(text); err != nil || got.quota() != want {
			t.Errorf("CPUs %s: %d, %v, want %d", text, got.quota(), err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "0.001", "NaN", "Inf", "1e9", "x"} {
		var got CPUCount
		if err := got.Set(text); err == nil || got != 0 {
			t.Errorf("CPUs %q: %v, want an error", text, got)
		}
	}
	var l CPUList
	if err := l.Set("0-2,5"); err != nil || l.cpus.Count() != 4 || !l.cpus.Has(2) || !l.cpus.Has(5) || l.String() != "0-2,5" {
		t.Errorf("list: %v, %v", &l, err)
	}
	for _, text := range []string{"", ",", "0,", "1-0", "-1", "a", "0-", "8192", "0-99999999"} {
		var l CPUList
		if err := l.Set(text); err == nil || l.text != "" {
			t.Errorf("list %q: %v, want an error", text, &l)
		}
	}
}
