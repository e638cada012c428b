// SPDX-License-Identifier: Apache-2.0

// Package manual turns the help of a program into its manual page and into completions
// for shells, so that the text of the help is the only copy.
package manual

import (
	"strings"

	"github.com/spf13/pflag"
)

// Program is what the manual is about.
type Program struct {
	Name    string
	Summary string // a few words, for whatis(1)
	Version string
	// Description is paragraphs of text, separated by empty lines. Indented lines are
	// kept as they are.
	Description string
	Verbs       []Verb
	// ExitStatus is one paragraph.
	ExitStatus string
	// SeeAlso names other pages, such as proc(5).
	SeeAlso []string
}

// Verb is one verb of the program's command line.
type Verb struct {
	Name     string
	Summary  string
	Usage    string // without the name of the program
	Details  string // as Program.Description
	Examples []Example
	Flags    *pflag.FlagSet
}

// Example is a command line and what it does.
type Example struct{ Does, Command string }

// flag is a flag as the manual and the completions show it.
type flag struct {
	long, short string
	// value is the placeholder of the value, empty if the flag takes none.
	value string
	usage string
	// words are the values that the flag takes, nil if there are others.
	words []string
	// def is the default, empty if it goes without saying.
	def string
}

// flags returns the flags that are not hidden, in their order.
func (v *Verb) flags() []flag {
	var list []flag
	v.Flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		one := flag{long: f.Name, short: f.Shorthand, value: value, usage: usage}
		if f.NoOptDefVal != "" || f.Value.Type() == "bool" {
			one.value = ""
		}
		if kind := f.Value.Type(); strings.Contains(kind, "|") && one.value != "" {
			one.words = strings.Split(kind, "|")
		}
		switch f.DefValue {
		case "", "0", "false", "[]", "0s":
		default:
			one.def = f.DefValue
		}
		list = append(list, one)
	})
	return list
}

// isPath reports whether the flag takes the path of a file or a directory.
func (f *flag) isPath() bool {
	switch f.value {
	case "DIR", "FILE", "PATH":
		return true
	}
	return false
}

// summary is the usage in one line, without what a shell would take for its own.
func (f *flag) summary() string { return oneLine(f.usage) }

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
