// SPDX-License-Identifier: Apache-2.0

// Command kubernetes writes the manifests for kustomize. They are the Helm chart with
// certain values: `make manifests`, which writes below deploy/kubernetes.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// namespace is the one that the manifests name. Pods of system-node-critical priority may
// be elsewhere since Kubernetes 1.17, but a quota may forbid it.
const namespace = "kube-system"

// base is a directory for kustomize, and the values that differ there from the chart's own.
type base struct {
	name   string
	does   string
	values map[string]any
}

func bases() []base {
	return []base{
		{"install", "vprocfs on every node.", nil},
		{"systemd-only", "vprocfs on every node with systemd, without a privileged container.", map[string]any{"withoutSystemd": false}},
		{"nri", "vprocfs and its NRI plugin on every node.", map[string]any{"nri": true}},
		{"uninstall", "Applied over any of the others, it removes vprocfs from all nodes. Delete it then.", map[string]any{"uninstall": true}},
	}
}

func main() {
	if err := run("deploy/kubernetes"); err != nil {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	for _, b := range bases() {
		files, err := b.files(filepath.Join(dir, "chart"))
		if err != nil {
			return err
		}
		for name, text := range files {
			path := filepath.Join(dir, b.name, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// files returns the files of the directory by their names.
func (b base) files(chart string) (map[string][]byte, error) {
	const written = "# Written by `make manifests` from the chart.\n"
	values, err := readValues(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return nil, err
	}
	maps.Copy(values, b.values)
	object, err := render(filepath.Join(chart, "templates/daemonset.yaml"), values)
	if err != nil {
		return nil, err
	}
	kustomization := written + "# " + b.does + `
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - daemonset.yaml
`
	return map[string][]byte{"kustomization.yaml": []byte(kustomization), "daemonset.yaml": append([]byte(written), object...)}, nil
}

// readValues reads a file of lines "NAME: JSON", which is YAML too.
func readValues(path string) (map[string]any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := make(map[string]any)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ": ")
		var v any
		if err := json.Unmarshal([]byte(value), &v); !ok || err != nil {
			return nil, fmt.Errorf("%s:%d: want NAME: JSON, %v", path, n, err)
		}
		values[name] = v
	}
	return values, lines.Err()
}

// render executes a template of the chart as Helm does. It knows none of Helm's functions
// but toJson. An unknown value is an error.
func render(path string, values map[string]any) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := template.New(filepath.Base(path)).Option("missingkey=error").Funcs(template.FuncMap{
		"toJson": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	}).Parse(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{"Values": values, "Release": map[string]any{"Namespace": namespace}})
	return out.Bytes(), err
}
