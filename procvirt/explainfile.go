// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"vprocfs/procvirt/cgroup"
)

// explainer finds out where the numbers of one container come from. It reads the files of
// the control groups once more: what it says is a little younger than what is shown.
type explainer struct {
	*Container
	texts map[string][]byte // of the files, by name
}

// numbers explains those of f, whose sources are open.
func (x *explainer) numbers(f *File) []NumberExplanation {
	all := x.numbersOf(f)
	for i := range all {
		all[i].From = orUncounted(all[i].From)
	}
	return all
}

// orUncounted says so if there are no sources.
func orUncounted(from []SourceExplanation) []SourceExplanation {
	if len(from) == 0 {
		return []SourceExplanation{{File: "not counted for this group"}}
	}
	return from
}

func (x *explainer) numbersOf(f *File) []NumberExplanation {
	switch name := f.String(); {
	case name == "uptime":
		return x.uptime()
	case name == "stat":
		return x.stat()
	case name == "meminfo":
		return x.meminfo()
	case name == "swaps":
		return x.swap("Size", "Used")
	case name == "loadavg":
		return []NumberExplanation{{"averages and threads", strings.TrimSpace(string(x.texts[name])), x.threads()}}
	case name == "diskstats":
		return x.disks()
	case name == "vmstat":
		return x.vmstat()
	case name == "slabinfo":
		return []NumberExplanation{{Name: "head", From: []SourceExplanation{{File: "no control group has such numbers"}}}}
	case name == "cgroups":
		return []NumberExplanation{{Name: "controllers", From: []SourceExplanation{{File: "/proc/cgroups"}, {File: "cgroup.controllers", Group: "/", Value: string(x.registry.mounts.AppendV2Controllers(nil))}}}}
	case f.needs >= sourceCPUPressure:
		return []NumberExplanation{{Name: "all", From: x.own(cgroup.Pressure, strings.Replace(name, "pressure/", "", 1)+".pressure", "")}}
	case f.needs&sourceNodes != 0:
		return x.memoryNodes(f)
	case f.needs&sourceCPU != 0:
		return []NumberExplanation{x.cpus()}
	}
	return nil
}

// read returns the first line of a file, or the value of a key, "" if there is none.
func read(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if key == "" {
			return line
		}
		if f := strings.Fields(line); len(f) > 1 && strings.TrimSuffix(f[0], ":") == key {
			return strings.Join(f[1:], " ")
		}
	}
	return ""
}

// host is a line of one of the host's own files.
func (x *explainer) host(path, key string) SourceExplanation {
	return SourceExplanation{File: "/" + path, Key: key, Value: read(filepath.Join(x.registry.cfg.Root, path), key)}
}

