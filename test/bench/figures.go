// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// figures are the numbers of a run that are worth a plot. They are written as JSON beside
// the tables.
type figures struct {
	// Made says what has made the figures, and when. Machine, Vprocfs and LXCFS say of what
	// they are.
	Made    string `json:"made"`
	Machine string `json:"machine"`
	Vprocfs string `json:"vprocfs"`
	LXCFS   string `json:"lxcfs"`

	Files      []fileFigure      `json:"files,omitempty"`
	Newcomers  []newcomerFigure  `json:"newcomers,omitempty"`
	Containers []containerFigure `json:"containers,omitempty"`
}

// timing is in microseconds.
type timing struct {
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
}

// fileFigure is how long an operation of a file takes, by peer.
type fileFigure struct {
	Op    string            `json:"op"` // see agent
	File  string            `json:"file"`
	Peers map[string]timing `json:"peers"`
}

// newcomerFigure is how much longer the first read of a pid namespace takes than others.
type newcomerFigure struct {
	Peer       string `json:"peer"`
	Namespaces int    `json:"namespaces"`
	First      timing `json:"first"`
}

// containerFigure is what containers get that read all the time.
type containerFigure struct {
	Peer       string  `json:"peer"`
	Containers int     `json:"containers"`
	P99        float64 `json:"p99_ms"` // of a read, the median of the containers'
	CPU        float64 `json:"cpu_percent"`
	Stolen     float64 `json:"stolen_percent"`
}

// beside returns the path of a file that stands beside the tables, or the figures, at path:
// its name with another end.
func beside(path, end string) string { return strings.TrimSuffix(path, filepath.Ext(path)) + end }

// write writes the figures beside the tables at path, and the plots of them.
func (f *figures) write(path string) error {
	text, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(beside(path, ".json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return f.plot(path)
}

// readFigures reads what write has written.
func readFigures(path string) (*figures, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := new(figures)
	if err := json.Unmarshal(text, f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}
