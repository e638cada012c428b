package procvirt

import (
	"bytes"
	"strconv"

	"vprocfs/procvirt/internal/scan"
)

// swapColumn is the width that the kernel pads a file name to (swap_show,
// mm/swapfile.c).
const swapColumn = 40

// appendSwaps makes /proc/swaps: the host's header, and one line for all the swap
// that the container may use, with the numbers of meminfo's SwapTotal and
// SwapFree. It is nobody's file, so its name is none, as LXCFS has it.
func appendSwaps(dst []byte, v *View) []byte {
	header, _ := scan.Line(v.Host)
	dst = append(dst, header...)
	dst = append(dst, '\n')
	total, free := v.swap(v.HostSwap)
	total, free = total>>10, free>>10
	if total == 0 {
		return dst
	}
	// Linux 5.10 has two tabs behind a number of up to 7 digits, and behind its
	// heading; old kernels have one.
	wide := bytes.Contains(header, []byte("Size\t\tUsed"))
	dst = append(dst, "none"...)
	for range swapColumn - len("none") {
		dst = append(dst, ' ')
	}
	dst = append(dst, "virtual\t"...)
	for _, n := range [...]uint64{total, total - free} {
		dst = append(dst, '\t')
		dst = strconv.AppendUint(dst, n, 10)
		if wide && n < 10_000_000 {
			dst = append(dst, '\t')
		}
	}
	return append(dst, "\t0\n"...)
}
