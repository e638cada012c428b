// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vprocfs/internal/mountinfo"
)

// text is like that of a container of LXC with a dead LXCFS, less what does not matter.
const text = `600 500 0:50 / / rw,relatime shared:300 master:1 - ext4 /dev/sda1 rw
601 600 0:51 / /proc rw,nosuid shared:301 - proc proc rw
602 600 0:52 / /sys ro,nosuid - sysfs sysfs rw
603 601 0:60 /proc/uptime /proc/uptime ro - fuse.lxcfs lxcfs rw,user_id=0,group_id=0,allow_other
604 602 0:60 /sys/devices/system/cpu /sys/devices/system/cpu ro - fuse.lxcfs lxcfs rw
605 600 0:60 / /var/lib/lxcfs ro master:7 - fuse.lxcfs lxcfs rw
606 603 0:61 /proc/uptime /proc/uptime ro - fuse.vprocfs vprocfs rw
607 600 0:51 / /srv/a\040b/proc rw - proc proc rw
608 607 0:60 /proc/stat /srv/a\040b/proc/stat ro - fuse.lxcfs lxcfs rw
609 600 0:51 /sys /odd rw - proc proc rw
610 609 0:60 /proc/stat /odd/stat ro - fuse.lxcfs lxcfs rw
611 601 0:62 / /proc/fs ro - fuse.sshfs host: rw
612 999 0:60 /proc/stat /elsewhere ro - fuse.lxcfs lxcfs rw
`

func TestCandidatesAreOurTypesOverProcfsAndSysfs(t *testing.T) {
	mounts, err := mountinfo.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(mounts)
	got := make(map[int]string)
	for _, m := range mounts {
		if path, ok := table.candidate(m); ok {
			got[m.ID] = path
		}
	}
	want := map[int]string{603: "proc/uptime", 604: "sys/devices/system/cpu", 606: "proc/uptime", 608: "proc/stat"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestACycleOfMountsEnds(t *testing.T) {
	table := newTable([]mountinfo.Mount{{ID: 1, Parent: 2, Point: "/proc/uptime", FSType: "fuse.lxcfs"}, {ID: 2, Parent: 1, Point: "/proc/uptime", FSType: "fuse.lxcfs"}})
	if path, ok := table.candidate(table[1]); ok {
		t.Errorf("candidate for %s", path)
	}
}

func TestParseFile(t *testing.T) {
	for name, want := range map[string]string{
		"uptime": "proc/uptime", "proc/uptime": "proc/uptime", "/proc/uptime": "proc/uptime", "pressure/cpu": "proc/pressure/cpu",
		"/sys/devices/system/cpu": "sys/devices/system/cpu", "sys/devices/system/cpu/online": "sys/devices/system/cpu/online",
		"": "", "/": "", "proc": "", "sys": "", "/proc/": "", "..": "", "../etc/passwd": "", "/etc/passwd": "", "proc/../etc": "", "a//b": "", "/proc/./uptime": "",
	} {
		got, err := ParseFile(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(text)
	f.Add("1 1 0:1 / / rw - t s o\n")
	f.Add("1 1 0:1 \\04 / rw\n")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := mountinfo.Parse([]byte(text))
		if err != nil {
			return
		}
		table := newTable(mounts)
		for _, m := range mounts {
			path, ok := table.candidate(m)
			if ok && !strings.HasPrefix(path, "proc/") && !strings.HasPrefix(path, "sys/") {
				t.Errorf("candidate %q of %+v", path, m)
			}
			hasBelow(mounts, m.Point)
		}
		mentions([]byte(text))
	})
}
