// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "vprocfs"

// layer says what the packages of one part of the tree may import, beside the
// standard library.
type layer struct {
	// own are the parts of this module, and other modules, that they may
	// import. A part's own packages always count.
	own, others []string
	// testOwn and testOthers are for their tests, beside the above.
	testOwn, testOthers []string
}

const (
	goFuse    = "github.com/hanwen/go-fuse/v2"
	goSystemd = "github.com/coreos/go-systemd/v22"
	sys       = "golang.org/x/sys"
	pflag     = "github.com/spf13/pflag"
	// prometheus stays out of the daemon: it would double its binary.
	prometheus = "github.com/prometheus/client_golang"
	tcell      = "github.com/gdamore/tcell/v2"
)

// layers are the arrows between the packages: each can be read and tested
// without those that import it. A part covers the packages below it that have no
// row of their own.
func layers() map[string]layer {
	testLibs := []string{"github.com/google/go-cmp", "github.com/rogpeppe/go-internal", "github.com/prometheus/procfs"}
	return map[string]layer{
		"cmd/vprocfs": {
			own:        []string{"fs", "initpid", "internal/attach", "internal/companion", "internal/daemon", "internal/inject", "internal/inject/watch", "internal/logqueue", "internal/manual", "internal/node", "internal/report", "internal/sandbox", "internal/seccomp", "internal/syscalls", "internal/top"},
			others:     []string{pflag},
			testOthers: testLibs,
		},
		"internal/daemon": {
			own:        []string{"fs", "fs/journal", "initpid", "internal/attach", "internal/control", "internal/count", "internal/inject/watch", "internal/fdconn", "internal/loglimit", "internal/logqueue", "internal/mountinfo", "internal/shm", "internal/supervise", "procvirt", "procvirt/cgroup", "procvirt/host", "procvirt/psi", "internal/seccomp", "internal/syscalls"},
			others:     []string{sys},
			testOwn:    []string{"internal/sandbox", "internal/seccomp/seccomptest"},
			testOthers: testLibs,
		},
		"internal/sandbox":      {own: []string{"internal/fdconn", "internal/mountinfo", "internal/procpid", "procvirt/cgroup", "internal/seccomp"}, others: []string{sys}, testOthers: testLibs},
		"internal/mountinfo":    {others: []string{sys}, testOthers: testLibs},
		"internal/attach":       {own: []string{"internal/mountinfo"}, others: []string{sys}, testOthers: testLibs},
		"internal/inject/watch": {own: []string{"internal/attach", "internal/mountinfo", "internal/procpid"}, others: []string{sys}, testOthers: testLibs},
		// What it asks of systemd needs another's D-Bus.
		"internal/node":      {own: []string{"internal/daemon"}, others: []string{"github.com/godbus/dbus/v5", sys}, testOthers: testLibs},
		"internal/inject":    {own: []string{"internal/attach", "internal/control", "internal/seccomp"}, others: []string{sys}, testOthers: testLibs},
		"fs/journal":         {others: []string{sys}, testOthers: testLibs},
		"internal/count":     {testOthers: testLibs},
		"fs":                 {own: []string{"fs/journal", "internal/count", "internal/mountinfo"}, others: []string{goFuse, sys}, testOthers: testLibs},
		"initpid":            {own: []string{"cache", "internal/fdconn", "internal/procpid"}, others: []string{sys}, testOthers: testLibs},
		"cache":              {testOthers: testLibs},
		"internal/metrics":   {own: []string{"fs", "initpid", "internal/count", "internal/daemon", "internal/report", "procvirt"}, testOwn: []string{"internal/inject/watch"}, others: []string{prometheus, "github.com/prometheus/client_model"}, testOthers: testLibs},
		"cmd/vprocfs-export": {own: []string{"internal/companion", "internal/metrics", "internal/report"}, others: []string{pflag, prometheus, sys}, testOthers: testLibs},
		"internal/companion": {own: []string{"internal/report"}, others: []string{pflag, sys}, testOthers: testLibs},
		"internal/top":       {own: []string{"internal/count", "internal/report", "procvirt"}, others: []string{tcell, sys}, testOwn: []string{"internal/daemon", "internal/supervise"}, testOthers: testLibs},
		"internal/report":    {own: []string{"internal/control", "internal/count", "internal/daemon", "internal/supervise", "procvirt"}, others: []string{sys}, testOthers: testLibs},
		"internal/control":   {others: []string{sys}, testOthers: testLibs},
		"internal/supervise": {own: []string{"internal/control", "internal/fdconn"}, others: []string{goSystemd, sys}, testOthers: testLibs},
		"internal/fdconn":    {others: []string{sys}, testOthers: testLibs},
		"internal/manual":    {others: []string{pflag}, testOthers: testLibs},
		"internal/loglimit":  {testOthers: testLibs},
		"internal/logqueue":  {others: []string{sys}, testOthers: testLibs},
		"internal/procpid":   {testOthers: testLibs},
		"internal/seccomp":   {others: []string{sys}, testOwn: []string{"internal/seccomp/seccomptest"}, testOthers: testLibs},
		"internal/syscalls": {
			own:     []string{"internal/procpid", "internal/seccomp", "procvirt", "procvirt/cgroup"},
			others:  []string{sys},
			testOwn: []string{"internal/seccomp/seccomptest"}, testOthers: append([]string{goFuse}, testLibs...),
		},
		// The caller in tests.
		"internal/seccomp/seccomptest": {own: []string{"internal/fdconn", "internal/seccomp"}, others: []string{sys}},
		"internal/shm":                 {others: []string{sys}, testOthers: testLibs},
		"procvirt":                     {own: []string{"initpid", "internal/count", "internal/shm", "procvirt/cgroup", "procvirt/host", "procvirt/held", "procvirt/internal", "procvirt/loadavg", "procvirt/psi"}, testOwn: []string{"internal/mountinfo"}, others: []string{sys}, testOthers: testLibs},
		"procvirt/cgroup":              {own: []string{"internal/mountinfo", "internal/procpid", "procvirt/held", "procvirt/internal"}, others: []string{sys}, testOthers: testLibs},
		"procvirt/host":                {own: []string{"internal/procpid", "procvirt/held", "procvirt/internal"}, others: []string{sys}, testOthers: testLibs},
		"procvirt/loadavg":             {testOthers: testLibs},
		"procvirt/psi":                 {own: []string{"procvirt/internal"}, others: []string{sys}, testOthers: testLibs},
		"procvirt/held":                {others: []string{sys}, testOthers: testLibs},
		// What the parsers and the tests of procvirt share.
		"procvirt/internal": {others: []string{"github.com/rogpeppe/go-internal"}, testOthers: testLibs},
		// They write files, and know nothing of the others.
		"deploy/image":      {testOthers: testLibs},
		"deploy/kubernetes": {testOthers: testLibs},
		// Black boxes: they run the binary.
		"test": {others: []string{sys}, testOthers: append(testLibs, "tags.cncf.io/container-device-interface/specs-go")},
		// It serves a file of its own, with the loop that the daemon has.
		"test/bench": {own: []string{"fs"}, others: []string{pflag, sys, "golang.org/x/perf", "gonum.org/v1/plot"}, testOthers: testLibs},
	}
}

