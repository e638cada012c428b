// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kprobePMU is the directory of the PMU that makes kprobes (Linux 4.17).
const kprobePMU = "/sys/bus/event_source/devices/kprobe/"

// pivotSymbols are the names of the function of pivot_root(2) in the kernel, the
// best first. Not a tracepoint of the group syscalls: one of these that is enabled
// slows every system call of the host by a quarter.
func pivotSymbols(arch string) []string {
	symbols := []string{"path_pivot_root", "sys_pivot_root"}
	prefix := map[string]string{"amd64": "__x64_", "arm64": "__arm64_", "riscv64": "__riscv_", "s390x": "__s390x_"}[arch]
	if prefix != "" {
		symbols = append([]string{prefix + "sys_pivot_root"}, symbols...)
	}
	return symbols
}

// kretprobe returns the event that pivot_root(2) has returned.
func kretprobe() (*perfEvent, error) {
	typ, err := readNumber(kprobePMU + "type")
	if err != nil {
		return nil, err
	}
	bit, err := retprobeBit(kprobePMU + "format/retprobe")
	if err != nil {
		return nil, err
	}
	var failed error
	for _, symbol := range pivotSymbols(runtime.GOARCH) {
		name, err := unix.BytePtrFromString(symbol)
		if err != nil {
			return nil, err
		}
		e := &perfEvent{name: "kretprobe of " + symbol, follow: true, symbol: name}
		e.attr.Type = uint32(typ)
		e.attr.Config = 1 << bit
		e.attr.Ext1 = uint64(uintptr(unsafe.Pointer(name))) // kprobe_func
		r, err := openRing(e, 0)
		if err == nil {
			r.close()
			return e, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// retprobeBit returns the bit of perf_event_attr.config that makes a kprobe a
// kretprobe. The file says "config:0".
func retprobeBit(path string) (uint, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	bit, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(string(text)), "config:"), 10, 6)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return uint(bit), nil
}

// readNumber reads a file that holds a decimal number.
func readNumber(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
