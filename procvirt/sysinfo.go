// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"math"

	"vprocfs/procvirt/internal/scan"
)

// Sysinfo is what sysinfo(2) returns, with the numbers of the container's files.
type Sysinfo struct {
	// Uptime is in seconds, rounded up as the kernel does (do_sysinfo, kernel/sys.c).
	Uptime uint64
	// Loads are the averages of 1, 5 and 15 minutes, in units of 1/SysinfoLoad.
	Loads [3]uint64
	// TotalRAM to FreeSwap are in bytes, and whole kilobytes: MemTotal, MemFree, Shmem,
	// Buffers, SwapTotal and SwapFree of meminfo.
	TotalRAM, FreeRAM, SharedRAM, BufferRAM, TotalSwap, FreeSwap uint64
	// Threads is the number of threads that loadavg shows.
	Threads uint64
}

// SysinfoLoad is 1.0 as a load average of sysinfo(2) (SI_LOAD_SHIFT).
const SysinfoLoad = 1 << 16

// Sysinfo sets s to the container's numbers. They are taken from the texts of meminfo,
// uptime and loadavg: whoever mixes the call with the files, as free of busybox does, finds
// the same numbers in both, those of the host too where a host's file stands in.
func (c *Container) Sysinfo(s *Sysinfo) error {
	*s = Sysinfo{}
	if err := c.readText(meminfoNode); err != nil {
		return err
	}
	if !s.parseMeminfo(c.list) {
		return c.unparsed(meminfoNode)
	}
	if err := c.readText(uptimeNode); err != nil {
		return err
	}
	if !s.parseUptime(c.list) {
		return c.unparsed(uptimeNode)
	}
	if err := c.readText(loadavgNode); err != nil {
		return err
	}
	if !s.parseLoadavg(c.list) {
		return c.unparsed(loadavgNode)
	}
	return nil
}

// readText makes the text of a file in c.list.
func (c *Container) readText(node uint64) error {
	text, err := c.Append(c.list[:0], c.registry.File(node))
	if err == nil {
		c.list = text
	}
	return err
}

func (c *Container) unparsed(node uint64) error {
	return fmt.Errorf("cannot parse %v: %q", c.registry.File(node), c.list[:min(len(c.list), 80)])
}

// parseMeminfo takes the memory from the text of meminfo. It returns false without a
// MemTotal.
func (s *Sysinfo) parseMeminfo(text []byte) (ok bool) {
	for line := range scan.Lines(text) {
		label, rest, _ := bytes.Cut(line, []byte(":"))
		switch string(label) {
		case "MemTotal":
			s.TotalRAM, ok = bytesOfLine(rest), true
		case "MemFree":
			s.FreeRAM = bytesOfLine(rest)
		case "Shmem":
			s.SharedRAM = bytesOfLine(rest)
		case "Buffers":
			s.BufferRAM = bytesOfLine(rest)
		case "SwapTotal":
			s.TotalSwap = bytesOfLine(rest)
		case "SwapFree":
			s.FreeSwap = bytesOfLine(rest)
		}
	}
	return ok
}

// parseUptime takes the uptime from the text of uptime.
func (s *Sysinfo) parseUptime(text []byte) bool {
	field, _ := scan.Field(text)
	hundredths, ok := parseHundredths(field)
	s.Uptime = hundredths / 100
	if hundredths%100 > 0 {
		s.Uptime++
	}
	return ok
}

// parseLoadavg takes the averages and the number of threads from the text of loadavg. The
// averages are rounded up, so that a reader who cuts off all but two digits behind the
// point, as busybox does, shows those of the file.
func (s *Sysinfo) parseLoadavg(text []byte) bool {
	rest, _ := scan.Line(text)
	var field []byte
	for i := range s.Loads {
		field, rest = scan.Field(rest)
		hundredths, ok := parseHundredths(field)
		if !ok || hundredths > math.MaxUint64/SysinfoLoad-1 {
			return false
		}
		s.Loads[i] = (hundredths*SysinfoLoad + 99) / 100
	}
	field, _ = scan.Field(rest)
	_, total, _ := bytes.Cut(field, []byte("/"))
	var n int
	s.Threads, n = scan.Uint(total)
	return n > 0 && n == len(total)
}

// parseHundredths parses what appendHundredths writes. It returns false for any other
// text, and for numbers too large to be of use.
func parseHundredths(b []byte) (hundredths uint64, ok bool) {
	whole, n := scan.Uint(b)
	if n == 0 || len(b) != n+3 || b[n] != '.' || whole > math.MaxUint64/100-1 {
		return 0, false
	}
	part, digits := scan.Uint(b[n+1:])
	return whole*100 + part, digits == 2
}