// own is a file of the container's own group, nothing if it has none.
func (x *explainer) own(ctl cgroup.Controller, name, key string) []SourceExplanation {
	p := &x.places[ctl]
	if len(p.Dirs) == 0 || !fileExists(filepath.Join(p.Dirs[0], name)) {
		return nil
	}
	s := SourceExplanation{File: name, Key: key, Group: p.Path, Own: true}
	if key != "" || !strings.HasSuffix(name, ".stat") {
		s.Value = read(filepath.Join(p.Dirs[0], name), key)
	}
	return []SourceExplanation{s}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// levels is a file of all levels that have it, named as v2 and v1 do.
func (x *explainer) levels(ctl cgroup.Controller, v2, v1 string) (all []SourceExplanation) {
	p := &x.places[ctl]
	name := v1
	if p.V2 {
		name = v2
	}
	if name == "" || p.Root {
		return nil
	}
	for i, dir := range p.Dirs {
		if value := read(filepath.Join(dir, name), ""); value != "" {
			all = append(all, SourceExplanation{File: name, Group: groupAt(p, i), Own: i == 0, Value: value})
		}
	}
	return all
}

// choose returns the version's own name of a file.
func (x *explainer) choose(ctl cgroup.Controller, v2, v1 string) string {
	if x.places[ctl].V2 {
		return v2
	}
	return v1
}

// markSmallest marks the source with the smallest of numbers, of which there is one for
// each. Of equal ones the first counts.
func markSmallest(from []SourceExplanation, numbers []uint64) {
	if len(numbers) > 0 {
		from[slices.Index(numbers, slices.Min(numbers))].Limits = true
	}
}

// limitOf returns the number of bytes that a limit has, or a line of meminfo.
func limitOf(value string) uint64 {
	f := strings.Fields(value)
	if len(f) == 0 {
		return cgroup.NoLimit
	}
	n, err := strconv.ParseUint(f[0], 10, 64)
	switch {
	case err != nil: // max
		return cgroup.NoLimit
	case len(f) == 2 && f[1] == "kB":
		return n << 10
	}
	return n
}

// shown returns the value of a line of meminfo as the container sees it.
func (x *explainer) shown(label string) string {
	for line := range bytes.Lines(x.texts["meminfo"]) {
		if value, ok := bytes.CutPrefix(line, []byte(label+":")); ok {
			return strings.TrimSpace(string(value))
		}
	}
	return ""
}

func (x *explainer) meminfo() []NumberExplanation {
	total := append(x.levels(cgroup.Memory, "memory.max", "memory.limit_in_bytes"), x.host("proc/meminfo", "MemTotal"))
	var sizes []uint64
	for _, s := range total {
		sizes = append(sizes, limitOf(s.Value))
	}
	if n, _, err := x.nodes.Read(new(cgroup.CPUs), nil); err == nil && n != cgroup.NoLimit {
		total = append(total, SourceExplanation{File: "memory of the nodes in cpuset.mems", Group: x.places[cgroup.CPUSet].Path, Own: true, Value: strconv.FormatUint(n, 10)})
		sizes = append(sizes, n)
	}
	markSmallest(total, sizes)
	stat := "file, anon, slab_reclaimable, ..."
	if !x.places[cgroup.Memory].V2 {
		stat = "total_cache, total_rss, ..."
	}
	all := []NumberExplanation{
		{"MemTotal", x.shown("MemTotal"), total},
		{"MemFree", x.shown("MemFree"), x.headroom("proc/meminfo", "MemFree")},
		{"MemAvailable", x.shown("MemAvailable"), append(x.headroom("proc/meminfo", "MemAvailable"),
			SourceExplanation{File: "and what the group that limits can reclaim: the file pages and reclaimable slabs of its memory.stat"})},
	}
	all = append(all, x.swap("SwapTotal", "SwapFree")...)
	if from := x.own(cgroup.Memory, "memory.stat", ""); from != nil {
		from[0].Key = stat
		all = append(all, NumberExplanation{Name: "Cached, Active, AnonPages, Slab, ...", From: from})
	}
	return append(all, NumberExplanation{"CommitLimit", x.shown("CommitLimit"), []SourceExplanation{
		{File: "MemTotal and SwapTotal above, by the host's overcommit settings"}, x.host("proc/meminfo", "CommitLimit")}})
}

// headroom is what is left at each level that has a limit, and the host's line if none
// has.
func (x *explainer) headroom(path, key string) []SourceExplanation {
	p := &x.places[cgroup.Memory]
	limits := x.levels(cgroup.Memory, "memory.max", "memory.limit_in_bytes")
	limits = append(limits, x.levels(cgroup.Memory, "memory.high", "")...)
	usages := map[string]uint64{}
	for _, u := range x.levels(cgroup.Memory, "memory.current", "memory.usage_in_bytes") {
		usages[u.Group] = limitOf(u.Value)
	}
	host := x.host("proc/meminfo", "MemTotal")
	var from []SourceExplanation
	var free []uint64
	for _, s := range limits {
		limit, usage := limitOf(s.Value), usages[s.Group]
		if limit >= limitOf(host.Value) {
			continue // as none
		}
		free = append(free, sub(limit, usage))
		s.Value = fmt.Sprintf("%d - %s %d = %d", limit, x.choose(cgroup.Memory, "memory.current", "memory.usage_in_bytes"), usage, sub(limit, usage))
		from = append(from, s)
	}
	if len(from) == 0 {
		s := x.host(path, key)
		s.File += ", for no group of " + p.Path + " limits"
		return []SourceExplanation{s}
	}
	markSmallest(from, free)
	return from
}

// swap explains the swap, whose total and rest are called so.
func (x *explainer) swap(total, rest string) []NumberExplanation {
	cfg := &x.registry.cfg
	if x.policy.isSecond(wordSwap, cfg.NoSwap) {
		by := "--swap=off"
		if s := x.policy.words[wordSwap]; s.set {
			by = "swap=off of the policy"
		}
		return []NumberExplanation{{total, x.shown(total), []SourceExplanation{{File: by}}}}
	}
	from := append(x.levels(cgroup.Memory, "memory.swap.max", "memory.memsw.limit_in_bytes"), x.host("proc/meminfo", "SwapTotal"))
	var sizes []uint64
	for _, s := range from {
		sizes = append(sizes, limitOf(s.Value))
	}
	switch v2 := x.places[cgroup.Memory].V2; {
	case v2, sizes[len(sizes)-1] == 0: // v1 limits memory and swap together
		markSmallest(from, sizes)
	default:
		from = append(from, x.own(cgroup.Memory, "memory.swappiness", "")...)
	}
	return []NumberExplanation{
		{total, x.shown(total), from},
		{rest, x.shown(rest), x.own(cgroup.Memory, x.choose(cgroup.Memory, "memory.swap.current", "memory.memsw.usage_in_bytes"), "")},
	}
}

// cpus explains which CPUs are visible.
func (x *explainer) cpus() NumberExplanation {
	var view cpuView
	if err := view.gather(x.Container); err != nil {
		return NumberExplanation{Name: "CPUs", From: []SourceExplanation{{File: err.Error()}}}
	}
	rule := x.policy.cpus(&x.registry.cfg)
	set := SourceExplanation{File: "/" + onlinePath, Value: read(filepath.Join(x.registry.cfg.Root, onlinePath), "")}
	if all := x.levels(cgroup.CPUSet, "cpuset.cpus.effective", "cpuset.effective_cpus"); len(all) > 0 {
		set = all[0]
	}
	from := []SourceExplanation{set}
	var own cgroup.CPUs
	few := own.Parse([]byte(set.Value)) == nil && view.visible.Count() < own.Count()
	if rule != cpuCPUSet {
		from = append(from, x.quotas()...)
	}
	if x.request != nil && rule == cpuRequest {
		n, _, _ := x.request.Read(nil)
		s := SourceExplanation{File: "no request is known"}
		if path := x.request.Path(); path != "" {
			p := &x.places[cgroup.CPU]
			level := max(slices.Index(p.Dirs, filepath.Dir(path)), 0)
			s = SourceExplanation{
				File: filepath.Base(path), Group: groupAt(p, level), Own: level == 0,
				Value: fmt.Sprintf("%s, a request of %d CPUs (%s)", read(path, ""), n, x.request.Formula),
			}
			s.Limits = few && !slices.ContainsFunc(from[1:], func(s SourceExplanation) bool { return s.Limits })
		}
		from = append(from, s)
	}
	for i := range from {
		from[i].Limits = few && from[i].Limits || !few && i == 0
	}
	return NumberExplanation{"CPUs", view.visible.String(), from}
}

// quotas explains the quota of each level.
func (x *explainer) quotas() []SourceExplanation {
	from := x.levels(cgroup.CPU, "cpu.max", "cpu.cfs_quota_us")
	periods := x.levels(cgroup.CPU, "", "cpu.cfs_period_us")
	var share []uint64 // in millionths of a CPU
	limited := false
	for i := range from {
		if i < len(periods) {
			from[i].Value += " of " + periods[i].Value
		}
		f := strings.Fields(strings.ReplaceAll(from[i].Value, " of ", " "))
		n := uint64(cgroup.NoLimit)
		if len(f) == 2 {
			quota, e1 := strconv.ParseUint(f[0], 10, 64)
			period, e2 := strconv.ParseUint(f[1], 10, 64)
			if e1 == nil && e2 == nil && period > 0 {
				n, limited = quota*1e6/period, true
			}
		}
		share = append(share, n)
	}
	if limited {
		markSmallest(from, share)
	}
	return from
}

// memoryNodes explains a list of memory nodes.
func (x *explainer) memoryNodes(f *File) []NumberExplanation {
	from := []SourceExplanation{x.host(f.Path, "")}
	if all := x.levels(cgroup.CPUSet, "cpuset.mems.effective", "cpuset.effective_mems"); len(all) > 0 {
		from = append(from, all[0])
	}
	numbers := []NumberExplanation{{"nodes in both", strings.TrimSpace(string(x.texts[f.String()])), from}}
	if f.needs&sourceCPU != 0 {
		numbers = append(numbers, x.cpus())
	}
	return numbers
}

// used is the CPU time that the container used.
func (x *explainer) used() []SourceExplanation {
	if x.places[cgroup.CPUAcct].V2 {
		return x.own(cgroup.CPUAcct, "cpu.stat", "usage_usec")
	}
	return x.own(cgroup.CPUAcct, "cpuacct.usage", "")
}

func (x *explainer) uptime() []NumberExplanation {
	f := strings.Fields(string(x.texts["uptime"]))
	if len(f) != 2 {
		return nil
	}
	up := []SourceExplanation{{File: fmt.Sprintf("/proc/%d/stat", x.init.PID), Key: "starttime", Value: time.Duration(x.space.started).String() + " after the host's boot"}}
	if offset := x.space.bootOffset; offset != 0 {
		up = []SourceExplanation{{File: fmt.Sprintf("/proc/%d/timens_offsets", x.init.PID), Key: "boottime", Value: offset.String()}}
	}
	return []NumberExplanation{
		{"up", f[0], up},
		{"idle", f[1], append([]SourceExplanation{{File: "the idle time of stat"}}, x.used()...)},
		x.cpus(),
	}
}

func (x *explainer) stat() []NumberExplanation {
	all := []NumberExplanation{x.cpus(), {Name: "user, nice, system, idle", From: x.used()}}
	if !x.policy.isSecond(wordLoadavg, x.registry.cfg.HostLoad) {
		if _, tracked := x.load.Peek(); tracked {
			all = append(all, NumberExplanation{Name: "procs_running, procs_blocked", From: x.threads()})
		}
	}
	if x.registry.shiftsBtime && x.space.bootOffset != 0 {
		all = append(all, NumberExplanation{Name: "btime", From: []SourceExplanation{
			x.host("proc/stat", "btime"), {File: fmt.Sprintf("/proc/%d/timens_offsets", x.init.PID), Key: "boottime", Value: x.space.bootOffset.String()}}})
	}
	return all
}

// threads are those of the container.
func (x *explainer) threads() []SourceExplanation {
	p := &x.places[cgroup.CPUAcct]
	return []SourceExplanation{{File: x.choose(cgroup.CPUAcct, "cgroup.threads", "tasks"), Group: p.Path, Own: true, Value: "and of all groups below, every 5 s"}}
}

func (x *explainer) disks() []NumberExplanation {
	from := x.own(cgroup.BlkIO, "io.stat", "")
	for _, name := range []string{"blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"} {
		if recursive := x.own(cgroup.BlkIO, name+"_recursive", ""); recursive != nil {
			from = append(from, recursive...)
		} else {
			from = append(from, x.own(cgroup.BlkIO, name, "")...)
		}
	}
	for i := range from {
		from[i].Value = ""
	}
	return []NumberExplanation{{Name: "reads, writes, discards", From: append(from, SourceExplanation{File: "/proc/diskstats", Key: "the names of devices"})}}
}

func (x *explainer) vmstat() []NumberExplanation {
	from := x.own(cgroup.Memory, "memory.stat", "")
	from = append(from, x.own(cgroup.Memory, x.choose(cgroup.Memory, "memory.events", "memory.oom_control"), "oom_kill")...)
	all := []NumberExplanation{{Name: "what the group counts", From: from}}
	if io := x.disks()[0].From; len(io) > 1 {
		all = append(all, NumberExplanation{Name: "pgpgin, pgpgout", From: io[:1]})
	}
	return append(all, NumberExplanation{Name: "nr_free_pages", From: x.headroom("proc/meminfo", "MemFree")},
		NumberExplanation{Name: "all others", Value: "0", From: []SourceExplanation{{File: "no control group counts them"}}})
}
