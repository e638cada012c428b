// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"vprocfs/procvirt/cgroup"
)

// cpuPeriod is the period of a CPU quota, in microseconds. It is the kernel's default
// for cpu.max and cpu.cfs_period_us.
const cpuPeriod = 100_000

// Limits are the limits of a container.
type Limits struct {
	Memory ByteSize
	CPUs   CPUCount
	CPUSet CPUList
}

// ByteSize is a number of bytes. As a flag it is "512k", "256M", "1G" or plain bytes;
// the units are powers of 1024. 0 means no limit; Set does not accept it.
type ByteSize uint64

func (b ByteSize) String() string {
	if b == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(b), 10)
}

// Set implements pflag.Value.
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
		return errors.New("must be a number of bytes, or one with K, M, G or T behind it")
	}
	// The kernel stores limits as signed numbers of bytes.
	if bits.Len64(v)+shift > 63 {
		return errors.New("must be below 8 EiB")
	}
	*b = ByteSize(v << shift)
	return nil
}

// Type implements pflag.Value.
func (ByteSize) Type() string { return "size" }

// CPUCount is a limit of CPU time, in CPUs: "1.5" as a flag. 0 means no limit; Set does
// not accept it.
type CPUCount float64

func (c CPUCount) String() string {
	if c == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(c), 'g', -1, 64)
}

// Set implements pflag.Value.
func (c *CPUCount) Set(s string) error {
	v, err := strconv.ParseFloat(s, 64)
	// The kernel refuses a quota below 1 ms (min_cfs_quota_period,
	// kernel/sched/core.c), which is 0.01 of the period.
	if err != nil || math.IsNaN(v) || v < 0.01 || v > cgroup.MaxCPUs {
		return fmt.Errorf("must be a number of CPUs from 0.01 to %d", cgroup.MaxCPUs)
	}
	*c = CPUCount(v)
	return nil
}

// Type implements pflag.Value.
func (CPUCount) Type() string { return "number" }

// quota returns the CPU time in microseconds in each cpuPeriod.
func (c CPUCount) quota() int { return int(math.Round(float64(c) * cpuPeriod)) }

// CPUList is a set of CPUs. As a flag it has the list format of cpuset(7): "0-1,4".
// An empty list means no limit; Set does not accept it.
type CPUList struct {
	text string
	cpus cgroup.CPUs
}

func (l *CPUList) String() string { return l.text }

// Set implements pflag.Value.
func (l *CPUList) Set(s string) error {
	var cpus cgroup.CPUs
	if err := cpus.Parse([]byte(s)); err != nil || cpus.Count() == 0 {
		return errors.New("must be a list of CPUs such as 0-1,4")
	}
	*l = CPUList{s, cpus}
	return nil
}

// Type implements pflag.Value.
func (*CPUList) Type() string { return "list" }
