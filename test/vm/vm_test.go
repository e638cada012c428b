// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// readArchive reads a cpio archive back, in order, by the format's description and not with the writer's code.
func readArchive(t *testing.T, r *bytes.Reader) (entries []entry) {
	t.Helper()
	next := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("archive ends too early: %v", err)
		}
		return b
	}
	align := func() {
		for (r.Size()-int64(r.Len()))%4 != 0 {
			if b := next(1); b[0] != 0 {
				t.Fatalf("padding byte %#x", b[0])
			}
		}
	}
	for {
		header := string(next(110))
		if header[:6] != "070701" {
			t.Fatalf("magic %q", header[:6])
		}
		field := func(i int) uint32 {
			v, err := strconv.ParseUint(header[6+8*i:14+8*i], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return uint32(v)
		}
		name := string(next(int(field(11))))
		align()
		e := entry{name: strings.TrimSuffix(name, "\x00"), mode: field(1), data: next(int(field(6))), major: field(9), minor: field(10)}
		align()
		if e.name == "TRAILER!!!" {
			return entries
		}
		entries = append(entries, e)
	}
}

func TestArchiveKeepsContentModeAndOrder(t *testing.T) {
	tr := tree{}
	for i := range 5 { // all paddings
		tr.file("a/b/"+strings.Repeat("f", i+1), 0o755, bytes.Repeat([]byte("x"), i))
	}
	tr.link("a/link", "b/f")
	tr.put(entry{name: "dev/console", mode: unix.S_IFCHR | 0o600, major: 5, minor: 1})
	var b bytes.Buffer
	if err := tr.writeTo(&b); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{".": true}
	for _, e := range readArchive(t, bytes.NewReader(b.Bytes())) {
		if !seen[filepath.Dir(e.name)] {
			t.Errorf("%s comes before its directory", e.name)
		}
		seen[e.name] = true
		want := tr[e.name]
		if e.mode != want.mode || !bytes.Equal(e.data, want.data) || e.major != want.major || e.minor != want.minor {
			t.Errorf("%s: got %+v, want %+v", e.name, e, want)
		}
	}
	if len(seen) != len(tr)+1 {
		t.Errorf("%d files in the archive, want %d", len(seen)-1, len(tr))
	}
}

func TestCarryTakesDirectoriesWhole(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sub", "script"), "#!/bin/sh\n", 0o755)
	if err := os.Symlink("script", filepath.Join(dir, "sub", "link")); err != nil {
		t.Fatal(err)
	}
	tr := tree{}
	if err := tr.carry(dir, "t/x"); err != nil {
		t.Fatal(err)
	}
	if e := tr["t/x/sub/script"]; e.mode != unix.S_IFREG|0o755 || string(e.data) != "#!/bin/sh\n" {
		t.Errorf("script: %+v", e)
	}
	if e := tr["t/x/sub/link"]; e.mode&unix.S_IFMT != unix.S_IFLNK || string(e.data) != "script" {
		t.Errorf("link: %+v", e)
	}
}

func TestDynamicProgramIsRefused(t *testing.T) {
	// An ELF header with one program header of type PT_INTERP is all that the check looks at.
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	b[16], b[18], b[20] = 2, 62, 1   // ET_EXEC, EM_X86_64, EV_CURRENT
	b[32], b[52], b[54] = 64, 64, 56 // e_phoff, e_ehsize, e_phentsize
	b[56], b[58] = 1, 64             // e_phnum, e_shentsize
	b[64] = 3                        // PT_INTERP
	if err := static("prog", b); err == nil {
		t.Error("accepted a program with an interpreter")
	}
	b[64] = 1 // PT_LOAD
	if err := static("prog", b); err != nil {
		t.Errorf("refused a static program: %v", err)
	}
}

func TestKernelIsFoundWhereEachReleasePutsIt(t *testing.T) {
	for _, image := range []string{"boot/vmlinuz-6.1.0-50-cloud-amd64", "usr/lib/modules/7.3.4-cloud-amd64/vmlinuz"} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, image), "", 0o644)
		module := filepath.Join(dir, "lib/modules/x/kernel/lzo-rle.ko.xz")
		write(t, module, "", 0o644)
		k, err := findKernel(dir)
		if err != nil {
			t.Errorf("%s: %v", image, err)
			continue
		}
		if k.image != filepath.Join(dir, image) || k.modules["lzo_rle"] != module {
			t.Errorf("got %+v", k)
		}
	}
	if _, err := findKernel(t.TempDir()); err == nil {
		t.Error("found a kernel in an empty directory")
	}
}

