package procvirt

import (
	"math/bits"
	"strconv"
)

// appendUptime makes /proc/uptime (fs/proc/uptime.c): seconds since the init
// started, and the idle seconds summed over the visible CPUs.
func appendUptime(dst []byte, v *View) []byte {
	dst = appendHundredths(dst, uint64(v.Age)/nanosPerHundredth)
	dst = append(dst, ' ')
	dst = appendHundredths(dst, idleHundredths(v))
	return append(dst, '\n')
}

const nanosPerHundredth = 10_000_000

// idleHundredths is the idle time over all visible CPUs. In nanoseconds it would
// wrap around after 584 years, which is little more than one year of 512 CPUs.
func idleHundredths(v *View) uint64 {
	hi, lo := bits.Mul64(uint64(v.Visible.Count()), uint64(v.Age))
	if hi == 0 && lo < v.Busy {
		return 0
	}
	lo, borrow := bits.Sub64(lo, v.Busy, 0)
	hi -= borrow
	idle, _ := bits.Div64(hi, lo, nanosPerHundredth)
	return idle
}

// appendHundredths writes a number of hundredths with a point, as 12.34.
func appendHundredths(dst []byte, n uint64) []byte {
	dst = strconv.AppendUint(dst, n/100, 10)
	return append(dst, '.', '0'+byte(n/10%10), '0'+byte(n%10))
}