// goPackage is what go list tells of a package.
type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// brokenArrows returns one line for each import that the layers do not allow,
// and for each package that no layer covers.
func brokenArrows(pkgs []goPackage, layers map[string]layer) []string {
	var broken []string
	for _, p := range pkgs {
		part := partOf(p.ImportPath, layers)
		if part == "" {
			broken = append(broken, p.ImportPath+": no layer covers this package")
			continue
		}
		l := layers[part]
		check := func(kind string, imports, own, others []string) {
			for _, imp := range imports {
				if !allowed(imp, part, own, others, layers) {
					broken = append(broken, fmt.Sprintf("%s %s %s", p.ImportPath, kind, imp))
				}
			}
		}
		check("imports", p.Imports, l.own, l.others)
		testOwn, testOthers := slices.Concat(l.own, l.testOwn), slices.Concat(l.others, l.testOthers)
		check("imports in tests", slices.Concat(p.TestImports, p.XTestImports), testOwn, testOthers)
	}
	return broken
}

// partOf returns the longest part of layers that covers the package.
func partOf(importPath string, layers map[string]layer) string {
	longest := ""
	for part := range layers {
		if covers(module+"/"+part, importPath) && len(part) > len(longest) {
			longest = part
		}
	}
	return longest
}

// covers tells whether path is root or lies below it.
func covers(root, path string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

func allowed(imp, part string, own, others []string, layers map[string]layer) bool {
	if covers(module, imp) {
		p := partOf(imp, layers)
		return p == part || slices.Contains(own, p)
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return true // the standard library
	}
	return slices.ContainsFunc(others, func(m string) bool { return covers(m, imp) })
}

func TestPackagesImportOnlyWhatTheirLayerMay(t *testing.T) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < len(layers())-1 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	for _, line := range brokenArrows(pkgs, layers()) {
		t.Error(line)
	}
}

