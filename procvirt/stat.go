// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"strconv"
	"time"

	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
	"vprocfs/procvirt/loadavg"
)

func statFile() File {
	return File{
		Path: "proc/stat", Node: 18, Mode: 0o444, Size: SizeContent,
		needs:   sourceCPU,
		numbers: func() numbers { return new(stat) },
	}
}

// stat is what /proc/stat shows.
type stat struct {
	cpuTimes
	host []byte // the host's text
	// load is the container's load as of the last sample, if tracked.
	load    loadavg.State
	tracked bool
	// offset is how far the boot clock is ahead in the container's time namespace.
	offset time.Duration
}

func (n *stat) reset() {
	n.cpuTimes.reset()
	*n = stat{cpuTimes: n.cpuTimes}
}

func (n *stat) gather(c *Container) error {
	if err := n.cpuView.gather(c); err != nil {
		return err
	}
	if err := n.gatherTimes(c); err != nil {
		return err
	}
	var err error
	if c.host, err = c.registry.readHost("proc/stat", c.host); err != nil {
		return err
	}
	n.host = c.host
	if !c.policy.isSecond(wordLoadavg, c.registry.cfg.HostLoad) {
		n.load, n.tracked = c.load.Peek()
	}
	if c.registry.shiftsBtime {
		n.offset = c.space.bootOffset
	}
	return nil
}

// append writes /proc/stat (fs/proc/stat.c): the rows of the CPUs are the
// container's, and if its load is sampled its running and blocked threads; all
// other lines are the host's, btime too: the start times in /proc/PID/stat count
// from the host's boot, and ps and psutil add the two. In a time namespace both are
// shifted (timens_sub_boottime, include/linux/time_namespace.h; host.ShiftsBtime).
func (n *stat) append(dst []byte) []byte {
	dst = append(dst, "cpu "...)
	dst = appendRow(dst, &n.total)
	for i := range n.rows {
		dst = append(dst, "cpu"...)
		dst = strconv.AppendInt(dst, int64(n.rows[i].cpu), 10)
		dst = appendRow(dst, &n.rows[i])
	}
	// The host's rows are the first lines.
	rest := n.host
	for bytes.HasPrefix(rest, []byte("cpu")) {
		_, rest = scan.Line(rest)
	}
	if !n.tracked && n.offset == 0 {
		return append(dst, rest...)
	}
	for line := range scan.Lines(rest) {
		key, value, _ := bytes.Cut(line, []byte(" "))
		switch {
		case string(key) == "btime":
			dst = append(dst, "btime "...)
			dst = n.appendBoot(dst, value)
		case string(key) == "procs_running" && n.tracked:
			dst = append(dst, "procs_running "...)
			dst = strconv.AppendInt(dst, int64(running(&n.load)), 10)
		case string(key) == "procs_blocked" && n.tracked:
			dst = append(dst, "procs_blocked "...)
			dst = strconv.AppendInt(dst, int64(n.load.Blocked), 10)
		default:
			dst = append(dst, line...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

// appendBoot writes when the container's boot clock was 0, in seconds since 1970,
// from when the host's was. The fractions of a second that either may have are not
// known together: an offset that has one is rounded.
func (n *stat) appendBoot(dst, boot []byte) []byte {
	seconds, _ := scan.Uint(boot)
	return strconv.AppendInt(dst, int64(seconds)-int64(n.offset.Round(time.Second)/time.Second), 10)
}

// appendRow writes the ten counters of a row: user nice system idle, and iowait
// irq softirq steal guest guest_nice, which no control group counts.
func appendRow(dst []byte, r *cpuRow) []byte {
	for _, us := range [...]uint64{r.user, r.nice, r.system, r.idle} {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, us/(host.NanosPerTick/1000), 10)
	}
	return append(dst, " 0 0 0 0 0 0\n"...)
}
