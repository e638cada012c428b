// SPDX-License-Identifier: Apache-2.0

package test

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestNoByteOfAContainerReachesAnother has two containers read one file of one
// mount in turns and in every way there is. What a way that goes through the page
// cache leaves there, the other container would be given.
//
// Where the kernel fills the page cache (sendfile and the like after 6.1, mmap
// always), the daemon refuses, and programs fall back to read(2). Older kernels
// read directly. So each way gives the container's own content or an error, and
// read(2) always gives the content.
func TestNoByteOfAContainerReachesAnother(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir, _ := serve(t)
	var containers []*container
	sizes := []string{"100", "200"}
	for _, mib := range sizes {
		containers = append(containers, startCommand(t, []string{"--mount", dir, "--memory", mib + "M"}, toolCommand(t, "through", "/proc/meminfo")...))
	}
	own := []*regexp.Regexp{
		regexp.MustCompile(`^MemTotal: +102400 kB\nMemFree: [^.]*\n$`),
		regexp.MustCompile(`^MemTotal: +204800 kB\nMemFree: [^.]*\n$`),
	}
	ways := []string{"read", "sendfile", "splice", "copy_file_range", "mmap"}
	given, refused := make(map[string]int), make(map[string]int)
	for range 200 {
		who, way := random.IntN(2), ways[random.IntN(len(ways))]
		got := containers[who].answer(t, way, ".")
		if strings.HasPrefix(got, "error: ") && strings.Count(got, "\n") == 1 && way != "read" {
			refused[way]++ // and nothing was given
			continue
		}
		given[way]++
		if !own[who].MatchString(got) || strings.Count(got, "MemTotal") != 1 {
			t.Fatalf("%s gave the container of %s MiB:\n%s", way, sizes[who], got)
		}
	}
	t.Logf("given: %v; refused: %v", given, refused)
}
