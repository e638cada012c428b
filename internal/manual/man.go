// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"fmt"
	"io"
	"strings"
)

// Man writes the page of section 1, in the language of man(7).
func (p *Program) Man(w io.Writer) error {
	var b strings.Builder
	title(&b, p.Name, 1, p.Version)
	section(&b, "NAME")
	b.WriteString(escape(p.Name+" - "+p.Summary) + "\n")
	section(&b, "SYNOPSIS")
	for i := range p.Verbs {
		fmt.Fprintf(&b, ".B %s\n%s\n.br\n", p.Name, escape(p.Verbs[i].Usage))
	}
	section(&b, "DESCRIPTION")
	text(&b, p.Description)
	section(&b, "COMMANDS")
	for i := range p.Verbs {
		p.Verbs[i].man(&b, p.Name)
	}
	section(&b, "EXIT STATUS")
	text(&b, p.ExitStatus)
	seeAlso(&b, p.SeeAlso)
	_, err := io.WriteString(w, b.String())
	return err
}

// Page writes a page of another section, which is text alone.
func Page(w io.Writer, name string, sec int, version, summary, description string, others []string) error {
	var b strings.Builder
	title(&b, name, sec, version)
	section(&b, "NAME")
	b.WriteString(escape(name+" - "+summary) + "\n")
	section(&b, "DESCRIPTION")
	text(&b, description)
	seeAlso(&b, others)
	_, err := io.WriteString(w, b.String())
	return err
}

func (v *Verb) man(b *strings.Builder, program string) {
	fmt.Fprintf(b, ".SS %s \\(em %s\n", escape(v.Name), escape(v.Summary))
	fmt.Fprintf(b, ".B %s\n%s\n", program, escape(v.Usage))
	if v.Details != "" {
		b.WriteString(".PP\n")
		text(b, v.Details)
	}
	for _, f := range v.flags() {
		b.WriteString(".TP\n")
		if f.short != "" {
			b.WriteString(`\fB` + escape("-"+f.short) + `\fR, `)
		}
		b.WriteString(`\fB` + escape("--"+f.long) + `\fR`)
		if f.value != "" {
			b.WriteString(` \fI` + escape(f.value) + `\fR`)
		}
		b.WriteString("\n" + escape(f.summary()))
		if f.def != "" {
			b.WriteString(" (default " + escape(f.def) + ")")
		}
		b.WriteString("\n")
	}
	if len(v.Examples) == 0 {
		return
	}
	b.WriteString(".PP\nExamples:\n")
	for _, e := range v.Examples {
		fmt.Fprintf(b, ".PP\n%s:\n.PP\n.nf\n.RS\n%s\n.RE\n.fi\n", escape(e.Does), escape(e.Command))
	}
}

// title has no date, so that two builds give the same bytes.
func title(b *strings.Builder, name string, sec int, version string) {
	fmt.Fprintf(b, ".TH %s %d \"\" \"vprocfs %s\"\n", escape(strings.ToUpper(name)), sec, escape(version))
}

func section(b *strings.Builder, name string) { fmt.Fprintf(b, ".SH %s\n", name) }

func seeAlso(b *strings.Builder, pages []string) {
	if len(pages) == 0 {
		return
	}
	section(b, "SEE ALSO")
	b.WriteString(escape(strings.Join(pages, ", ")) + "\n")
}

// text writes paragraphs. Lines that are indented keep their form.
func text(b *strings.Builder, s string) {
	verbatim := false
	for line := range strings.SplitSeq(strings.Trim(s, "\n"), "\n") {
		if indented := strings.HasPrefix(line, " "); indented != verbatim && line != "" {
			verbatim = indented
			if verbatim {
				b.WriteString(".nf\n")
			} else {
				b.WriteString(".fi\n")
			}
		}
		if line == "" {
			b.WriteString(".PP\n")
			continue
		}
		b.WriteString(escape(line) + "\n")
	}
	if verbatim {
		b.WriteString(".fi\n")
	}
}

var escaper = strings.NewReplacer(`\`, `\e`, "-", `\-`)

// escape makes text of s that roff prints as it is, if s has no newline.
func escape(s string) string {
	s = escaper.Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
