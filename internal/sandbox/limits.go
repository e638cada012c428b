package sandbox

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// cpuPeriod is the period, in microseconds, that a CPU quota counts in: the
// kernel's default for cpu.max and cpu.cfs_period_us.
const cpuPeriod = 100_000

// maxCPUs bounds CPU numbers and counts: no kernel has more (NR_CPUS_RANGE_END,
// arch/x86/Kconfig, Linux 6.18).
const maxCPUs = 8192

// Limits are what a container may use.
type Limits struct {
	Memory ByteSize
	CPUs   CPUCount
	CPUSet CPUList
}

// ByteSize is a number of bytes, and a flag: "512k", "256M", "1G", or plain
// bytes. The units are powers of 1024. 0 is no limit, and cannot be asked for.
type ByteSize uint64

func (b ByteSize) String() string {
	if b == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(b), 10)
}

func (b *ByteSize) Set(s string) error {
	const units = "KMGT"
	number, shift := s, 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte(units, s[n-1]&^0x20); i >= 0 {
			number, shift = s[:n-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseUint(number, 10, 64)
	if err != nil || v == 0 {
		return fmt.Errorf("must be a number of bytes, or one with K, M, G or T behind it")
	}
	// The kernel keeps limits as a signed number of bytes.
	if bits.Len64(v)+shift > 63 {
		return fmt.Errorf("must be below 8 EiB")
	}
	*b = ByteSize(v << shift)
	return nil
}

func (ByteSize) Type() string { return "size" }

// CPUCount is an amount of CPU time as a flag, in CPUs: "1.5". 0 is no limit,
// and cannot be asked for.
type CPUCount float64

func (c CPUCount) String() string {
	if c == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(c), 'g', -1, 64)
}

func (c *CPUCount) Set(s string) error {
	v, err := strconv.ParseFloat(s, 64)
	// The kernel refuses a quota below 1 ms (min_cfs_quota_period,
	// kernel/sched/core.c), which is 0.01 of the period.
	if err != nil || math.IsNaN(v) || v < 0.01 || v > maxCPUs {
		return fmt.Errorf("must be a number of CPUs from 0.01 to %d", maxCPUs)
	}
	*c = CPUCount(v)
	return nil
}

func (CPUCount) Type() string { return "number" }

// quota is the CPU time in microseconds for each cpuPeriod.
func (c CPUCount) quota() int { return int(math.Round(float64(c) * cpuPeriod)) }

// CPUList is a list of CPUs as a flag, in the form of cpuset(7): "0-1,4".
type CPUList struct {
	text string
	cpus map[int]bool
}

func (l CPUList) String() string { return l.text }

func (l *CPUList) Set(s string) error {
	v, err := parseCPUList(s)
	if err != nil {
		return err
	}
	*l = v
	return nil
}

func (CPUList) Type() string { return "list" }

// parseCPUList reads a list that names at least one CPU.
func parseCPUList(s string) (CPUList, error) {
	l := CPUList{text: s, cpus: make(map[int]bool)}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		lo, err := strconv.ParseUint(first, 10, 16)
		hi := lo
		if err == nil && isRange {
			hi, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || hi < lo || hi >= maxCPUs {
			return CPUList{}, fmt.Errorf("must be a list of CPUs such as 0-1,4")
		}
		for cpu := lo; cpu <= hi; cpu++ {
			l.cpus[int(cpu)] = true
		}
	}
	return l, nil
}

// without returns the CPUs of l that are not in other.
func (l CPUList) without(other CPUList) []int {
	var missing []int
	for cpu := range l.cpus {
		if !other.cpus[cpu] {
			missing = append(missing, cpu)
		}
	}
	return missing
}
