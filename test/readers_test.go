// SPDX-License-Identifier: Apache-2.0

package test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pressureFiles are the names of the files in /proc/pressure, none where the
// kernel has no PSI or it is switched off.
func pressureFiles() (names []string) {
	for _, name := range []string{"cpu", "memory", "io", "irq"} {
		if _, err := os.ReadFile("/proc/pressure/" + name); err == nil {
			names = append(names, "pressure/"+name)
		}
	}
	return names
}

// wholeFiles are the files served with the end of their whole content.
func wholeFiles() map[string]*regexp.Regexp {
	whole := map[string]*regexp.Regexp{
		"uptime":    regexp.MustCompile(`^\d+\.\d\d \d+\.\d\d\n$`),
		"meminfo":   regexp.MustCompile(`(?s)^MemTotal: .*\nDirectMap\w+: +\d+ kB\n$`),
		"stat":      regexp.MustCompile(`(?s)^cpu .*\nsoftirq [\d ]+\n$`),
		"cpuinfo":   regexp.MustCompile(`(?s)^processor.*\n\n$`),
		"swaps":     regexp.MustCompile(`^Filename.*Priority\n(none +virtual\t[\t\d]+\t0\n)?$`),
		"diskstats": regexp.MustCompile(`^( +\d+ +\d+ \w+( \d+){11,17}\n)+$`),
		"loadavg":   regexp.MustCompile(`^(\d+\.\d\d ){3}\d+/\d+ \d+\n$`),
		"slabinfo":  regexp.MustCompile(`<sharedavail>\n$`),
		"vmstat":    regexp.MustCompile(`^(\w+ \d+\n)+$`),
		"cgroups":   regexp.MustCompile(`^#subsys_name.*\n(\w+\t\d+\t1\t1\n)+$`),
	}
	for _, name := range pressureFiles() {
		whole[name] = regexp.MustCompile(`^(some avg10=.* total=\d+\n)?(full avg10=.* total=\d+\n)?$`)
	}
	return whole
}

// readContainer is a container that has something in each file: it has written to
// a disk.
func readContainer(t *testing.T) (c *container, dir string) {
	t.Helper()
	c = startContainer(t, smallContainer()...)
	throttleDisks(t, c)
	dir = diskDir(t)
	alone(t, c, "dd if=/dev/zero of="+dir+"/file bs=64k count=1 oflag=direct 2>&1; sync -f "+dir)
	waitFor(t, "the disk to have written", func() bool {
		return wholeFiles()["diskstats"].MatchString(alone(t, c, "cat /proc/diskstats"))
	})
	return c, dir
}

// unended is alone for a command whose output may lack its end, and so a newline.
func unended(t *testing.T, c *container, command string) string {
	t.Helper()
	return strings.TrimSuffix(alone(t, c, command+"; echo"), "\n")
}

// TestReadersGetWholeFiles reads as programs do that trust the size of a file,
// or copy it within the kernel. Lines are counted, because the numbers in them
// move.
func TestReadersGetWholeFiles(t *testing.T) {
	need(t, "busybox", "busybox-static")
	c, dir := readContainer(t)
	for name, whole := range wholeFiles() {
		path := "/proc/" + name
		run := func(command string) string { return unended(t, c, strings.ReplaceAll(command, "%", path)) }
		lines := strings.Count(run("cat %"), "\n")
		for _, reader := range []string{
			"cat %", "head -n 10000 %", "tail -n 10000 %", "tail -c +1 %", "dd if=% bs=13 status=none",
			"cp % /dev/stdout", "cat < %", "cp % " + dir + "/copy; cat " + dir + "/copy",
			"busybox cat %", "busybox head -n 10000 %", "busybox tail -n 10000 %", "busybox dd if=% bs=13 status=none",
			"busybox cp % " + dir + "/copy2; cat " + dir + "/copy2",
			// A pipe makes some of them splice(2).
			"cat % | cat", "busybox cat % | busybox cat", "busybox cp % /dev/stdout | cat",
		} {
			out := run(reader)
			if got := strings.Count(out, "\n"); got != lines || !whole.MatchString(out) {
				t.Errorf("%s of %s: %d lines, want %d; it ends %q", reader, path, got, lines, out[max(0, len(out)-60):])
			}
		}
		for _, counter := range []string{"wc -l %", "busybox wc -l %", "grep -c '' %", "awk 'END { print NR }' %"} {
			if got, _, _ := strings.Cut(strings.TrimSpace(run(counter)), " "); got != strconv.Itoa(lines) {
				t.Errorf("%s of %s: %q, want %d", counter, path, got, lines)
			}
		}
		// Bytes, too, of files whose content cannot move much meanwhile.
		if v := floats(t, strings.ReplaceAll(run("cat % | wc -c; wc -c < %; busybox wc -c < %"), "\n", " ")); len(v) != 3 ||
			max(v[0], v[1], v[2])-min(v[0], v[1], v[2]) > 8 {
			t.Errorf("%s: cat has, and wc -c counts, %v bytes", path, v)
		}
	}
}

// TestLanguagesReadWholeFiles is TestReadersGetWholeFiles for the runtimes of
// languages, which each have a way of their own to find out how much to read.
// Each reads all files some times and puts a NUL behind each.
func TestLanguagesReadWholeFiles(t *testing.T) {
	need(t, "python3", "python3-minimal")
	need(t, "node", "nodejs")
	c, dir := readContainer(t)
	var names, paths []string
	lines := make(map[string]int)
	for name := range wholeFiles() {
		lines[name] = strings.Count(alone(t, c, "cat /proc/"+name), "\n")
		for range 3 {
			names, paths = append(names, name), append(paths, "/proc/"+name)
		}
	}
	python := func(read string) []string {
		return []string{"python3", "-c", "import os, shutil, sys\nfor f in sys.argv[1:]: sys.stdout.write(" + read + " + '\\0')"}
	}
	node := func(program string) []string { return []string{"node", "-e", program} }
	for _, reader := range [][]string{
		python("open(f).read()"),
		python("os.fdopen(os.open(f, 0), 'rb', 0).read().decode()"),
		python("open(shutil.copyfile(f, '" + filepath.Join(dir, "copied") + "')).read()"),
		node(`for (const f of process.argv.slice(1)) fs.writeSync(1, fs.readFileSync(f) + "\0")`),
		// Its parts run in any threads of a pool.
		node(`const next = ([f, ...rest]) => f && fs.readFile(f, 'utf8', (err, s) => {
			if (err) throw err; fs.writeSync(1, s + "\0"); next(rest) }); next(process.argv.slice(1))`),
		node(`(async () => { for (const f of process.argv.slice(1)) fs.writeSync(1, await fs.promises.readFile(f) + "\0") })()`),
		toolCommand(t, "readfile"),
		toolCommand(t, "sizehint"),
	} {
		got := strings.Split(unended(t, c, quoted(slices.Concat(reader, paths))), "\x00")
		if len(got) != len(names)+1 {
			t.Errorf("%q: %d files, want %d", reader, len(got)-1, len(names))
			continue
		}
		for i, name := range names {
			if n := strings.Count(got[i], "\n"); n != lines[name] || !wholeFiles()[name].MatchString(got[i]) {
				t.Errorf("%q of %s: %d lines, want %d; it ends %q", reader, name, n, lines[name], got[i][max(0, len(got[i])-60):])
			}
		}
	}
}

// quoted makes a shell command of a command line.
func quoted(command []string) string {
	var b strings.Builder
	for _, s := range command {
		b.WriteString("'" + strings.ReplaceAll(s, "'", `'\''`) + "' ")
	}
	return b.String()
}
