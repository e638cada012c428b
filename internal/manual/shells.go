// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"fmt"
	"io"
	"strings"
)

// Bash writes completions for bash.
func (p *Program) Bash(w io.Writer) error {
	var b strings.Builder
	names := p.verbNames()
	fmt.Fprintf(&b, `# Completions of %[1]s for bash.
_%[1]s() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= words= i
	# bash splits --flag=value in three words.
	if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		%[2]s) verb=${COMP_WORDS[i]}; break ;;
		esac
	done
	COMPREPLY=()
	case $verb,$prev in
`, p.Name, strings.Join(names, "|"))
	for i := range p.Verbs {
		v := &p.Verbs[i]
		for _, f := range v.flags() {
			switch {
			case f.words != nil:
				fmt.Fprintf(&b, "\t%s,--%s) words=%s ;;\n", v.Name, f.long, quote(strings.Join(f.words, " ")))
			case f.isPath():
				fmt.Fprintf(&b, "\t%s,--%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", v.Name, f.long)
			case f.value != "":
				fmt.Fprintf(&b, "\t%s,--%s) return ;;\n", v.Name, f.long)
			}
		}
	}
	fmt.Fprintf(&b, "\thelp,*) words=%s ;;\n", quote(strings.Join(names, " ")))
	fmt.Fprintf(&b, "\t,*) words=%s ;;\n", quote(strings.Join(names, " ")))
	for i := range p.Verbs {
		v := &p.Verbs[i]
		var long []string
		for _, f := range v.flags() {
			long = append(long, "--"+f.long)
		}
		fmt.Fprintf(&b, "\t%s,*) if [[ $cur == -* ]]; then words=%s; fi ;;\n", v.Name, quote(strings.Join(long, " ")))
	}
	fmt.Fprintf(&b, `	esac
	if [[ -n $words ]]; then
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	else
		COMPREPLY=($(compgen -f -- "$cur"))
	fi
}
complete -o filenames -F _%[1]s %[1]s
`, p.Name)
	_, err := io.WriteString(w, b.String())
	return err
}

// Zsh writes completions for zsh.
func (p *Program) Zsh(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `#compdef %[1]s
# Completions of %[1]s for zsh.
_%[1]s() {
	local curcontext="$curcontext" state line
	local -a verbs
	verbs=(
`, p.Name)
	for i := range p.Verbs {
		v := &p.Verbs[i]
		fmt.Fprintf(&b, "\t\t%s\n", quote(v.Name+":"+oneLine(v.Summary)))
	}
	b.WriteString("\t\t'help:show help for a command'\n\t)\n")
	b.WriteString(`	_arguments -C '1: :->verb' '*:: :->rest'
	case $state in
	verb) _describe command verbs; return ;;
	esac
	case $words[1] in
	help) _describe command verbs ;;
`)
	for i := range p.Verbs {
		v := &p.Verbs[i]
		fmt.Fprintf(&b, "\t%s)\n\t\t_arguments", v.Name)
		for _, f := range v.flags() {
			spec := "--" + f.long
			if f.value != "" {
				spec += "="
			}
			spec += "[" + zshEscaper.Replace(f.summary()) + "]"
			switch {
			case f.words != nil:
				spec += ":" + f.value + ":(" + strings.Join(f.words, " ") + ")"
			case f.isPath():
				spec += ":" + f.value + ":_files"
			case f.value != "":
				spec += ":" + zshEscaper.Replace(f.value) + ": "
			}
			b.WriteString(" \\\n\t\t\t" + quote(spec))
		}
		b.WriteString(" \\\n\t\t\t'*:file:_files' ;;\n")
	}
	fmt.Fprintf(&b, "\tesac\n}\nif [[ $funcstack[1] == _%[1]s ]]; then _%[1]s \"$@\"; else compdef _%[1]s %[1]s; fi\n", p.Name)
	_, err := io.WriteString(w, b.String())
	return err
}

// Fish writes completions for fish.
func (p *Program) Fish(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Completions of %s for fish.\n", p.Name)
	complete := func(args ...string) {
		fmt.Fprintf(&b, "complete -c %s %s\n", p.Name, strings.Join(args, " "))
	}
	for i := range p.Verbs {
		v := &p.Verbs[i]
		complete("-n", "__fish_use_subcommand", "-a", v.Name, "-d", fishQuote(oneLine(v.Summary)))
	}
	complete("-n", "__fish_use_subcommand", "-a", "help", "-d", fishQuote("show help for a command"))
	complete("-n", fishQuote("__fish_seen_subcommand_from help"), "-f", "-a", fishQuote(strings.Join(p.verbNames(), " ")))
	for i := range p.Verbs {
		v := &p.Verbs[i]
		for _, f := range v.flags() {
			args := []string{"-n", fishQuote("__fish_seen_subcommand_from " + v.Name), "-l", f.long}
			if f.short != "" {
				args = append(args, "-s", f.short)
			}
			switch {
			case f.words != nil:
				args = append(args, "-x", "-a", fishQuote(strings.Join(f.words, " ")))
			case f.isPath():
				args = append(args, "-r")
			case f.value != "":
				args = append(args, "-x")
			}
			complete(append(args, "-d", fishQuote(f.summary()))...)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verbNames returns the verbs, and help.
func (p *Program) verbNames() []string {
	var names []string
	for i := range p.Verbs {
		names = append(names, p.Verbs[i].Name)
	}
	return append(names, "help")
}

// zshEscaper escapes what _arguments takes for its own.
var zshEscaper = strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`)

// quote makes one word of s for bash and zsh.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// fishQuote makes one word of s for fish.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
