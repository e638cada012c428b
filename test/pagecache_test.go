package test

import (
	"math/rand/v2"
	"path/filepath"
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
	for range 300 {
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

// whole are the ends of whole files.
func whole() map[string]*regexp.Regexp {
	return map[string]*regexp.Regexp{
		"uptime":  regexp.MustCompile(`^\d+\.\d\d \d+\.\d\d\n$`),
		"meminfo": regexp.MustCompile(`(?s)^MemTotal: .*\nDirectMap\w+: +\d+ kB\n$`),
		"stat":    regexp.MustCompile(`(?s)^cpu .*\nsoftirq [\d ]+\n$`),
	}
}

// TestLanguagesReadWholeFiles is TestReadersGetWholeFiles for the runtimes of
// languages, which each have a way of their own to find out how much to read.
//
// What does not work, and is documented: busybox `tail -c N` seeks to N bytes
// before the end by st_size, which is a bound of 4096 for uptime and meminfo, and
// finds nothing there. It is right for stat, whose st_size is its length.
func TestLanguagesReadWholeFiles(t *testing.T) {
	need(t, "python3", "python3-minimal")
	need(t, "node", "nodejs")
	need(t, "busybox", "busybox-static")
	copied := filepath.Join(t.TempDir(), "copy")
	for name, want := range whole() {
		path := "/proc/" + name
		lines := strings.Count(inContainer(t, smallContainer(), "cat", path), "\n")
		for _, reader := range [][]string{
			{"python3", "-c", "import sys; sys.stdout.write(open(sys.argv[1]).read())", path},
			{"python3", "-c", "import os, sys; sys.stdout.write(os.fdopen(os.open(sys.argv[1], 0), 'rb', 0).read().decode())", path},
			{"python3", "-c", "import shutil, sys; shutil.copyfile(*sys.argv[1:]); print(open(sys.argv[2]).read(), end='')", path, copied},
			{"node", "-e", "process.stdout.write(fs.readFileSync(process.argv[1]))", path},
			{"node", "-e", "fs.readFile(process.argv[1], 'utf8', (err, s) => { if (err) throw err; process.stdout.write(s) })", path},
			toolCommand(t, "readfile", path),
			toolCommand(t, "sizehint", path),
			{"sh", "-c", "busybox cp $0 /dev/stdout | cat", path},
			{"sh", "-c", "busybox cat $0 | cat", path},
		} {
			out := inContainer(t, smallContainer(), reader...)
			if got := strings.Count(out, "\n"); got != lines || !want.MatchString(out) {
				t.Errorf("%q: %d lines, want %d; it ends %q", reader, got, lines, out[max(0, len(out)-60):])
			}
		}
	}
	want := inContainer(t, smallContainer(), "sh", "-c", "grep softirq /proc/stat; busybox tail -c 20 /proc/stat")
	if line, tail, _ := strings.Cut(want, "\n"); len(tail) != 20 || tail[19] != '\n' || len(line) < 20 {
		t.Errorf("busybox tail -c 20 of stat: %q after %q", tail, line)
	}
}
