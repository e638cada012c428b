// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestDashboardsAndAlertsNameMetricsThatExist, with labels that those have.
func TestDashboardsAndAlertsNameMetricsThatExist(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector(fake{3}, nil, 2))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]map[string]bool{}
	for _, f := range families {
		has := map[string]bool{"instance": true, "le": true}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				has[l.GetName()] = true
			}
		}
		labels[f.GetName()] = has
	}
	metric := regexp.MustCompile(`vprocfs_[a-z0-9_]+`)
	used := regexp.MustCompile(`by \(([a-z_, ]+)\)|[{,]([a-z_]+)=|\{\{ ?(?:\$labels\.)?([a-z]+) ?\}\}`)
	check := func(where, expr, text string) {
		names := metric.FindAllString(expr, -1)
		if len(names) == 0 {
			t.Errorf("%s: no metric in %q", where, expr)
		}
		for _, name := range names {
			has := labels[strings.TrimSuffix(name, "_bucket")]
			if has == nil {
				t.Errorf("%s: there is no metric %s", where, name)
				continue
			}
			for _, m := range used.FindAllStringSubmatch(expr+text, -1) {
				for label := range strings.SplitSeq(m[1]+m[2]+m[3], ",") {
					if label = strings.TrimSpace(label); label != "" && !has[label] {
						t.Errorf("%s: %s has no label %s", where, name, label)
					}
				}
			}
		}
	}
	rules, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	alert, expr, n := "", "", 0
	for line := range strings.Lines(string(rules)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "- alert: "); ok {
			alert = name
		} else if e, ok := strings.CutPrefix(line, "expr: "); ok {
			expr = e
			n++
			check(alert, expr, "")
		} else if strings.HasPrefix(line, "summary: ") {
			check(alert, expr, line)
		}
	}
	if n == 0 {
		t.Error("no alerts")
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	text, err := os.ReadFile("../../deploy/grafana/vprocfs.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &board); err != nil || len(board.Panels) == 0 {
		t.Fatalf("%d panels, %v", len(board.Panels), err)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			check(p.Title, target.Expr, target.LegendFormat)
		}
	}
}

// TestTheGuideNamesEachMetric, and none that does not exist.
func TestTheGuideNamesEachMetric(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector(fake{3}, nil, 2))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| question | metrics")
	table, _, _ = strings.Cut(table, "\n\n")
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(table, -1) {
		named["vprocfs_"+m[1]] = true
	}
	delete(named, "vprocfs_vprocfs_") // of the head
	for _, f := range families {
		if !named[f.GetName()] {
			t.Errorf("the guide does not name %s", f.GetName())
		}
		delete(named, f.GetName())
	}
	for name := range named {
		t.Errorf("the guide names %s, which does not exist", name)
	}
}
