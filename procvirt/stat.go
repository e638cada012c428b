package procvirt

import (
	"bytes"
	"strconv"

	"vprocfs/procvirt/host"
	"vprocfs/procvirt/internal/scan"
)

// appendStat makes /proc/stat (fs/proc/stat.c): the rows of the CPUs are the
// container's, and where its load is followed its running and blocked threads; all
// other lines are the host's. btime stays the host's too: the start
// times in /proc/PID/stat count from the host's boot, and ps and psutil add the
// two.
func appendStat(dst []byte, v *View) []byte {
	dst = append(dst, "cpu "...)
	dst = appendRow(dst, &v.Total)
	for i := range v.Rows {
		dst = append(dst, "cpu"...)
		dst = strconv.AppendInt(dst, int64(v.Rows[i].CPU), 10)
		dst = appendRow(dst, &v.Rows[i])
	}
	// the host's rows are the first lines
	rest := v.Host
	for bytes.HasPrefix(rest, []byte("cpu")) {
		_, rest = scan.Line(rest)
	}
	if !v.Tracked {
		return append(dst, rest...)
	}
	for len(rest) > 0 {
		line, after := scan.Line(rest)
		switch {
		case bytes.HasPrefix(line, []byte("procs_running ")):
			dst = append(dst, "procs_running "...)
			dst = strconv.AppendInt(dst, int64(running(v)), 10)
		case bytes.HasPrefix(line, []byte("procs_blocked ")):
			dst = append(dst, "procs_blocked "...)
			dst = strconv.AppendInt(dst, int64(v.Load.Blocked), 10)
		default:
			dst = append(dst, line...)
		}
		dst = append(dst, '\n')
		rest = after
	}
	return dst
}

// appendRow writes the ten counters of a row: user nice system idle, and iowait
// irq softirq steal guest guest_nice, which no control group counts.
func appendRow(dst []byte, r *CPURow) []byte {
	for _, ns := range [...]uint64{r.User, r.Nice, r.System, r.Idle} {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, ns/host.NanosPerTick, 10)
	}
	return append(dst, " 0 0 0 0 0 0\n"...)
}
