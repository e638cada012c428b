// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"log/slog"
	"os"

	"vprocfs/procvirt"
)

// Explanation says which container a process is in, and where its numbers come from.
type Explanation = procvirt.Explanation

// FileExplanation and SourceExplanation are parts of it.
type (
	FileExplanation   = procvirt.FileExplanation
	SourceExplanation = procvirt.SourceExplanation
)

// Explain finds the container of process pid as a daemon with the same options
// does.
func Explain(o ViewOptions, pid int) (*Explanation, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	src, err := newSource(o, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return src.registry.Explain(pid)
}
