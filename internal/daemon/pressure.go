// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"vprocfs/fs"
	"vprocfs/internal/shm"
	"vprocfs/procvirt"
)

// triggers passes on to procvirt what containers write to proc/pressure. It is an
// fs.Triggers.
type triggers struct {
	*procvirt.Triggers
	src *source
}

// newTriggers returns the triggers of a connection. saved has those of the former worker; if
// it is nil, triggers end with this process.
func newTriggers(src *source, conn *fs.Conn, saved *shm.Table) *triggers {
	return &triggers{src: src, Triggers: src.registry.NewTriggers(procvirt.TriggerConfig{
		Max: src.files / 16, Wake: conn.Wake, Saved: saved, Log: src.log,
	})}
}

// Set makes text the trigger of the open file fh.
func (t *triggers) Set(turn *fs.Turn, fh uint64, n fs.NodeID, text []byte) error {
	file, err := t.src.fileOf(n)
	if err != nil {
		return err
	}
	c := turn.Caller()
	return t.Triggers.Set(procvirt.TriggerRequest{Turn: turn, ID: turn.ID(), Handle: fh, File: file, PID: c.PID, UID: c.UID, Text: text})
}
