// SPDX-License-Identifier: Apache-2.0

// Package metrics makes Prometheus' metrics of what a daemon answers on its control socket.
package metrics

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"vprocfs/internal/count"
	"vprocfs/internal/daemon"
	"vprocfs/internal/report"
)

// Source is what is asked at each scrape.
type Source interface {
	Status() (*report.Status, error)
	Counters() ([]report.Container, error)
}

// Collector is a prometheus.Collector. It keeps nothing between scrapes.
type Collector struct {
	// Find finds the daemon, which may come and go.
	Find func() (Source, error)
	// PerContainer is how many containers have metrics of their own: those that read most
	// at the moment. It bounds how many series there are at a time.
	PerContainer int
}

// Describe sends nothing: which metrics there are depends on the daemon.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect asks the daemon. If it does not answer there is vprocfs_up alone, which is 0.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s := sink{out}
	source, err := c.Find()
	var status *report.Status
	if err == nil {
		status, err = source.Status()
	}
	s.gauge("up", "Whether the daemon answers.", boolean(err == nil))
	if err != nil {
		return
	}
	s.holder(status)
	s.attach(&status.Daemon)
	if status.Worker == nil {
		return
	}
	s.server(status.Worker)
	s.view(status.Worker)
	s.process(status.Worker)
	if c.PerContainer > 0 {
		if all, err := source.Counters(); err == nil {
			s.containers(all, c.PerContainer)
		}
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// sink makes metrics and sends them.
type sink struct{ out chan<- prometheus.Metric }

// labels are names and values in turn.
func (s sink) send(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	s.out <- prometheus.MustNewConstMetric(prometheus.NewDesc("vprocfs_"+name, help, names, nil), kind, value, values...)
}

func (s sink) gauge(name, help string, value float64, labels ...string) {
	s.send(prometheus.GaugeValue, name, help, value, labels...)
}

func (s sink) counter(name, help string, value uint64, labels ...string) {
	s.send(prometheus.CounterValue, name, help, float64(value), labels...)
}

func (s sink) holder(status *report.Status) {
	d, h := &status.Daemon, &status.Daemon.Holder
	s.gauge("well", "Whether vprocfs status finds no problem.", boolean(status.Well))
	s.gauge("worker_up", "Whether a worker answers.", boolean(status.Worker != nil))
	s.gauge("build_info", "The version of the daemon.", 1, "version", d.Version, "commit", d.Commit)
	s.gauge("start_time_seconds", "When the daemon was started, in seconds since 1970.", float64(h.Began.UnixNano())/1e9)
	s.gauge("warnings", "How many things about the host or the unit should be changed.", float64(len(d.Warnings)))
	s.counter("worker_restarts_total", "Ends of workers that another one was started after.", h.Restarts)
	s.counter("upgrades_total", "Upgrades by outcome.", h.Upgrades, "outcome", "succeeded")
	s.counter("upgrades_total", "Upgrades by outcome.", h.FailedUpgrades, "outcome", "failed")
	s.counter("connection_renewals_total", "Connections that were made anew after an abort.", h.Renewals)
	s.counter("heals_total", "Runs of vprocfs heal after an abort, by outcome.", d.Heals-d.FailedHeals, "outcome", "succeeded")
	s.counter("heals_total", "Runs of vprocfs heal after an abort, by outcome.", d.FailedHeals, "outcome", "failed")
	s.counter("log_lines_dropped_total", "Log lines that nobody read in time.", d.LogDropped, "process", "holder")
	s.counter("log_lines_left_out_total", "Log lines of which there were too many with one reason.", d.LogLeftOut, "process", "holder")
}

// attach makes the metrics of what attaches containers.
func (s sink) attach(d *daemon.Status) {
	if !d.Attach {
		return
	}
	s.gauge("attach_watcher_up", "Whether containers that start are attached.", boolean(d.Watch != nil))
	w := d.Watch
	if w == nil {
		return
	}
	const help = "Containers by what became of their attachment. Those that were attached only in part count under the reason."
	s.counter("attach_containers_total", help, w.Attached, "outcome", "attached")
	for why, n := range w.Refused {
		s.counter("attach_containers_total", help, n, "outcome", string(why))
	}
	s.counter("attach_containers_late_total", "Attached containers that ran their program by then.", w.Late)
	s.gauge("attach_containers_waiting", "Containers that wait to be attached.", float64(w.Queue))
	s.gauge("attach_containers_running", "Containers that are being attached.", float64(w.Running))
}

func (s sink) server(w *daemon.Stats) {
	v := &w.Server
	for _, r := range v.Requests {
		s.counter("requests_total", "FUSE requests by opcode and file; those for files of the host's have no file.", r.N, "op", r.Op, "file", r.File)
	}
	for _, e := range v.Errors {
		s.counter("request_errors_total", "FUSE requests that were answered with an error.", e.N, "op", e.Op, "errno", e.Errno)
	}
	for _, r := range v.Refusals {
		s.counter("requests_refused_total", "FUSE requests that might have been served at another time.", r.N, "reason", r.Reason, "errno", r.Errno)
	}
	s.histogram("read_duration_seconds", "How long reads took, from when they were taken from the kernel's queue.", &v.Reads)
	s.counter("content_bytes_total", "Bytes that readers got.", v.ContentBytes)
	s.counter("requests_slow_total", "FUSE requests that took 100 ms or longer.", v.Slow)
	s.counter("requests_blocked_total", "FUSE requests that did not hold up the others.", v.Blocked)
	s.counter("requests_replayed_total", "FUSE requests that a worker found unanswered by the one before it.", v.Replayed)
	s.gauge("requests_waiting", "Blocked requests that are not answered yet.", float64(v.Waiting))
	s.gauge("handles", "Open files of readers.", float64(v.Handles))
	s.gauge("handles_limit", "How many files readers may have open.", float64(v.MaxHandles))
	s.gauge("text_bytes", "Memory of texts that are being read.", float64(v.Texts))
	s.gauge("text_limit_bytes", "How much memory those texts may take.", float64(v.MaxTexts))
	s.counter("panics_total", "Panics while content was made, answered EIO.", v.Panics)
	if t := w.Triggers; t != nil {
		s.gauge("triggers", "Pressure triggers that are set.", float64(t.Live))
		s.gauge("triggers_limit", "How many pressure triggers there may be.", float64(t.Max))
		s.counter("triggers_set_total", "Pressure triggers that were set.", t.Set)
		for errno, n := range t.Refused {
			s.counter("triggers_refused_total", "Pressure triggers that were refused.", n, "errno", errno)
		}
	}
}

func (s sink) view(w *daemon.Stats) {
	v := &w.View
	for method, n := range v.Inits.Found {
		s.counter("init_lookups_total", "Look-ups of the init of a pid namespace by method and outcome.", n, "method", method, "outcome", "found")
	}
	for method, n := range v.Inits.Failed {
		s.counter("init_lookups_total", "Look-ups of the init of a pid namespace by method and outcome.", n, "method", method, "outcome", "failed")
	}
	s.counter("init_renewals_total", "Inits that were verified again.", v.Inits.Renewed)
	for _, f := range v.Fallbacks {
		s.counter("fallbacks_total", "Contents that were the host's, by file and reason.", f.N, "file", f.File, "reason", f.Reason)
	}
	for _, f := range v.Failures {
		s.counter("read_failures_total", "Contents that a want of descriptors or memory made impossible.", f.N, "file", f.File)
	}
	s.counter("reads_delayed_total", "Reads that had to wait because a container read more than --max-rate.", v.Delayed)
	s.gauge("reads_waiting_for_rate", "Reads that wait because a container read more than --max-rate.", float64(v.Delaying))
	s.counter("cold_opens_total", "How often files of control groups were opened for a read.", v.ColdOpens)
	s.counter("container_decisions_total", "How often the control groups of a reader were looked for.", v.Decisions)
	s.counter("unknown_policy_words_total", "Words of policies that are not known.", v.UnknownWords)
	s.counter("pid_namespaces_ended_total", "Pid namespaces that ended.", v.Ended)
	s.counter("pid_namespaces_evicted_total", "Pid namespaces that were forgotten because there were too many.", v.Evicted)
	s.gauge("pid_namespaces", "Pid namespaces that are known.", float64(v.Namespaces))
	s.gauge("containers", "Containers that are known.", float64(v.Containers))
	s.gauge("cgroup_files", "Files of control groups that are open.", float64(v.OpenFiles))
	s.gauge("cgroup_files_limit", "How many files of control groups may be open.", float64(v.MaxFiles))
	s.gauge("virtualised", "Whether containers are shown their own files.", boolean(v.On))
	busiest := 0.0
	for _, t := range w.Top {
		busiest = max(busiest, t.PerSecond)
	}
	s.gauge("busiest_container_reads_per_second", "Reads of the outermost container that reads most; vprocfs ps names it.", busiest)
}

func (s sink) process(w *daemon.Stats) {
	p := &w.Process
	s.gauge("worker_open_fds", "Descriptors of the worker.", float64(p.OpenFiles))
	s.gauge("worker_max_fds", "How many descriptors the worker may have.", float64(p.MaxFiles))
	s.gauge("worker_resident_memory_bytes", "Resident memory of the worker.", float64(p.Resident))
	s.send(prometheus.CounterValue, "worker_cpu_seconds_total", "CPU time of the worker.", p.CPU)
	s.gauge("worker_goroutines", "Goroutines of the worker.", float64(p.Goroutines))
	s.counter("log_lines_dropped_total", "Log lines that nobody read in time.", w.LogDropped, "process", "worker")
	s.counter("log_lines_left_out_total", "Log lines of which there were too many with one reason.", w.LogLeftOut, "process", "worker")
}

// containers makes the metrics of the n containers that read most. Those of one name are
// added up.
func (s sink) containers(all []report.Container, n int) {
	sums := map[string]*report.Container{}
	for _, c := range all {
		sum := sums[c.Name]
		if sum == nil {
			sum = &report.Container{Name: c.Name}
			sums[c.Name] = sum
		}
		sum.PerSecond += c.PerSecond
		sum.Reads += c.Reads
		sum.Slow += c.Slow
		sum.Fallbacks += c.Fallbacks
		sum.Delayed += c.Delayed
	}
	var most []*report.Container
	for _, c := range sums {
		most = append(most, c)
	}
	slices.SortFunc(most, func(a, b *report.Container) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Name, b.Name))
	})
	for _, c := range most[:min(n, len(most))] {
		name := report.Printable(c.Name)
		s.counter("container_reads_total", "Contents that were made for a container.", c.Reads, "container", name)
		s.counter("container_reads_slow_total", "Contents that took 100 ms or longer.", c.Slow, "container", name)
		s.counter("container_reads_delayed_total", "Reads that had to wait because of --max-rate, of the outermost container.", c.Delayed, "container", name)
		s.counter("container_fallbacks_total", "Contents that were the host's.", c.Fallbacks, "container", name)
	}
}

