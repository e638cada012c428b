package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// files returns the names that vprocfs serves below proc, in the order of the
// table.
func (b *bench) served() []string {
	var names []string
	v := b.find(vprocfs)
	for _, name := range []string{"uptime", "loadavg", "meminfo", "stat", "cpuinfo", "swaps", "diskstats", "slabinfo"} {
		// A peek with O_PATH: the mount's own process is another.
		if _, err := os.Lstat(v.path(name)); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// median returns the middle one of v, which it sorts.
func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// files measures each file for one reader, all on one CPU: there a round trip is
// work, and not the waking of idle CPUs.
func (b *bench) files() error {
	c, err := b.container("files", 1)
	if err != nil {
		return err
	}
	defer c.stop()
	if _, err := c.ask("pin", 0); err != nil {
		return err
	}
	peers := b.main()
	for _, p := range peers {
		if err := p.pin(false); err != nil {
			return err
		}
	}
	for _, op := range []string{"cycle", "pread"} {
		title := "open, read, read (end), close"
		if op == "pread" {
			title = "pread at 0 of an open file"
		}
		b.section("One reader, one CPU: "+title, "Microseconds; median and 99th percentile, each the median of the rounds'. The last two columns are what vprocfs's daemon and LXCFS's use of the CPU for one.")
		t := newTable("file", "kernel", "floor", "vprocfs", "LXCFS", "vprocfs/floor", "LXCFS/vprocfs", "beyond floor, in kernel's", "CPU vprocfs", "CPU LXCFS")
		for _, file := range b.served() {
			if err := b.measureFile(t, c, op, file, peers); err != nil {
				return fmt.Errorf("%s %s: %w", op, file, err)
			}
		}
		b.report.WriteString(t.String())
	}
	for _, p := range peers {
		if err := p.pin(true); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) measureFile(t *table, c *container, op, file string, peers []*peer) error {
	mid, tail, cpu := map[string][]float64{}, map[string][]float64{}, map[string]float64{}
	for round := range b.rounds + 1 {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			before := p.cpu()
			v, err := c.ask(op, b.each, p.path(file))
			if err != nil {
				return err
			}
			if round == 0 {
				continue // the first is to warm up
			}
			mid[p.name] = append(mid[p.name], float64(v[0])/1e3)
			tail[p.name] = append(tail[p.name], float64(v[1])/1e3)
			cpu[p.name] += float64(p.cpu()-before) / 1e3 / float64(b.rounds*b.each)
		}
	}
	m := map[string]float64{}
	cell := func(name string) string {
		if len(mid[name]) == 0 {
			return "-"
		}
		m[name] = median(mid[name])
		return fmt.Sprintf("%.1f / %.1f", m[name], median(tail[name]))
	}
	row := []string{file, cell(native), cell(floor), cell(vprocfs), cell(lxcfs)}
	row = append(row, fmt.Sprintf("%.2f", m[vprocfs]/m[floor]), "-", fmt.Sprintf("%.2f", (m[vprocfs]-m[floor])/m[native]), fmt.Sprintf("%.1f", cpu[vprocfs]), "-")
	if m[lxcfs] > 0 {
		row[6] = fmt.Sprintf("%.1f", m[lxcfs]/m[vprocfs])
		row[9] = fmt.Sprintf("%.1f", cpu[lxcfs])
	}
	t.row(row...)
	return nil
}

// threads measures many readers on all CPUs.
func (b *bench) threads() error {
	c, err := b.container("threads", 1)
	if err != nil {
		return err
	}
	defer c.stop()
	mix := b.served()
	// What a monitoring agent reads each time it looks.
	mix = slices.DeleteFunc(mix, func(f string) bool { return f == "slabinfo" || f == "swaps" })
	b.section("Many readers, all CPUs", fmt.Sprintf("Thousands of operations a second, and the 99th percentile in microseconds; medians of the rounds. The mix is %s in turn. CPU is the daemon's for one operation, in microseconds.", strings.Join(mix, ", ")))
	t := newTable("what", "threads", "kernel", "floor", "vprocfs", "LXCFS", "vprocfs/LXCFS", "CPU vprocfs", "CPU LXCFS", "CPU vprocfs/LXCFS")
	for _, w := range []struct {
		name, op string
		files    []string
	}{
		{"uptime", "cycle", []string{"uptime"}},
		{"meminfo", "cycle", []string{"meminfo"}},
		{"stat", "cycle", []string{"stat"}},
		{"mix", "cycle", mix},
		{"mix, pread", "pread", mix},
	} {
		for _, threads := range []int{1, 4, 16} {
			if err := b.measureLoad(t, c, w.name, w.op, w.files, threads); err != nil {
				return fmt.Errorf("%s with %d threads: %w", w.name, threads, err)
			}
		}
	}
	b.report.WriteString(t.String())
	return nil
}

func (b *bench) measureLoad(t *table, c *container, name, op string, files []string, threads int) error {
	const millis = 100
	rate, tail, cpu := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	peers := b.main()
	for round := range b.rounds {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			command := []any{"load", op, threads, millis}
			for _, f := range files {
				command = append(command, p.path(f))
			}
			before := p.cpu()
			v, err := c.ask(command...)
			if err != nil {
				return err
			}
			rate[p.name] = append(rate[p.name], float64(v[0])/1e3)
			tail[p.name] = append(tail[p.name], float64(v[2])/1e3)
			cpu[p.name] = append(cpu[p.name], float64(p.cpu()-before)/1e3/(float64(v[0])*millis/1e3))
		}
	}
	cell := func(name string) string {
		if len(rate[name]) == 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f / %.0f", median(rate[name]), median(tail[name]))
	}
	row := []string{name, strconv.Itoa(threads), cell(native), cell(floor), cell(vprocfs), cell(lxcfs), "-", fmt.Sprintf("%.1f", median(cpu[vprocfs])), "-", "-"}
	if len(rate[lxcfs]) > 0 {
		row[6] = fmt.Sprintf("%.2f", median(rate[vprocfs])/median(rate[lxcfs]))
		row[8] = fmt.Sprintf("%.1f", median(cpu[lxcfs]))
		row[9] = fmt.Sprintf("%.2f", median(cpu[vprocfs])/median(cpu[lxcfs]))
	}
	t.row(row...)
	return nil
}

// calls counts the system calls of the daemons for one cycle of each file, and
// tells their memory.
func (b *bench) calls() error {
	c, err := b.container("calls", 1)
	if err != nil {
		return err
	}
	defer c.stop()
	b.section("System calls of the daemon", "For one open, read, read (end), close, reads and writes of /dev/fuse included; by strace, without those of Go's scheduler and without futex(2).")
	t := newTable("file", "floor", "vprocfs", "LXCFS")
	for _, file := range b.served() {
		row := []string{file}
		for _, name := range []string{floor, vprocfs, lxcfs} {
			p := b.find(name)
			if p == nil {
				row = append(row, "-")
				continue
			}
			n, err := b.countCalls(c, p, file)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", file, p.name, err)
			}
			row = append(row, fmt.Sprintf("%.1f", n))
		}
		t.row(row...)
	}
	b.report.WriteString(t.String())
	b.section("Memory and descriptors", "After the measurements above.")
	t = newTable("daemon", "processes", "RSS KiB", "of that anonymous", "threads", "descriptors")
	for _, name := range []string{floor, vprocfs, lxcfs} {
		if p := b.find(name); p != nil {
			t.row(p.name, strconv.Itoa(len(p.tree())), strconv.Itoa(p.status("VmRSS")), strconv.Itoa(p.status("RssAnon")), strconv.Itoa(p.status("Threads")), strconv.Itoa(p.descriptors()))
		}
	}
	b.report.WriteString(t.String())
	return nil
}

