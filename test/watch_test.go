// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// countingFiles are the files served that have counters.
func countingFiles() []string {
	return append([]string{"uptime", "stat", "diskstats"}, pressureFiles()...)
}

// watched is a file and what has been seen of it.
type watched struct {
	name  string
	held  int // descriptor
	last  map[string][]uint64
	moved int // how often some counter had grown
	buf   []byte
}

// counters calls each with the numbers of each line that only grow, and with a
// name for what they count. It keeps nothing: in a guest this is most of the work.
func (w *watched) counters(text []byte, each func(name string, numbers []byte) error) error {
	if w.name == "uptime" {
		// The idle time goes down when a CPU goes.
		up, _, _ := bytes.Cut(text, []byte(" "))
		return each("uptime", up)
	}
	for line := range bytes.Lines(text) {
		if w.name == "diskstats" {
			// First are the device's numbers, in columns.
			for range 2 {
				_, line, _ = bytes.Cut(bytes.TrimLeft(line, " "), []byte(" "))
			}
		}
		name, numbers, ok := bytes.Cut(line, []byte(" "))
		if strings.HasPrefix(w.name, "pressure/") {
			_, numbers, ok = bytes.Cut(numbers, []byte("total="))
		}
		if !ok || len(name) == 0 {
			return fmt.Errorf("odd line %q", line)
		}
		if bytes.HasPrefix(name, []byte("procs_")) {
			continue // how many run and wait right now
		}
		if err := each(string(name), numbers); err != nil {
			return err
		}
	}
	return nil
}

// compare compares a line's counters with the ones before; numbers may have a
// point, with the same number of digits behind it every time.
func (w *watched) compare(name string, numbers []byte) (grew bool, err error) {
	last, i := w.last[name], 0
	for len(numbers) > 0 {
		n, digits := uint64(0), 0
		for ; len(numbers) > 0 && numbers[0] != ' ' && numbers[0] != '\n'; numbers = numbers[1:] {
			switch c := numbers[0]; {
			case '0' <= c && c <= '9':
				n = n*10 + uint64(c-'0')
				digits++
			case c != '.' || digits == 0:
				return false, fmt.Errorf("%s: odd number in field %d", name, i+1)
			}
		}
		if numbers = bytes.TrimLeft(numbers, " \n"); digits == 0 {
			continue
		}
		if i == len(last) {
			last = append(last, 0)
		}
		if n < last[i] {
			return false, fmt.Errorf("field %d of %s went from %d to %d", i+1, name, last[i], n)
		}
		grew = grew || n > last[i]
		last[i] = n
		i++
	}
	if i == 0 {
		return false, fmt.Errorf("%s has no numbers", name)
	}
	w.last[name] = last
	return grew, nil
}

// read reads the file, from the held descriptor or from a new one.
func (w *watched) read(again bool) ([]byte, error) {
	if again {
		return os.ReadFile("/proc/" + w.name)
	}
	n, err := unix.Pread(w.held, w.buf, 0)
	return w.buf[:max(n, 0)], err
}

// look reads the file's counters once more. It is an error if one is smaller
// than ever before.
func (w *watched) look(again bool) (text []byte, err error) {
	if text, err = w.read(again); err != nil {
		return nil, err
	}
	moved := false
	err = w.counters(text, func(name string, numbers []byte) error {
		grew, err := w.compare(name, numbers)
		moved = moved || grew
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w in\n%s", err, text)
	}
	if moved {
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
	for _, name := range append(countingFiles(), "meminfo") {
		held, err := unix.Open("/proc/"+name, unix.O_RDONLY, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		files = append(files, &watched{name: name, held: held, last: make(map[string][]uint64), buf: make([]byte, 1<<18)})
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
					for range 100_000 {
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
			line, _, _ := strings.Cut(string(text), "\n")
			sizes[strings.Join(strings.Fields(line), " ")] = true
		}
		if i%100 == 0 {
			if _, err := unix.Pwrite(disk, make([]byte, 4096), 0); err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
		}
		if i%500 == 0 {
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
func rows(stat []byte) string {
	var names []string
	for line := range strings.Lines(string(stat[:max(0, bytes.Index(stat, []byte("\nintr")))])) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "cpu") && name != "cpu" {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}
