// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Lines of the guest's script between the output of the tests.
const (
	markKernel = "@kernel "
	markBegin  = "@begin "
	markEnd    = "@end "
)

// summary is what the output of a guest says of its tests.
type summary struct {
	kernel                  string
	passed, failed, skipped int            // tests, without subtests
	verdicts                []verdict      // of tests that did not pass
	passedOf                map[string]int // by package
	passedTests             map[string]bool
}

// failed is the verdict on what did not pass.
const failed = "FAIL"

// verdict is about a test, or about a whole package where test is empty.
type verdict struct {
	what, dir, test string
	why             []string // empty strings do not count
}

func (v verdict) String() string {
	what := v.what + " " + v.dir
	if v.test != "" {
		what += "." + v.test
	}
	all := append([]string{what}, v.why...)
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return s == "" }), ": ")
}

// fail counts a failure.
func (s *summary) fail(dir, test string, why ...string) {
	s.failed++
	s.verdicts = append(s.verdicts, verdict{failed, dir, test, why})
}

// manyFailures is from where on they are no bad luck.
const manyFailures = 6

// failures returns the tests that failed, and their packages; none where a package failed as a whole, or too many did.
func (s *summary) failures() (dirs, tests []string) {
	for _, v := range s.verdicts {
		switch {
		case v.what != failed:
		case v.test == "":
			return nil, nil
		default:
			dirs, tests = append(dirs, v.dir), append(tests, v.test)
		}
	}
	if len(tests) >= manyFailures {
		return nil, nil
	}
	return dirs, tests
}

// passOver takes the failures back that passed in again.
func (s *summary) passOver(again *summary) {
	for i, v := range s.verdicts {
		if v.what == failed && again.passedTests[v.dir+"."+v.test] {
			s.verdicts[i].what = "passed the second time"
			s.failed--
			s.passed++
		}
	}
}

// wantTests counts a failure for each package that did not pass a test.
func (s *summary) wantTests(packages []testPackage) {
	for _, p := range packages {
		if s.passedOf[p.dir] == 0 {
			s.fail(p.dir, "", "ran no test that passed")
		}
	}
}

// parser reads the output of one package after another.
type parser struct {
	*summary
	dir     string            // package that runs, empty between two
	before  int               // failures before it
	current string            // test or subtest that writes
	said    map[string]string // first message of each test and subtest of dir that has no verdict yet
	panics  string
}

// parse reads the output of a guest that ran testScript. A test that began and has no verdict has failed, and so has a
// package that ended badly without a failed test.
func parse(r io.Reader) (*summary, error) {
	var (
		p       = parser{summary: &summary{passedOf: map[string]int{}, passedTests: map[string]bool{}}, said: map[string]string{}}
		start   = regexp.MustCompile(`^=== (?:RUN|NAME|CONT) +(\S+)`)
		message = regexp.MustCompile(`^ +(\w+\.go:\d+: .*)`)
		// testscript tells the whole script in one message, and at its end what went wrong.
		script = regexp.MustCompile(`^ +FAIL: (.*)`)
		// Output without a newline may stand before it.
		result = regexp.MustCompile(`--- (PASS|FAIL|SKIP): (\S+) \([\d.]+s\)$`)
	)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20) // a test may dump a whole file
	for lines.Scan() {
		line := lines.Text()
		if kernel, ok := strings.CutPrefix(line, markKernel); ok {
			p.kernel = kernel
		} else if dir, ok := strings.CutPrefix(line, markBegin); ok {
			p.dir, p.before, p.panics = dir, p.failed, ""
		} else if _, status, ok := strings.Cut(line, markEnd+p.dir+" "); ok {
			p.unfinished()
			if status != "0" && p.failed == p.before {
				p.fail(p.dir, "", "exit status "+status, p.panics)
			}
			p.dir = ""
		} else if m := start.FindStringSubmatch(line); m != nil {
			p.current = m[1]
			p.said[p.current] += ""
		} else if m := message.FindStringSubmatch(line); m != nil {
			if said, runs := p.said[p.current]; runs && said == "" {
				p.said[p.current] = m[1]
			}
		} else if m := script.FindStringSubmatch(line); m != nil {
			p.said[p.current] = m[1]
		} else if m := result.FindStringSubmatch(line); m != nil {
			p.result(m[1], m[2])
		} else if strings.HasPrefix(line, "panic: ") && p.panics == "" {
			p.panics = line
		}
	}
	if p.dir != "" {
		p.unfinished()
		p.fail(p.dir, "", "did not end")
	}
	return p.summary, lines.Err()
}

// result takes the PASS, FAIL or SKIP of a test or subtest.
func (p *parser) result(what, test string) {
	switch parent, _, sub := strings.Cut(test, "/"); {
	case sub && what == failed: // comes after the test's own, which often has nothing to say
		if i := len(p.verdicts) - 1; i >= 0 && p.verdicts[i].test == parent && p.verdicts[i].why[0] == "" {
			p.verdicts[i].why[0] = p.said[test]
		}
	case sub:
	case what == "PASS":
		p.passed++
		p.passedOf[p.dir]++
		p.passedTests[p.dir+"."+test] = true
	case what == failed:
		p.fail(p.dir, test, p.said[test])
	case what == "SKIP":
		p.skipped++
		p.verdicts = append(p.verdicts, verdict{what, p.dir, test, []string{p.said[test]}})
	}
	delete(p.said, test)
}

// unfinished fails the tests that have no verdict when their package ends.
func (p *parser) unfinished() {
	for _, test := range slices.Sorted(maps.Keys(p.said)) {
		if !strings.Contains(test, "/") {
			p.fail(p.dir, test, "did not end", p.said[test], p.panics)
		}
	}
	clear(p.said)
}
