// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// words is a flag that takes one of some words.
type words string

func (w words) String() string   { return string(w) }
func (w words) Set(string) error { return nil }
func (w words) Type() string     { return "auto|fork" }

// testProgram has one of each kind of flag, and text that roff and shells take for their
// own.
func testProgram() *Program {
	fl := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	fl.Var(words("auto"), "init", "how: it's [found], \\ or $HOME `not`")
	fl.String("mount", "/var", "`DIR` of the mount")
	fl.BoolP("dry-run", "n", false, "only say")
	fl.Int("pid", 0, "a process")
	fl.Bool("secret", false, "hidden")
	if err := fl.MarkHidden("secret"); err != nil {
		panic(err)
	}
	return &Program{
		Name: "vpx", Summary: "shows", Version: "1.0",
		Description: "First.\n\n  indented: .line\n.begins with a dot\n'and a quote\n",
		ExitStatus:  "0 done.\n",
		SeeAlso:     []string{"proc(5)"},
		Verbs: []Verb{
			{Name: "serve", Summary: "serve: the view's", Usage: "serve [flags] DIR", Details: "More.\n", Flags: fl,
				Examples: []Example{{Does: "all", Command: "vpx serve -n /var"}}},
			{Name: "stop", Summary: "stop", Usage: "stop", Flags: pflag.NewFlagSet("stop", pflag.ContinueOnError)},
		},
	}
}

func written(t *testing.T, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestGroffTakesThePage without a warning, and prints all that is in it.
func TestGroffTakesThePage(t *testing.T) {
	cmd := exec.Command("groff", "-man", "-Tascii", "-ww", "-P-cbou")
	cmd.Stdin = strings.NewReader(written(t, testProgram().Man))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	for _, want := range []string{
		"vpx - shows", "vpx serve [flags] DIR", "indented: .line", ".begins with a dot", "'and a quote",
		"--init not", `how: it's [found], \ or $HOME not (default auto)`, "--mount DIR", "(default /var)", "-n, --dry-run", "vpx serve -n /var", "0 done.", "proc(5)",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "secret") {
		t.Error("a hidden flag is shown")
	}
}

// completionCases are what stands on the command line after the program, and what a shell
// must offer and must not.
var completionCases = map[string]struct {
	line      []string
	want, not []string
}{
	"verbs":           {line: []string{""}, want: []string{"serve", "stop", "help"}, not: []string{"--init"}},
	"part of a verb":  {line: []string{"se"}, want: []string{"serve"}, not: []string{"stop"}},
	"verbs of help":   {line: []string{"help", "s"}, want: []string{"serve", "stop"}},
	"flags":           {line: []string{"serve", "--"}, want: []string{"--init", "--mount", "--dry-run", "--pid"}, not: []string{"--secret"}},
	"words":           {line: []string{"serve", "--init", "f"}, want: []string{"fork"}, not: []string{"auto"}},
	"files of a flag": {line: []string{"serve", "--mount", "a-"}, want: []string{"a-file"}},
	"files":           {line: []string{"serve", "a-"}, want: []string{"a-file"}},
}

func testCompletions(t *testing.T, script string, complete func(t *testing.T, script, dir string, line []string) []string) {
	dir := t.TempDir()
	path := filepath.Join(dir, "_vpx")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a-file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range completionCases {
		t.Run(name, func(t *testing.T) {
			got := complete(t, path, dir, c.line)
			// A busy machine may be silent for longer than the driver of zsh waits.
			for range 3 {
				if !slices.ContainsFunc(c.want, func(w string) bool { return !slices.Contains(got, w) }) {
					break
				}
				got = complete(t, path, dir, c.line)
			}
			for _, w := range c.want {
				if !slices.Contains(got, w) {
					t.Errorf("%q is not offered: %q", w, got)
				}
			}
			for _, n := range c.not {
				if slices.Contains(got, n) {
					t.Errorf("%q is offered: %q", n, got)
				}
			}
		})
	}
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "TERM=dumb")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestBashCompletes(t *testing.T) {
	complete := func(t *testing.T, script, dir string, line []string) []string {
		command := `source "$0"; COMP_WORDS=(vpx "$@"); COMP_CWORD=$#; _vpx; printf '%s\n' "${COMPREPLY[@]}"`
		return strings.Fields(run(t, dir, "bash", append([]string{"--norc", "-euc", command, script}, line...)...))
	}
	testCompletions(t, written(t, testProgram().Bash), complete)
}

// TestBashCompletesAfterAnEqualsSign: bash splits --flag=value into three words.
func TestBashCompletesAfterAnEqualsSign(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "vpx")
	if err := os.WriteFile(script, []byte(written(t, testProgram().Bash)), 0o600); err != nil {
		t.Fatal(err)
	}
	const command = `source "$0"; COMP_WORDS=(vpx "$@"); COMP_CWORD=$#; _vpx; printf '%s\n' "${COMPREPLY[@]}"`
	for _, line := range [][]string{{"serve", "--init", "="}, {"serve", "--init", "=", "f"}} {
		if got := run(t, dir, "bash", append([]string{"--norc", "-euc", command, script}, line...)...); !strings.Contains(got, "fork") {
			t.Errorf("%q: %q", line, got)
		}
	}
}

// zshDriver types a line into an interactive zsh, has it list what it offers (Control-D),
// and prints all that appeared on the terminal. It waits for a second of silence.
const zshDriver = `
zmodload zsh/zpty
zpty z zsh -f -i
until_quiet() { local chunk n=0; out=; while ((n < 20)); do if zpty -r -t z chunk; then out+=$chunk; n=0; else sleep 0.05; ((++n)); fi; done }
until_ready() { local chunk n=0 all=; while [[ $all != *READY2* ]] && ((++n < 400)); do zpty -r -t z chunk && all+=$chunk || sleep 0.05; done }
zpty -w z "PS1=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -d $1/dump; cd $1; LISTMAX=10000; print -r READY\$((1+1))"
until_ready
zpty -w -n z "vpx $2"$'\C-d'
until_quiet
print -r -- "$out"
zpty -d z
`

var terminalControl = regexp.MustCompile(`\x1b\[[?0-9;]*[a-zA-Z]`)

func TestZshCompletes(t *testing.T) {
	complete := func(t *testing.T, script, dir string, line []string) []string {
		out := run(t, dir, "timeout", "60", "zsh", "-fc", zshDriver, "zsh", filepath.Dir(script), strings.Join(line, " "))
		return strings.Fields(terminalControl.ReplaceAllString(out, " "))
	}
	testCompletions(t, written(t, testProgram().Zsh), complete)
}

func TestFishCompletes(t *testing.T) {
	complete := func(t *testing.T, script, dir string, line []string) []string {
		out := run(t, dir, "fish", "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, script, "vpx "+strings.Join(line, " "))
		var offered []string
		for l := range strings.Lines(out) {
			offered = append(offered, strings.TrimRight(strings.SplitN(l, "\t", 2)[0], "\n"))
		}
		return offered
	}
	testCompletions(t, written(t, testProgram().Fish), complete)
}