// histogram makes a histogram with buckets of both kinds: a scraper takes the native ones if
// it knows them.
func (s sink) histogram(name, help string, d *count.Durations) {
	desc := prometheus.NewDesc("vprocfs_"+name, help, nil, nil)
	classic, native := map[float64]uint64{}, map[int]int64{}
	total := d.Count()
	sum := uint64(0)
	for i, n := range d.Buckets {
		// The last bucket has no end, and a native one of that number ends at 32 s.
		if sum += n; i < count.NumBuckets-1 {
			classic[count.UpperBound(i)] = sum
		}
		if n > 0 {
			native[i-count.UnitsShift] = int64(n)
		}
	}
	s.out <- both{
		prometheus.MustNewConstHistogram(desc, total, d.Seconds, classic),
		prometheus.MustNewConstNativeHistogram(desc, total, d.Seconds, native, nil, 0, 0, 0, time.Time{}),
	}
}

// both is a histogram with classic and native buckets.
type both struct{ classic, native prometheus.Metric }

func (b both) Desc() *prometheus.Desc { return b.classic.Desc() }

func (b both) Write(m *dto.Metric) error {
	var classic dto.Metric
	if err := b.classic.Write(&classic); err != nil {
		return err
	}
	if err := b.native.Write(m); err != nil {
		return err
	}
	m.Histogram.Bucket = classic.Histogram.Bucket
	return nil
}
