// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// testPackage is a package whose tests run in the guests.
type testPackage struct {
	dir  string   // relative to the root of the repository
	data []string // directories that its tests read, also relative to the root
	skip []string // tests that are left to the machine itself, with the reason beside them
	tag  string   // build tag of tests that are no others' business, empty for none
	run  string   // regexp of the tests to run, empty for all
}

// systemdTag marks tests of guests that systemd runs. They install units, restart them, and restart the guest; without the
// tag they are not there, so that on a machine of one's own none is run, and none is skipped.
const systemdTag = "systemd"

// enginesTags marks tests of guests that have container engines beside systemd (-engines).
const enginesTags = systemdTag + ",engines"

// startsEnv says how many containers such tests start with each engine. The guest gets it from the runner's environment.
const startsEnv = "VPROCFS_STARTS"

// testPackages are the packages that deal with the kernel, and what a guest leaves out of them: only what says nothing
// about a kernel, or measures what QEMU does not keep in proportion. Fuzz tests are left out everywhere.
func testPackages() []testPackage {
	return []testPackage{
		{dir: "initpid", skip: []string{
			"TestHitDoesNotAllocate",                                                           // allocations are Go's
			"TestColdIoctlIsThirtyTimesFasterThanFork", "TestParentsAreTenTimesFasterThanFork", // ratios of times
		}},
		{dir: "fs", skip: []string{
			// Allocations are Go's, and the loops that show them take minutes here.
			"TestHotRequestsAllocateNothing", "TestServerAllocatesNothing",
			"TestFastReadsCostLittleMoreWhileSlowOnesAreStuck", // a ratio of times
			"TestThreadsOfOneOwnerDoNotFillTheQueue",           // a rush is a rate
		}},
		{dir: "procvirt/cgroup", data: []string{"procvirt/testdata"}, skip: []string{
			"TestReadsDoNotAllocate",
		}},
		{dir: "procvirt/host"},
		{dir: "internal/inject/watch"},
		{dir: "internal/syscalls"},
		{dir: "test", data: []string{"test/testdata", "deploy"}, skip: []string{
			// About the source, which a guest does not have.
			"TestPackagesImportOnlyWhatTheirLayerMay", "TestBrokenArrowsAreFound", "TestEachSourceFileNamesItsLicence",
			"TestUnitIsHardened", "TestUnitMakesNoMountNamespace",
			// About terminals: tmux is on the host.
			"TestTopFindsWhoHammers",
			"TestTopGoesOnOverTheDeathOfTheWorker",
			"TestTopHasNoColoursWithNOCOLOR",
			"TestTopPrintsTextInAPipe",
			"TestTopAndOthersPrintNoEscapesOfAName",
			"TestExportIsStartedByItsVerb",             // a guest does not have that program
			"TestImageIsReproducibleAndRuns",           // a guest has no Go to build it with
			"TestAWarmCatCostsTheDaemonFewSystemCalls", // with the guest's clock, hpet, each look at the time is one more
			"TestAnIdleDaemonSleepsAndIsSmall",         // sleep and size are Go's; it watches for minutes
			"TestNoContainerStarvesAnother",            // a ratio of times
			"TestTheWorstOfOneContainerDelaysNoOther",  // the same
			"TestWhoClosesManyFilesHoldsNobodyUp",      // a time
			"TestAnUpgradeIsAPauseOfMilliseconds",      // a time
			// How much memory and patience a crowd costs is Go's, and takes minutes here.
			"TestTenThousandOpenHandlesAreCheap", "TestAThousandThreadsMayReadByteByByte",
		}},
		{dir: "test", data: []string{"test/testdata", "deploy/systemd", "build/packages", "docs"}, tag: systemdTag, run: "^TestSystemd"},
		{dir: "test", data: []string{"test/testdata", "deploy"}, tag: enginesTags, run: "^TestEngines"},
	}
}

// name is the package's in names of files.
func (p testPackage) name() string {
	return strings.TrimSuffix(strings.ReplaceAll(p.dir, "/", "-")+"-"+strings.ReplaceAll(p.tag, ",", "-"), "-")
}