func TestSecuritySuitesHaveTheirOwnArchive(t *testing.T) {
	for suite, want := range map[string]string{
		"trixie":            "http://mirror.invalid/debian",
		"bullseye-security": "http://mirror.invalid/debian-security",
	} {
		got, err := findMirror(t.Context(), "http://mirror.invalid/debian/", suite)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", suite, got, err, want)
		}
	}
	if _, err := findMirror(t.Context(), "http://mirror.invalid/ubuntu", "trixie"); err == nil {
		t.Error("accepted a mirror that is not Debian's")
	}
}

func TestOutStaysInItsDirectory(t *testing.T) {
	pack := func(name string) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeDir, Name: "./sub/", Mode: 0o755},
			{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 2},
		} {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(t.TempDir(), "image")
		write(t, image, b.String()+strings.Repeat("\x00", 1<<16), 0o600) // the disk is larger than the archive
		return image
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := unpack(pack("./sub/file"), out); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(out, "sub", "file")); err != nil || string(b) != "hi" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := unpack(pack("../escape"), out); err == nil {
		t.Error("a name outside of the directory was accepted")
	}
	if _, err := os.Stat(filepath.Join(out, "..", "escape")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file outside of the directory: %v", err)
	}
}

func TestBadUsageExitsWithTwoAndOneLine(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"-cgroup", "v3", "--", "true"},
		{"-cpus", "0", "--", "true"},
		{"-nodes", "0", "--", "true"},
		{"-cpus", "4", "-nodes", "3", "-memory", "900", "--", "true"},
		{"-cpus", "4", "-nodes", "4", "-memory", "1023", "--", "true"},
		{"-matrix", "-jobs", "0", "--", "true"},
		{"-debian", "-disk", "image", "--", "true"},
		{"-systemd", "-cgroup", "v1", "--", "true"},
		{"-systemd", "-tests", "fs"},
		{"-tests", "nosuch"},
	} {
		var stderr bytes.Buffer
		if got := run(t.Context(), args, io.Discard, &stderr); got != exitUsage {
			t.Errorf("%q: exit status %d, want %d", args, got, exitUsage)
		}
		if s := stderr.String(); !strings.HasPrefix(s, "vm: ") || strings.Count(s, "\n") != 1 {
			t.Errorf("%q: %q", args, s)
		}
	}
}

func TestTimeoutAndFailureHaveTheirOwnStatus(t *testing.T) {
	for _, test := range []struct {
		status int
		err    error
		want   int
	}{
		{0, nil, 0},
		{7, nil, 7},
		{0, errors.New("no mirror"), exitFailed},
		{0, fmt.Errorf("no end: %w", context.DeadlineExceeded), exitTimeout},
	} {
		if got := report(io.Discard, host{})(test.status, test.err); got != test.want {
			t.Errorf("%d, %v: got %d, want %d", test.status, test.err, got, test.want)
		}
	}
}

func TestMatrixHasTheHostsThatUsersRun(t *testing.T) {
	for _, h := range []host{
		{"bullseye-security", "v2"}, {"bookworm", "v2"}, {"bookworm", "hybrid"}, {"trixie", "v2"}, {"trixie-backports", "v2"},
	} {
		if !slices.Contains(matrix(), h) {
			t.Errorf("%v is not in it", h)
		}
	}
}

func write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestHostsAreAList(t *testing.T) {
	got, err := parseHosts("bookworm:v2,bookworm:hybrid,trixie:v2")
	if want := []host{{"bookworm", "v2"}, {"bookworm", "hybrid"}, {"trixie", "v2"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, list := range []string{"", "bookworm", "bookworm:", ":v2", "bookworm:v3", "bookworm:v2,"} {
		if got, err := parseHosts(list); err == nil {
			t.Errorf("%q: %v and no error", list, got)
		}
	}
}
