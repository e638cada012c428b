// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// passing is the output of a package whose tests pass.
const passing = `@kernel 6.1.0-50-cloud-amd64
@begin fs
=== RUN   TestOne
--- PASS: TestOne (0.01s)
=== RUN   TestTwo
=== RUN   TestTwo/sub
--- PASS: TestTwo (0.02s)
    --- PASS: TestTwo/sub (0.01s)
PASS
@end fs 0
`

func parsed(t *testing.T, output string) *summary {
	t.Helper()
	s, err := parse(strings.NewReader(output))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTestsAreCountedWithoutSubtests(t *testing.T) {
	s := parsed(t, passing)
	if s.passed != 2 || s.failed != 0 || s.skipped != 0 || len(s.verdicts) != 0 || s.kernel != "6.1.0-50-cloud-amd64" {
		t.Errorf("%+v", s)
	}
}

func TestEveryWayToFailHasALine(t *testing.T) {
	for _, test := range []struct{ name, output, want string }{
		{"a test",
			"=== RUN   TestX\n    x_test.go:7: first\n    x_test.go:8: second\n--- FAIL: TestX (1.00s)\nFAIL\n@end fs 1\n",
			"FAIL fs.TestX: x_test.go:7: first"},
		{"a subtest that ran beside another",
			"=== RUN   TestX\n=== RUN   TestX/a\n=== PAUSE TestX/a\n=== RUN   TestX/b\n=== PAUSE TestX/b\n=== CONT  TestX/a\n    x_test.go:7: good\n" +
				"=== CONT  TestX/b\n    x_test.go:7: bad\n--- FAIL: TestX (1.00s)\n    --- PASS: TestX/a (1.00s)\n    --- FAIL: TestX/b (1.00s)\nFAIL\n@end fs 1\n",
			"FAIL fs.TestX: x_test.go:7: bad"},
		{"a script",
			"=== RUN   TestX\n=== RUN   TestX/a\n    testscript.go:609: WORK=$WORK\n        > status 1 x\n        FAIL: testdata/a.txtar:28: exit status 127, want 1\n" +
				"        \n--- FAIL: TestX (1.00s)\n    --- FAIL: TestX/a (1.00s)\nFAIL\n@end fs 1\n",
			"FAIL fs.TestX: testdata/a.txtar:28: exit status 127, want 1"},
		{"output without a newline before the verdict",
			"=== RUN   TestX\n    x_test.go:7: why\nsome output--- FAIL: TestX (1.00s)\nFAIL\n@end fs 1\n",
			"FAIL fs.TestX: x_test.go:7: why"},
		{"a panic",
			"=== RUN   TestX\npanic: no\n\ngoroutine 1 [running]:\n@end fs 2\n",
			"FAIL fs.TestX: did not end: panic: no"},
		{"a panic outside of a test", "panic: no\n@end fs 2\n", "FAIL fs: exit status 2: panic: no"},
		{"a binary that does not start", "sh: 5: /t/fs.test: not found\n@end fs 127\n", "FAIL fs: exit status 127"},
		{"an end without a newline before it", "some output@end fs 3\n", "FAIL fs: exit status 3"},
		{"a guest that stops", "=== RUN   TestX\n", "FAIL fs.TestX: did not end"},
		{"a guest that stops between tests", "=== RUN   TestX\n--- PASS: TestX (1.00s)\n", "FAIL fs: did not end"},
	} {
		s := parsed(t, "@kernel 6.1\n@begin fs\n"+test.output)
		if s.failed == 0 || len(s.verdicts) == 0 || s.verdicts[0].String() != test.want {
			t.Errorf("%s: got %d failures %q, want %q", test.name, s.failed, s.verdicts, test.want)
		}
	}
}

func TestASkippedTestIsTold(t *testing.T) {
	s := parsed(t, "@begin fs\n=== RUN   TestX\n    x_test.go:7: no ioctl\n--- SKIP: TestX (0.00s)\nPASS\n@end fs 0\n")
	if s.skipped != 1 || s.failed != 0 || s.verdicts[0].String() != "SKIP fs.TestX: x_test.go:7: no ioctl" {
		t.Errorf("%+v", s)
	}
}

func TestAPackageWithoutATestThatPassedFails(t *testing.T) {
	for _, output := range []string{
		"",                             // it did not even begin
		"@begin fs\nPASS\n@end fs 0\n", // its list of tests to skip has them all
		"@begin initpid\n=== RUN   TestX\n--- PASS: TestX (0.00s)\nPASS\n@end initpid 0\n", // another one did
	} {
		s := parsed(t, output)
		s.wantTests([]testPackage{{dir: "fs"}})
		if s.failed != 1 || s.verdicts[len(s.verdicts)-1].String() != "FAIL fs: ran no test that passed" {
			t.Errorf("%q: %+v", output, s)
		}
	}
	s := parsed(t, passing)
	if s.wantTests([]testPackage{{dir: "fs"}}); s.failed != 0 {
		t.Errorf("%+v", s)
	}
}

func TestUnknownPackagesAreRefused(t *testing.T) {
	if _, err := choose([]string{"initpid", "nosuch"}, ""); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("got %v", err)
	}
	got, err := choose([]string{"fs"}, "")
	if err != nil || len(got) != 1 || got[0].dir != "fs" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, tag := range []string{"", systemdTag, enginesTags} {
		got, err := choose([]string{"test"}, tag)
		if err != nil || len(got) != 1 || got[0].tag != tag {
			t.Errorf("tag %q: got %+v, %v", tag, got, err)
		}
	}
}

