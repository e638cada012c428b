// SPDX-License-Identifier: Apache-2.0

package procvirt

import "strconv"

const uptimeNode = 16

func uptimeFile() File {
	return File{
		Path: "proc/uptime", Node: uptimeNode, Mode: 0o444, Size: SizePage,
		needs:   sourceCPU,
		numbers: func() numbers { return new(uptime) },
	}
}

// uptime is what /proc/uptime shows.
type uptime struct {
	cpuTimes
	// idle is the idle time of stat's cpu line at the same moment, in microseconds.
	idle uint64
	// up is the time since the init started, or the boot clock of the container's
	// time namespace if that is not the daemon's, in nanoseconds.
	up int64
}

func (n *uptime) reset() {
	n.cpuTimes.reset()
	*n = uptime{cpuTimes: n.cpuTimes}
}

func (n *uptime) gather(c *Container) error {
	if err := n.cpuView.gather(c); err != nil {
		return err
	}
	n.up = n.age
	if offset := int64(c.space.bootOffset); offset != 0 {
		n.up = max(n.age+c.space.started+offset, 0)
	}
	used, buf, err := c.cpu.Usage(c.account.counted(), c.buf)
	c.buf = buf
	if err != nil {
		return err
	}
	var ok bool
	if n.idle, ok = c.account.idle(n.age, used, &n.visible); ok {
		return nil
	}
	err = n.gatherTimes(c)
	n.idle = n.total.idle
	return err
}

// append writes /proc/uptime (fs/proc/uptime.c): seconds since the init started, and the
// idle seconds of stat's cpu line. In a time namespace the first number is the kernel's.
func (n *uptime) append(dst []byte) []byte {
	dst = appendHundredths(dst, uint64(n.up)/nanosPerHundredth)
	dst = append(dst, ' ')
	dst = appendHundredths(dst, n.idle/microsPerHundredth)
	return append(dst, '\n')
}

const (
	nanosPerHundredth  = 10_000_000
	microsPerHundredth = nanosPerHundredth / 1000
)

// appendHundredths writes a number of hundredths with a point, as 12.34.
func appendHundredths(dst []byte, n uint64) []byte {
	dst = strconv.AppendUint(dst, n/100, 10)
	return append(dst, '.', '0'+byte(n/10%10), '0'+byte(n%10))
}
