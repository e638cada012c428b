// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"os"
)

// Abandon closes what the process has of the pins, as its end does.
func (p *Pins) Abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	closeAll(p.fds())
	clear(p.files)
	_ = p.bundle.close()
	p.bundle = nil
}

// Has reports whether the file at path, below the root, has a pin.
func (p *Pins) Has(path string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range p.fds() {
		if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && name == "/"+path {
			return true
		}
	}
	return false
}

const MaxOwnerPins = maxOwnerPins