// runTests runs the project's tests on each host, jobs at a time; packages are directories of testPackages, none for all.
// It prints a line for each test that fails or is skipped, and a summary of each guest. The status is 0 when all went well.
//
// Tests that fail have a second chance in a fresh guest, without the others: without KVM a guest now and then stands still
// for seconds, when a test waits for the first time. What passes then has a line that says so.
func runTests(ctx context.Context, c config, hosts []host, jobs int, pattern string, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "vm: %v\n", err)
		return exitFailed
	}
	tag := ""
	if c.systemd {
		tag = systemdTag
	}
	if c.engines {
		tag = enginesTags
	}
	packages, err := choose(c.command, tag)
	if err != nil {
		fmt.Fprintf(stderr, "vm: %v\n", err)
		return exitUsage
	}
	if c.files, err = buildTests(ctx, c.work, packages, c.files); err != nil {
		return fail(err)
	}
	if c.swap != 0 {
		c.append += " zswap.enabled=1" // of the kernels, the newest has it
	}
	if c.disk, err = debianImage(ctx, c.work, c.mirror, c.engines); err != nil {
		return fail(fmt.Errorf("root of Debian: %w", err))
	}
	return eachHost(hosts, jobs, func(h host, print *sync.Mutex) int {
		c := c
		c.host = h
		name := h.name()
		if c.systemd {
			name += "-" + strings.ReplaceAll(tag, ",", "-")
		}
		log := filepath.Join(c.work, name+".log")
		start := time.Now()
		c.command = []string{"sh", "-c", testScript(packages, pattern)}
		s, err := testGuest(ctx, c, log)
		if err == nil && pattern == "" {
			s.wantTests(packages)
		}
		again := &summary{}
		if err == nil {
			if dirs, names := s.failures(); len(names) > 0 {
				c.command = []string{"sh", "-c", testScript(only(packages, dirs), "^("+strings.Join(names, "|")+")$")}
				again, err = testGuest(ctx, c, filepath.Join(c.work, name+"-again.log"))
				s.passOver(again)
			}
		}
		print.Lock()
		defer print.Unlock()
		if err != nil {
			report(stderr, h)(0, err)
		}
		for _, v := range slices.Concat(s.verdicts, again.verdicts) {
			fmt.Fprintf(stdout, "%s %s: %s\n", h.suite, h.cgroup, v)
		}
		ok := err == nil && s.failed == 0 && s.passed > 0
		fmt.Fprintf(stdout, "%s %s: %s: %d passed, %d failed, %d skipped, %.0f s, kernel %s, output in %s\n", h.suite, h.cgroup,
			map[bool]string{true: "ok", false: "FAILED"}[ok], s.passed, s.failed, s.skipped, time.Since(start).Seconds(), s.kernel, log)
		if !ok {
			return 1
		}
		return 0
	})
}

// only returns the packages of these directories.
func only(packages []testPackage, dirs []string) (chosen []testPackage) {
	for _, p := range packages {
		if slices.Contains(dirs, p.dir) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// choose returns the packages of these directories, or all, among those with the tag.
func choose(dirs []string, tag string) ([]testPackage, error) {
	all := slices.DeleteFunc(testPackages(), func(p testPackage) bool { return p.tag != tag })
	if len(dirs) == 0 {
		return all, nil
	}
	var chosen []testPackage
	for _, d := range dirs {
		i := slices.IndexFunc(all, func(p testPackage) bool { return p.dir == d })
		if i < 0 {
			return nil, fmt.Errorf("package %s is not in the list of tests.go", d)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// buildTests builds vprocfs and the test binaries, static, and returns files with all that the guest needs of them.
func buildTests(ctx context.Context, work string, packages []testPackage, files []string) ([]string, error) {
	build := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		_, err := outputOf(cmd)
		return err
	}
	vprocfs := filepath.Join(work, "bin", "vprocfs")
	if err := build("build", "-trimpath", "-o", vprocfs, "./cmd/vprocfs"); err != nil {
		return nil, err
	}
	files = append(slices.Clone(files), vprocfs)
	for _, p := range packages {
		binary := filepath.Join(work, "bin", p.name()+".test")
		if err := build("test", "-c", "-trimpath", "-tags", p.tag, "-o", binary, "./"+p.dir); err != nil {
			return nil, err
		}
		files = append(files, binary)
		for _, d := range p.data {
			files = append(files, d+":/t/"+d)
		}
	}
	return files, nil
}

// testScript returns the shell script that runs the tests in the guest, each package in its own directory as go test
// does it, and marks where each begins and ends.
func testScript(packages []testPackage, pattern string) string {
	var b strings.Builder
	limit := "30m"
	if starts := os.Getenv(startsEnv); starts != "" {
		fmt.Fprintf(&b, "export %s=%s\n", startsEnv, quote(starts))
		limit = "12h"
	}
	// The proof of survival takes six minutes here in its full form: a machine does that.
	b.WriteString("export VPROCFS_SURVIVAL=12,2\n")
	b.WriteString("export VPROCFS_BINARY=/t/vprocfs\n" + `echo "` + markKernel + `$(uname -r)"` + "\n")
	for _, p := range packages {
		fmt.Fprintf(&b, "echo '%s%s'; mkdir -p /t/%s; cd /t/%s\n", markBegin, p.dir, p.dir, p.dir)
		// The runner's own limit ends a guest that hangs; this one says first which test it was.
		fmt.Fprintf(&b, "/t/%s.test -test.v -test.timeout=%s -test.run=%s -test.skip=%s\n",
			p.name(), limit, quote(cmp.Or(pattern, p.run)), quote("^("+strings.Join(append([]string{"Fuzz.*"}, p.skip...), "|")+")$"))
		fmt.Fprintf(&b, "echo \"%s%s $?\"\n", markEnd, p.dir)
	}
	return b.String()
}

// testGuest boots a guest and sums up its output, which it also writes to log.
func testGuest(ctx context.Context, c config, log string) (s *summary, err error) {
	s = &summary{}
	f, err := os.Create(log)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, bootErr := boot(ctx, c, f)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return s, err
	}
	parsed, err := parse(f)
	if err != nil {
		return s, err
	}
	return parsed, bootErr
}
