// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"vprocfs/fs"
	"vprocfs/initpid"
	"vprocfs/internal/count"
	"vprocfs/internal/daemon"
	"vprocfs/internal/inject/watch"
	"vprocfs/internal/report"
	"vprocfs/procvirt"
)

// fake is a daemon with something to say of everything.
type fake struct{ containers int }

func (f fake) Status() (*report.Status, error) {
	var h count.Histogram
	for _, d := range []time.Duration{0, time.Microsecond, 20 * time.Microsecond, time.Second, time.Hour} {
		h.Observe(d)
	}
	w := &daemon.Stats{
		Server: fs.Stats{
			Requests: []fs.RequestCount{{Op: "read", File: "proc/stat", N: 3}, {Op: "statfs", N: 1}},
			Errors:   []fs.ErrorCount{{Op: "read", Errno: "EIO", N: 1}}, Refusals: []fs.RefusalCount{{Reason: "queue", Errno: "EAGAIN", N: 1}}, Reads: h.Load(),
		},
		View: procvirt.Stats{
			Inits:     initpid.Stats{Found: map[string]uint64{"cache": 2}, Failed: map[string]uint64{"ioctl": 1}},
			Fallbacks: []procvirt.FallbackCount{{File: "stat", Reason: "no-init", N: 1}}, Failures: []procvirt.FailureCount{{File: "stat", N: 1}},
		},
		Triggers: &procvirt.TriggerStats{Refused: map[string]uint64{"EBUSY": 1}},
		Top:      []procvirt.OwnerRate{{PerSecond: 17}},
	}
	d := daemon.Status{Attach: true, Watch: &watch.Status{Attached: 3, Refused: map[watch.Reason]uint64{watch.Hung: 1}}}
	return &report.Status{Well: true, Daemon: d, Worker: w}, nil
}

func (f fake) Counters() (all []report.Container, err error) {
	for i := range f.containers {
		c := report.Container{Name: fmt.Sprintf("c%d", i%(f.containers-1))} // two of one name
		c.Reads, c.PerSecond = uint64(i), rand.Float64()
		all = append(all, c)
	}
	return all, nil
}

func collector(source Source, err error, perContainer int) *Collector {
	return &Collector{Find: func() (Source, error) { return source, err }, PerContainer: perContainer}
}

// TestNamesFollowPrometheusConventions, and each metric is consistent with itself.
func TestNamesFollowPrometheusConventions(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector(fake{10}, nil, 5))
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestSeriesAreBounded: --per-container N makes those of N containers, and none by default.
func TestSeriesAreBounded(t *testing.T) {
	for _, n := range []int{0, 1, 7, 1000} {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(collector(fake{100}, nil, n))
		got, err := testutil.GatherAndCount(registry, "vprocfs_container_reads_total")
		if err != nil || got != min(n, 99) {
			t.Errorf("N is %d: %d series, %v", n, got, err)
		}
	}
}

// TestWithoutADaemonUpIsZero and there is nothing else.
func TestWithoutADaemonUpIsZero(t *testing.T) {
	want := "# HELP vprocfs_up Whether the daemon answers.\n# TYPE vprocfs_up gauge\nvprocfs_up 0\n"
	if err := testutil.CollectAndCompare(collector(nil, errors.New("none"), 5), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// TestTheHistogramHasBucketsOfBothKinds, which agree.
func TestTheHistogramHasBucketsOfBothKinds(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector(fake{}, nil, 0))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "vprocfs_read_duration_seconds" {
			continue
		}
		h := f.Metric[0].Histogram
		native := int64(0)
		last := int64(0)
		for _, d := range h.PositiveDelta {
			last += d
			native += last
		}
		// What took an hour is in no classic bucket but +Inf.
		if h.GetSampleCount() != 5 || native != 5 || h.Bucket[len(h.Bucket)-1].GetCumulativeCount() != 4 || h.GetSchema() != 0 {
			t.Errorf("%v", h)
		}
		return
	}
	t.Error("no histogram")
}

// TestAScrapeIsAnswered, and a request for anything else is not.
func TestAScrapeIsAnswered(t *testing.T) {
	server, err := NewServer(collector(fake{}, nil, 0))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(server.Handler)
	defer s.Close()
	for path, want := range map[string]int{"/metrics": 200, "/": 200, "/debug/pprof/": 404} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want || path == "/metrics" && !strings.Contains(string(body), `vprocfs_requests_total{file="proc/stat",op="read"} 3`) {
			t.Errorf("%s: status %d: %s", path, resp.StatusCode, body)
		}
	}
}
