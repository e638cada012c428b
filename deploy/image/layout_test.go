// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample returns files as load does, from a directory of their own.
func sample(t *testing.T, at time.Time) []file {
	t.Helper()
	dir := t.TempDir()
	from := filepath.Join(dir, "program")
	if err := os.WriteFile(from, []byte(strings.Repeat("program", 1000)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(from, at, at); err != nil {
		t.Fatal(err)
	}
	files, err := load([]file{{name: "usr/bin/b", link: "a"}, {name: "usr/bin/a", from: from, mode: 0o755}})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestTheSameFilesMakeTheSameBytes(t *testing.T) {
	im := image{arch: "amd64", version: "1.2.3", created: time.Unix(1_700_000_000, 0).UTC()}
	one, err := build(sample(t, time.Unix(1, 0)), im)
	if err != nil {
		t.Fatal(err)
	}
	files := sample(t, time.Now())
	files[0], files[1] = files[1], files[0]
	two, err := build(files, im)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the order of the files, their times or their directory are in the image")
	}
	files[0].data = append(files[0].data, 'x')
	if three, err := build(files, im); err != nil || bytes.Equal(one, three) {
		t.Errorf("another program makes the same image, %v", err)
	}
}

// readTar returns the headers and the contents of an archive by their names.
func readTar(t *testing.T, data []byte) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := make(map[string]*tar.Header), make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name], contents[h.Name] = h, text
	}
}

func TestEveryDescriptorNamesItsBlob(t *testing.T) {
	created := time.Unix(1_700_000_000, 0)
	out, err := build(sample(t, created), image{arch: "amd64", version: "1.2.3", created: created.UTC()})
	if err != nil {
		t.Fatal(err)
	}
	headers, blobs := readTar(t, out)
	check := func(d descriptor) []byte {
		t.Helper()
		data, ok := blobs[blob(d)]
		if !ok || digest(data) != d.Digest || len(data) != d.Size {
			t.Fatalf("%+v: found %t, %s, %d bytes", d, ok, digest(data), len(data))
		}
		return data
	}
	var index, m manifest
	if err := json.Unmarshal(blobs["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("index %s: %v", blobs["index.json"], err)
	}
	if err := json.Unmarshal(check(index.Manifests[0]), &m); err != nil || len(m.Layers) != 1 {
		t.Fatalf("manifest: %+v, %v", m, err)
	}
	var c configuration
	if err := json.Unmarshal(check(*m.Config), &c); err != nil || c.Architecture != "amd64" || len(c.RootFS.DiffIDs) != 1 {
		t.Fatalf("configuration: %+v, %v", c, err)
	}
	check(m.Layers[0])
	layer, err := archive(sample(t, created), created)
	if err != nil || digest(layer) != c.RootFS.DiffIDs[0] {
		t.Errorf("the layer is %s, and diff_ids %s, %v", digest(layer), c.RootFS.DiffIDs, err)
	}
	inside, _ := readTar(t, layer)
	for name, want := range map[string]tar.Header{
		"usr/":      {Typeflag: tar.TypeDir, Mode: 0o755},
		"usr/bin/":  {Typeflag: tar.TypeDir, Mode: 0o755},
		"usr/bin/a": {Typeflag: tar.TypeReg, Mode: 0o755},
		"usr/bin/b": {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "a"},
	} {
		h := inside[name]
		if h == nil || h.Typeflag != want.Typeflag || h.Mode != want.Mode || h.Linkname != want.Linkname || h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(created) {
			t.Errorf("%s: %+v", name, h)
		}
	}
	if len(inside) != 4 || len(headers) != 8 {
		t.Errorf("%d files in the layer, %d in the archive", len(inside), len(headers))
	}
}

func TestEpochIsSecondsOr1970(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "1700000000": 1_700_000_000} {
		if at, err := epoch(text); err != nil || at.Unix() != want {
			t.Errorf("%q: %v, %v", text, at, err)
		}
	}
	if _, err := epoch("yesterday"); err == nil {
		t.Error("no error for a word")
	}
}

func TestADynamicProgramIsRefused(t *testing.T) {
	if _, err := architecture("/bin/sh"); err == nil || !strings.Contains(err.Error(), "not static") {
		t.Errorf("/bin/sh: %v", err)
	}
	if _, err := architecture("layout.go"); err == nil {
		t.Error("no error for a text")
	}
}