// TestListLeavesOutOnlyWhatThereIs keeps a renamed test from staying in the list, where it would leave out nothing.
func TestListLeavesOutOnlyWhatThereIs(t *testing.T) {
	for _, p := range testPackages() {
		files, err := filepath.Glob(filepath.Join("../..", p.dir, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files with tests, %v", p.dir, len(files), err)
		}
		var source strings.Builder
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(b)
		}
		for _, name := range p.skip {
			if !strings.Contains(source.String(), "\nfunc "+name+"(") {
				t.Errorf("%s has no test %s", p.dir, name)
			}
		}
	}
}

func TestScriptRunsPatternsAsTheyAre(t *testing.T) {
	// printf stands for the test binary: its arguments come out one a line.
	script := testScript([]testPackage{{dir: "fs", skip: []string{"TestX", "TestY"}}}, "it's a|b $HOME")
	_, line, _ := strings.Cut(script, "/t/fs.test ")
	line, _, _ = strings.Cut(line, "\n")
	got, err := output(t.Context(), "", "sh", "-c", "printf '%s\\n' "+line)
	want := "-test.v\n-test.timeout=30m\n-test.run=it's a|b $HOME\n-test.skip=^(Fuzz.*|TestX|TestY)$\n"
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestASecondChanceIsTakenByTheTestsThatFailed(t *testing.T) {
	first := parsed(t, passing+"@begin test\n=== RUN   TestOne\n--- FAIL: TestOne (1.00s)\n=== RUN   TestTwo\n--- FAIL: TestTwo (1.00s)\n@end test 1\n")
	dirs, tests := first.failures()
	if strings.Join(dirs, " ") != "test test" || strings.Join(tests, " ") != "TestOne TestTwo" {
		t.Fatalf("to run again: %q of %q", tests, dirs)
	}
	// That TestTwo of another package passed says nothing.
	first.passOver(parsed(t, "@begin test\n=== RUN   TestOne\n--- PASS: TestOne (1.00s)\n@end test 0\n@begin fs\n=== RUN   TestTwo\n--- PASS: TestTwo (1.00s)\n@end fs 0\n"))
	if first.failed != 1 || first.passed != 3 || first.verdicts[0].what == failed || first.verdicts[1].what != failed {
		t.Errorf("%+v", first)
	}
}

func TestNoSecondChance(t *testing.T) {
	many := ""
	for range manyFailures {
		many += "=== RUN   TestX\n--- FAIL: TestX (1.00s)\n"
	}
	for name, output := range map[string]string{
		"a package that did not end": "=== RUN   TestX\n--- FAIL: TestX (1.00s)\n",
		"many failures":              many + "@end test 1\n",
		"no failure":                 "=== RUN   TestX\n--- PASS: TestX (1.00s)\n@end test 0\n",
	} {
		if _, tests := parsed(t, "@begin test\n"+output).failures(); tests != nil {
			t.Errorf("%s: %q", name, tests)
		}
	}
}