func TestBrokenArrowsAreFound(t *testing.T) {
	table := layers()
	for _, tt := range []struct {
		name string
		pkg  goPackage
		want string // "" is none
	}{
		{"cmd does nothing itself", goPackage{ImportPath: "vprocfs/cmd/vprocfs", Imports: []string{sys + "/unix"}}, "vprocfs/cmd/vprocfs imports " + sys + "/unix"},
		{"the daemon knows no flags", goPackage{ImportPath: "vprocfs/internal/daemon", Imports: []string{pflag}}, "vprocfs/internal/daemon imports " + pflag},
		{"fs knows no cgroups", goPackage{ImportPath: "vprocfs/fs", Imports: []string{"fmt", "vprocfs/procvirt/cgroup"}}, "vprocfs/fs imports vprocfs/procvirt/cgroup"},
		{"procvirt knows no fuse", goPackage{ImportPath: "vprocfs/procvirt", Imports: []string{goFuse + "/fuse"}}, "vprocfs/procvirt imports " + goFuse + "/fuse"},
		{"procvirt knows no mounts", goPackage{ImportPath: "vprocfs/procvirt", Imports: []string{"vprocfs/internal/attach"}}, "vprocfs/procvirt imports vprocfs/internal/attach"},
		{"tests have arrows too", goPackage{ImportPath: "vprocfs/cache", TestImports: []string{"vprocfs/fs"}}, "vprocfs/cache imports in tests vprocfs/fs"},
		{"external tests too", goPackage{ImportPath: "vprocfs/cache", XTestImports: []string{"vprocfs/fs"}}, "vprocfs/cache imports in tests vprocfs/fs"},
		{"the daemon has no metrics library", goPackage{ImportPath: "vprocfs/internal/daemon", Imports: []string{prometheus + "/prometheus"}}, "vprocfs/internal/daemon imports " + prometheus + "/prometheus"},
		{"the daemon draws on no terminal", goPackage{ImportPath: "vprocfs/internal/daemon", Imports: []string{"vprocfs/internal/top"}}, "vprocfs/internal/daemon imports vprocfs/internal/top"},
		{"a new module needs a row", goPackage{ImportPath: "vprocfs/cache", Imports: []string{"example.org/lru"}}, "vprocfs/cache imports example.org/lru"},
		{"a new package needs a row", goPackage{ImportPath: "vprocfs/metrics"}, "vprocfs/metrics: no layer covers this package"},
		{"the part below has its own row", goPackage{ImportPath: "vprocfs/procvirt/held", Imports: []string{"vprocfs/procvirt/cgroup"}}, "vprocfs/procvirt/held imports vprocfs/procvirt/cgroup"},
		{"a like name is another package", goPackage{ImportPath: "vprocfs/fs", Imports: []string{"vprocfs/fsx"}}, "vprocfs/fs imports vprocfs/fsx"},
		{"libraries of tests stay in tests", goPackage{ImportPath: "vprocfs/procvirt", Imports: []string{"github.com/google/go-cmp/cmp"}}, "vprocfs/procvirt imports github.com/google/go-cmp/cmp"},
		{"what is allowed", goPackage{ImportPath: "vprocfs/procvirt", Imports: []string{"bytes", "internal/abi", sys + "/unix", "vprocfs/procvirt/internal/scan"}, TestImports: []string{"github.com/google/go-cmp/cmp"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(brokenArrows([]goPackage{tt.pkg}, table), "\n"); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}
