// SPDX-License-Identifier: Apache-2.0

package mountinfo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseReadsEveryField(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		want       Mount
	}{
		{"all", "603 601 0:60 /proc/uptime /proc/uptime ro,nosuid shared:301 master:1 - fuse.lxcfs lxcfs rw,user_id=0,allow_other\n",
			Mount{603, 601, unix.Mkdev(0, 60), "/proc/uptime", "/proc/uptime", "fuse.lxcfs", "rw,user_id=0,allow_other", "301"}},
		{"no optional field, no newline", "1 0 259:1048575 / / rw - ext4 /dev/sda1 rw",
			Mount{1, 0, unix.Mkdev(259, 1048575), "/", "/", "ext4", "rw", ""}},
		{"a slave only", "1 0 0:1 / / rw master:7 propagate_from:3 unbindable - t s rw\n",
			Mount{1, 0, 1, "/", "/", "t", "rw", ""}},
		{"escapes", `1 0 0:1 /a\134040 /srv/a\040b\011\012\043 rw - t\040t s o\040o` + "\n",
			Mount{1, 0, 1, `/a\040`, "/srv/a b\t\n#", "t t", `o\040o`, ""}},
		{"a backslash that escapes nothing", `1 0 0:1 /\9\04 /\ rw - t s rw` + "\n",
			Mount{1, 0, 1, `/\9\04`, `/\`, "t", "rw", ""}},
		{"an empty source", "1 0 0:1 / / rw - tmpfs  rw\n", Mount{1, 0, 1, "/", "/", "tmpfs", "rw", ""}},
		{"blanks that mountinfo does not escape", "1 0 0:1 / /a\u00a0b\vc\r rw - t s rw\n",
			Mount{1, 0, 1, "/", "/a\u00a0b\vc\r", "t", "rw", ""}},
		{"a source and options with spaces", "1 0 0:1 / / rw - cifs //s/My rw,unc=a - b\n",
			Mount{1, 0, 1, "/", "/", "cifs", "rw,unc=a - b", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse([]byte(tt.line))
			if d := cmp.Diff([]Mount{tt.want}, got); err != nil || d != "" {
				t.Errorf("%v\n%s", err, d)
			}
		})
	}
}

func TestParseNamesAMalformedLine(t *testing.T) {
	const good = "1 0 0:1 / / rw - t s rw\n"
	for _, line := range []string{
		"\n", "garbage", "1 0 0:1 / / rw t s rw", "1 0 0:1 / / - t s rw", "1 0 0:1 / / rw - t s", "1 0 0:1 / / rw -",
		"x 0 0:1 / / rw - t s rw", "1 -1 0:1 / / rw - t s rw", "1 0 01 / / rw - t s rw", "1 0 0:x / / rw - t s rw",
		"99999999999 0 0:1 / / rw - t s rw",
	} {
		got, err := Parse([]byte(good + line))
		if !errors.Is(err, ErrMalformed) || got != nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
}

func TestLinesMayBeLongerThan64KiB(t *testing.T) {
	point := "/" + strings.Repeat(`\134`, 30000)
	got, err := Parse([]byte("1 0 0:1 / " + point + " rw - t s rw\n"))
	if err != nil || len(got) != 1 || got[0].Point != "/"+strings.Repeat(`\`, 30000) {
		t.Errorf("%d mounts, %v", len(got), err)
	}
}

func TestTheLastMountAtAPointIsTheTopmost(t *testing.T) {
	mounts := []Mount{{ID: 1, Point: "/a"}, {ID: 2, Point: "/a"}, {ID: 3, Point: "/a/b"}}
	if m, ok := Top(mounts, "/a"); !ok || m.ID != 2 {
		t.Errorf("%+v, %v", m, ok)
	}
	if m, ok := Top(mounts, "/"); ok {
		t.Errorf("%+v at /", m)
	}
}

func TestLoadReadsThisProcesssMounts(t *testing.T) {
	mounts, err := Load("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc", &st); err != nil {
		t.Fatal(err)
	}
	if m, ok := Top(mounts, "/proc"); !ok || m.FSType != "proc" || m.Root != "/" || m.Dev != st.Dev {
		t.Errorf("%+v, %v; st_dev %d", m, ok, st.Dev)
	}
}

func TestReadIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const most = 100
	for size, ok := range map[int64]bool{most: true, most + 1: false} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if text, err := readAtMost(path, most); (err == nil) != ok || ok && int64(len(text)) != size {
			t.Errorf("%d bytes: read %d, %v", size, len(text), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("603 601 0:60 /proc/uptime /proc/uptime ro shared:301 master:1 - fuse.lxcfs lxcfs rw\n")
	f.Add("1 0 0:1 /a\\04 / rw - t  \n2 1 0:1 / /a\\040b rw - t s o")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := Parse([]byte(text))
		if err != nil {
			if mounts != nil || !errors.Is(err, ErrMalformed) {
				t.Errorf("%v with %d mounts", err, len(mounts))
			}
			return
		}
		if lines := strings.Count(strings.TrimSuffix(text, "\n"), "\n") + 1; text != "" && len(mounts) != lines {
			t.Errorf("%d mounts of %d lines", len(mounts), lines)
		}
		for _, m := range mounts {
			if strings.Contains(m.Shared, " ") || len(m.Point) > len(text) {
				t.Errorf("%+v", m)
			}
		}
	})
}
