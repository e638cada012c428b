// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// StackedMajors returns the major numbers of the block devices that hand I/O on to other
// devices, from PROC/devices.
func StackedMajors(proc string) (map[uint32]bool, error) {
	path := filepath.Join(proc, "devices")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	majors := make(map[uint32]bool)
	_, block, _ := strings.Cut(string(text), "Block devices:\n")
	for line := range strings.Lines(block) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		switch f[1] {
		case "loop", "md", "device-mapper", "bcache":
		default:
			continue
		}
		major, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		majors[uint32(major)] = true
	}
	return majors, nil
}
