package fs

import "golang.org/x/sys/unix"

// Abandon closes what the process has of the pins, as its end does.
func (p *Pins) Abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range p.files {
		unix.Close(fd)
	}
	clear(p.files)
	_ = p.bundle.close()
	p.bundle = nil
}