// countCalls returns the least of some rounds: what disturbs only adds.
func (b *bench) countCalls(c *container, p *peer, file string) (float64, error) {
	const rounds, each = 5, 20
	if _, err := c.ask("cycle", 20, p.path(file)); err != nil {
		return 0, err
	}
	best := 0.0
	for range rounds {
		n, err := straced(b.dir, p.tree(), func() error {
			_, err := c.ask("cycle", each, p.path(file))
			return err
		})
		if err != nil {
			return 0, err
		}
		if each := float64(n) / each; best == 0 || each < best {
			best = each
		}
	}
	return best, nil
}

// straced counts the system calls of processes while work runs.
func straced(dir string, pids []int, work func() error) (int, error) {
	out := filepath.Join(dir, "strace")
	args := []string{"-f", "-c", "-U", "calls,name", "-o", out}
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	cmd := exec.Command("strace", args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for range pids {
		// "strace: Process N attached", one for each.
		if _, err := stderr.Read(buf); err != nil {
			return 0, fmt.Errorf("strace: %w", err)
		}
	}
	go func() {
		for {
			if _, err := stderr.Read(buf); err != nil {
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond)
	workErr := work()
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		return 0, err
	}
	_ = cmd.Wait() // says that it was interrupted
	if workErr != nil {
		return 0, workErr
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		switch f[1] {
		case "total", "futex", "nanosleep", "epoll_pwait", "sched_yield", "tgkill", "getpid", "rt_sigreturn", "restart_syscall":
			continue
		}
		if k, err := strconv.Atoi(f[0]); err == nil {
			n += k
		}
	}
	return n, nil
}

// newcomers measures the first read of a pid namespace that the daemon does not
// know: the init has to be found, and the container's groups.
func (b *bench) newcomers() error {
	b.section("First read of a new pid namespace", "Microseconds that it takes more than a warm read of the same file (uptime) by the same container: to find the init, and the container's control groups. Median and 99th percentile over the namespaces. The last column is a warm read with all of them known.")
	t := newTable("daemon", "namespaces", "first read", "x ioctl", "warm read")
	for _, n := range slices.Compact([]int{1, min(100, b.spaces), b.spaces}) {
		if err := b.measureNewcomers(t, n); err != nil {
			return fmt.Errorf("%d namespaces: %w", n, err)
		}
	}
	b.report.WriteString(t.String())
	return nil
}

func (b *bench) measureNewcomers(t *table, n int) error {
	repeat := 1
	if n == 1 {
		repeat = 21 // one at a time, the others gone
	}
	first, warm := map[string][]float64{}, map[string][]float64{}
	peers := []*peer{b.find(vprocfs), b.find(forking)}
	if p := b.find(lxcfs); p != nil {
		peers = append(peers, p)
	}
	for r := range repeat {
		cs := make([]*container, 0, n)
		stop := func() {
			for _, c := range cs {
				c.stop()
			}
		}
		for i := range n {
			c, err := b.container(fmt.Sprintf("new-%d-%d-%d", n, r, i), 1)
			if err != nil {
				stop()
				return err
			}
			cs = append(cs, c)
		}
		for i, c := range cs {
			if err := firstReads(c, peers, i+r, first, warm); err != nil {
				stop()
				return err
			}
		}
		stop()
	}
	base := median(first[vprocfs])
	for _, p := range peers {
		v := first[p.name]
		m := median(v) // sorts
		t.row(p.name, strconv.Itoa(n), fmt.Sprintf("%.0f / %.0f", m, v[min(len(v)-1, len(v)*99/100)]), fmt.Sprintf("%.1f", m/base), fmt.Sprintf("%.1f", median(warm[p.name])))
	}
	return nil
}

func firstReads(c *container, peers []*peer, turn int, first, warm map[string][]float64) error {
	if _, err := c.ask("cycle", 50, "/proc/uptime"); err != nil { // the agent itself is cold too
		return err
	}
	for i := range peers {
		p := peers[(i+turn)%len(peers)]
		cold, err := c.ask("cycle", 1, p.path("uptime"))
		if err != nil {
			return err
		}
		again, err := c.ask("cycle", 21, p.path("uptime"))
		if err != nil {
			return err
		}
		first[p.name] = append(first[p.name], float64(cold[0]-again[0])/1e3)
		warm[p.name] = append(warm[p.name], float64(again[0])/1e3)
	}
	return nil
}

// storms starts many containers at once, each of which reads all files once.
func (b *bench) storms() error {
	b.section("A storm of starts", fmt.Sprintf("%d containers, eight at a time, each starts, reads all files once and ends. Seconds; median of five storms, in turns. To make and remove their control groups is not counted.", b.storm))
	peers := b.main()
	peers = append(peers, b.find(forking))
	peers = slices.DeleteFunc(peers, func(p *peer) bool { return p.name == floor })
	files := b.served()
	times := map[string][]float64{}
	dirs := make([][]string, b.storm)
	for i := range dirs {
		var err error
		if dirs[i], err = b.groups.add("storm-"+strconv.Itoa(i), 1); err != nil {
			return err
		}
	}
	for round := range 5 {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			took, err := storm(p, files, dirs)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			times[p.name] = append(times[p.name], took.Seconds())
		}
	}
	t := newTable("files of", "seconds", "more than the kernel's, ms a container")
	base := median(times[native])
	for _, p := range peers {
		m := median(times[p.name])
		t.row(p.name, fmt.Sprintf("%.2f", m), fmt.Sprintf("%.2f", (m-base)*1e3/float64(b.storm)))
	}
	b.report.WriteString(t.String())
	return nil
}

func storm(p *peer, files []string, dirs [][]string) (time.Duration, error) {
	var group sync.WaitGroup
	errs := make(chan error, len(dirs))
	slots := make(chan struct{}, 8)
	start := time.Now()
	for _, d := range dirs {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			c, err := startAgent(d)
			if err != nil {
				errs <- err
				return
			}
			defer c.stop()
			for _, f := range files {
				if _, err := c.ask("cycle", 1, p.path(f)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	close(errs)
	return took, <-errs
}

// scaleFiles are what the containers of the part scale read each second.
func (b *bench) scaleFiles() []string {
	files := []string{"uptime", "loadavg", "meminfo", "stat", "diskstats"}
	served := b.served()
	for i, f := range files {
		if !slices.Contains(served, f) {
			files[i] = "cpuinfo"
		}
	}
	return files
}

// scales lets many containers read five files every second.
func (b *bench) scales() error {
	p, fl := b.find(vprocfs), b.find(floor)
	b.section("Many containers", fmt.Sprintf("%d containers read %s every second for %d s.", b.scale, strings.Join(b.scaleFiles(), ", "), b.period))
	beforeRSS, beforeFDs := p.status("VmRSS"), p.descriptors()
	probe, err := b.container("probe", 2)
	if err != nil {
		return err
	}
	defer probe.stop()
	deep, err := b.container("deep", 8)
	if err != nil {
		return err
	}
	defer deep.stop()
	var cs []*container
	stop := func() {
		for _, c := range cs {
			c.stop()
		}
	}
	defer stop()
	grow := func(n int) error {
		for len(cs) < n {
			c, err := b.container("scale-"+strconv.Itoa(len(cs)), 2)
			if err != nil {
				return err
			}
			cs = append(cs, c)
			for _, f := range b.scaleFiles() {
				if _, err := c.ask("cycle", 1, p.path(f)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	cost := newTable("what", "file", "us", "in floors")
	measure := func(what string, c *container) error {
		for _, f := range b.scaleFiles() {
			view, constant, err := b.against(c, p.path(f), fl.path(f))
			if err != nil {
				return err
			}
			cost.row(what, f, fmt.Sprintf("%.1f", view), fmt.Sprintf("%.3f", view/constant))
		}
		return nil
	}
	pinned := []*peer{p, fl}
	for _, q := range pinned {
		if err := q.pin(false); err != nil {
			return err
		}
	}
	for _, c := range []*container{probe, deep} {
		if _, err := c.ask("pin", 0); err != nil {
			return err
		}
	}
	for _, n := range []int{b.scale / 10, b.scale} {
		if err := grow(n); err != nil {
			return err
		}
		if err := measure(fmt.Sprintf("%d containers known", n), probe); err != nil {
			return err
		}
	}
	if err := measure("the group 8 levels deep, not 2", deep); err != nil {
		return err
	}
	for _, q := range pinned {
		if err := q.pin(true); err != nil {
			return err
		}
	}
	cpu := p.cpu()
	for _, c := range cs {
		command := []any{"every", 1000, b.period}
		for _, f := range b.scaleFiles() {
			command = append(command, p.path(f))
		}
		if err := c.tell(command...); err != nil {
			return err
		}
		time.Sleep(time.Second / time.Duration(b.scale))
	}
	rss, fds := 0, 0
	start := time.Now()
	for time.Since(start) < time.Duration(b.period-2)*time.Second {
		time.Sleep(time.Second)
		rss, fds = max(rss, p.status("VmRSS")), max(fds, p.descriptors())
	}
	var reads, worst int64
	var tails []float64
	for _, c := range cs {
		v, err := c.hear()
		if err != nil {
			return err
		}
		reads += v[0]
		worst = max(worst, v[3])
		tails = append(tails, float64(v[2])/1e3)
	}
	cpu = p.cpu() - cpu
	took := time.Since(start)
	stop()
	cs = nil
	afterRSS, afterFDs := p.status("VmRSS"), p.descriptors()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end) && afterFDs > beforeFDs; time.Sleep(time.Second) {
		afterRSS, afterFDs = p.status("VmRSS"), p.descriptors()
	}
	t := newTable("what", "value")
	t.row("reads", strconv.FormatInt(reads, 10))
	t.row("longest read, ms", fmt.Sprintf("%.1f", float64(worst)/1e6))
	t.row("99th percentile, median of the containers', us", fmt.Sprintf("%.0f", median(tails)))
	t.row("daemon's CPU, % of one", fmt.Sprintf("%.1f", 100*cpu.Seconds()/took.Seconds()))
	t.row("daemon's RSS before, at most, after, KiB", fmt.Sprintf("%d, %d, %d", beforeRSS, rss, afterRSS))
	t.row("daemon's descriptors before, at most, after", fmt.Sprintf("%d, %d, %d", beforeFDs, fds, afterFDs))
	b.report.WriteString(t.String() + "\n" + cost.String())
	return nil
}

// against measures two paths in turns: medians, in microseconds.
func (b *bench) against(c *container, one, two string) (float64, float64, error) {
	var v [2][]float64
	for range b.rounds {
		for i, path := range []string{one, two} {
			n, err := c.ask("cycle", b.each, path)
			if err != nil {
				return 0, 0, err
			}
			v[i] = append(v[i], float64(n[0])/1e3)
		}
	}
	return median(v[0]), median(v[1]), nil
}
