// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"vprocfs/internal/daemon"
)

// PolicyJSON prints one object. Its lists are never null.
func PolicyJSON(to io.Writer, words []daemon.PolicyWord, unknown []string) error {
	all := struct {
		Words   []daemon.PolicyWord `json:"words"`
		Unknown []string            `json:"unknown"`
	}{append([]daemon.PolicyWord{}, words...), append([]string{}, unknown...)}
	return JSON(to, all)
}

// Policy prints the words that hold, each with who has it, and those that are not known.
func Policy(to io.Writer, words []daemon.PolicyWord, unknown []string) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, word := range words {
		fmt.Fprintf(w, "%s=%s\t%s\n", word.Key, Printable(word.Value), Printable(word.Dir))
	}
	for _, word := range unknown {
		fmt.Fprintf(w, "%s\tunknown, ignored\n", Printable(word))
	}
	return w.Flush()
}
