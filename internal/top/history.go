// SPDX-License-Identifier: Apache-2.0

package top

import (
	"strings"

	"vprocfs/internal/report"
)

// maxHistory is how many samples of a container are kept: those that fit into a wide
// terminal.
const maxHistory = 240

// history is the reads per second of each container that is listed, the newest last.
type history map[key][]float32

// add adds the rates of the containers, and forgets those that are gone.
func (h history) add(all []report.Container) {
	listed := make(map[key]bool, len(all))
	for i := range all {
		k := keyOf(&all[i])
		listed[k] = true
		rates := append(h[k], float32(all[i].PerSecond))
		if len(rates) > maxHistory {
			rates = append(rates[:0], rates[1:]...)
		}
		h[k] = rates
	}
	for k := range h {
		if !listed[k] {
			delete(h, k)
		}
	}
}

// Bars of a sparkline by their height, for terminals with and without UTF-8. The first is
// for 0.
var (
	unicodeBars = []rune(" ▁▂▃▄▅▆▇█")
	asciiBars   = []rune(" .:-=+*#@")
)

// sparkline returns the last width rates as bars, and the highest of them.
func sparkline(rates []float32, width int, bars []rune) (line string, highest float32) {
	rates = rates[max(len(rates)-max(width, 0), 0):]
	for _, r := range rates {
		highest = max(highest, r)
	}
	var b strings.Builder
	for _, r := range rates {
		height := 0
		if r > 0 {
			// The least rate is seen too.
			height = 1 + int(r/highest*float32(len(bars)-2)+0.5)
		}
		b.WriteRune(bars[min(height, len(bars)-1)])
	}
	return b.String(), highest
}
