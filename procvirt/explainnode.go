// SPDX-License-Identifier: Apache-2.0

package procvirt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"vprocfs/procvirt/cgroup"
)

// explainedNode is a file of one memory node.
type explainedNode struct {
	node int
	name string
	file *File
}

func (n explainedNode) String() string { return fmt.Sprintf("node/node%d/%s", n.node, n.name) }

// path is that of the host's file, without the root.
func (n explainedNode) path() string { return fmt.Sprintf("%snode%d/%s", nodeDir, n.node, n.name) }

// readNodeFiles reads the files of each node that the container sees, and sets the errors.
func (x *explainer) readNodeFiles(errs map[string]error) (all []explainedNode) {
	var nodes cgroup.CPUs
	if text, ok := x.texts["node/online"]; !ok || nodes.Parse(text) != nil {
		return nil
	}
	for node := nodes.Next(0); node >= 0; node = nodes.Next(node + 1) {
		for _, name := range []string{"cpulist", "cpumap", "meminfo", "numastat"} {
			n := explainedNode{node, name, x.registry.nodeFile(name)}
			x.node = node
			text, err := x.content(nil, n.file)
			x.texts[n.String()], errs[n.String()] = text, err
			all = append(all, n)
		}
	}
	return all
}

// nodeNumbers explains a file of a memory node.
func (x *explainer) nodeNumbers(n explainedNode) []NumberExplanation {
	text := string(x.texts[n.String()])
	switch n.name {
	case "meminfo":
		return x.nodeMemory(n, text)
	case "numastat":
		return []NumberExplanation{{"all", "0", []SourceExplanation{{File: "no control group counts where its pages came from"}}}}
	}
	return []NumberExplanation{
		{"CPUs of the node that are visible", strings.TrimSpace(text), []SourceExplanation{x.host(n.path(), "")}},
		x.cpus(),
	}
}

func (x *explainer) nodeMemory(n explainedNode, text string) []NumberExplanation {
	host := SourceExplanation{File: "/" + n.path(), Key: "MemTotal"}
	if hosts, err := os.ReadFile(filepath.Join(x.registry.cfg.Root, n.path())); err == nil {
		host.Value = nodeLine(string(hosts), "MemTotal")
	}
	used := x.own(cgroup.Memory, "memory.numa_stat", "")
	for i := range used {
		used[i].Key, used[i].Value = fmt.Sprintf("N%d=", n.node), ""
	}
	return []NumberExplanation{
		{"MemTotal", nodeLine(text, "MemTotal"), []SourceExplanation{
			{File: "meminfo's MemTotal, in the proportion of the host's nodes", Value: x.shown("MemTotal")}, host,
		}},
		{"MemFree", nodeLine(text, "MemFree"), append(used[:len(used):len(used)],
			SourceExplanation{File: "and at most, over all nodes, meminfo's MemFree", Value: x.shown("MemFree")})},
		{Name: "FilePages, AnonPages, ...", From: orUncounted(used)},
	}
}

// nodeLine returns the value of a line of a node's meminfo.
func nodeLine(text, label string) string {
	for line := range strings.Lines(text) {
		if _, value, ok := strings.Cut(line, " "+label+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
