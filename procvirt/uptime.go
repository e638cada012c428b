package procvirt

import (
	"math/bits"
	"strconv"
)

func uptimeFile() File {
	return File{
		Path: "proc/uptime", Node: 16, Mode: 0o444, Size: SizePage,
		needs:   sourceCPU,
		numbers: func() numbers { return new(uptime) },
	}
}

// uptime is what /proc/uptime shows.
type uptime struct {
	cpuView
	// busy is the CPU time that the container has used since its init started, in
	// nanoseconds.
	busy uint64
}

func (n *uptime) reset() {
	n.cpuView.reset()
	*n = uptime{cpuView: n.cpuView}
}

func (n *uptime) gather(c *container, x *scratch) error {
	if err := n.cpuView.gather(c, x); err != nil {
		return err
	}
	used, buf, err := c.cpu.Usage(x.buf)
	x.buf = buf
	if err != nil {
		return err
	}
	n.busy = c.account.busy(n.age, used, n.visible.Count())
	return nil
}

// append writes /proc/uptime (fs/proc/uptime.c): seconds since the init started,
// and the idle seconds summed over the visible CPUs.
func (n *uptime) append(dst []byte) []byte {
	dst = appendHundredths(dst, uint64(n.age)/nanosPerHundredth)
	dst = append(dst, ' ')
	dst = appendHundredths(dst, n.idleHundredths())
	return append(dst, '\n')
}

const nanosPerHundredth = 10_000_000

// idleHundredths is the idle time over all visible CPUs. In nanoseconds it would
// wrap around after 584 years, which is little more than one year of 512 CPUs.
func (n *uptime) idleHundredths() uint64 {
	hi, lo := bits.Mul64(uint64(n.visible.Count()), uint64(n.age))
	if hi == 0 && lo < n.busy {
		return 0
	}
	lo, borrow := bits.Sub64(lo, n.busy, 0)
	hi -= borrow
	idle, _ := bits.Div64(hi, lo, nanosPerHundredth)
	return idle
}

// appendHundredths writes a number of hundredths with a point, as 12.34.
func appendHundredths(dst []byte, n uint64) []byte {
	dst = strconv.AppendUint(dst, n/100, 10)
	return append(dst, '.', '0'+byte(n/10%10), '0'+byte(n%10))
}
