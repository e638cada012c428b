package test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// counters are the numbers of a file that only grow, by a name for each that
// lasts as long as what it counts.
func counters(name, text string) (map[string]float64, error) {
	if name == "uptime" {
		// The idle time goes down when a CPU goes.
		up, _, _ := strings.Cut(text, " ")
		text = "uptime " + up
	}
	c := make(map[string]float64)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if name == "diskstats" {
			if len(f) < 14 {
				return nil, fmt.Errorf("short line %q", line)
			}
			f = slices.Delete(f, 0, 2) // the device's numbers
		}
		if len(f) < 2 {
			return nil, fmt.Errorf("odd line %q", line)
		}
		if strings.HasPrefix(f[0], "procs_") {
			continue // how many run and wait right now
		}
		for i, s := range f[1:] {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			c[f[0]+" "+strconv.Itoa(i+1)] = v
		}
	}
	return c, nil
}

// watched is a file and what has been seen of it.
type watched struct {
	name  string
	held  int // descriptor
	last  map[string]float64
	moved int // how often some counter had grown
	buf   []byte
}

// read reads the file, from the held descriptor or from a new one.
func (w *watched) read(again bool) (string, error) {
	if again {
		b, err := os.ReadFile("/proc/" + w.name)
		return string(b), err
	}
	n, err := unix.Pread(w.held, w.buf, 0)
	return string(w.buf[:max(n, 0)]), err
}

// look reads the file's counters once more. It is an error if one is smaller
// than ever before.
func (w *watched) look(again bool) (text string, err error) {
	if text, err = w.read(again); err != nil {
		return "", err
	}
	now, err := counters(w.name, text)
	if err != nil {
		return "", fmt.Errorf("%w in\n%s", err, text)
	}
	grew := false
	for key, v := range now {
		if v < w.last[key] {
			return "", fmt.Errorf("%s went from %.2f to %.2f", key, w.last[key], v)
		}
		grew = grew || v > w.last[key]
		w.last[key] = v
	}
	if grew {
		w.moved++
	}
	return text, nil
}

// watch reads each file with counters n times, in turns, from a held descriptor
// and now and then from a new one, and sometimes meminfo. Beside the reads it
// uses CPU time, in bursts, and writes to path. It fails if a counter goes
// back, and tells what it has seen: how many reads found that a counter had
// moved, the lists of CPUs and the sizes of the memory.
func watch(n, path string) error {
	reads, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	disk, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_SYNC, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	var files []*watched
	for _, name := range []string{"uptime", "stat", "diskstats", "meminfo"} {
		held, err := unix.Open("/proc/"+name, unix.O_RDONLY, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		files = append(files, &watched{name: name, held: held, last: make(map[string]float64), buf: make([]byte, 1<<18)})
	}
	memory := files[len(files)-1]
	files = files[:len(files)-1]
	fmt.Println("ready")
	// More CPU time at once than one CPU gives, and less than would keep the
	// reader from its work on a small machine.
	for range 2 {
		go func() {
			for {
				for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
					for range 10_000 {
					}
				}
				sleep(100)
			}
		}()
	}
	cpus, sizes := make(map[string]bool), make(map[string]bool)
	for i := range reads {
		again := i%16 >= 14
		for _, w := range files {
			text, err := w.look(again)
			if err != nil {
				return fmt.Errorf("read %d of %s: %w", i, w.name, err)
			}
			if w.name == "stat" {
				cpus[rows(text)] = true
			}
		}
		if i%10 == 0 {
			text, err := memory.read(again)
			if err != nil {
				return fmt.Errorf("read meminfo: %w", err)
			}
			line, _, _ := strings.Cut(text, "\n")
			sizes[strings.Join(strings.Fields(line), " ")] = true
		}
		if i%100 == 0 {
			if _, err := unix.Pwrite(disk, make([]byte, 4096), 0); err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
		}
		if i%1000 == 0 {
			fmt.Printf("progress: %d reads of each file\n", i)
		}
	}
	fmt.Printf("CPUs: %s\nmemory: %s\nmoved: ", joined(cpus), joined(sizes))
	for _, w := range files {
		if w.moved > 0 {
			fmt.Printf("%s %d ", w.name, w.moved)
		}
	}
	fmt.Printf("\ndone: %d\n", reads)
	return nil
}

func joined(set map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(set)), ";") }

// rows lists the CPUs that a stat has rows of.
func rows(stat string) string {
	var names []string
	for line := range strings.Lines(stat) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "cpu") && name != "cpu" {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}
