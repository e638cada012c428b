// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vprocfs/procvirt/cgroup"
)

// setLimits writes the limits that hierarchy h has controllers for to cgroup dir, a
// child of parent, and adds these controllers to set.
func setLimits(h *hierarchy, parent, dir string, l Limits, set map[string]bool) error {
	has := h.has
	if h.v2 {
		controllers, err := words(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		has = func(name string) bool { return slices.Contains(controllers, name) }
	}
	if h.has("cpuset") {
		// A v1 cpuset accepts no process until both are set (cpuset(7)).
		if err := copyFiles(parent, dir, "cpuset.cpus", "cpuset.mems"); err != nil {
			return err
		}
	}
	if l.Memory != 0 && has("memory") {
		file := "memory.limit_in_bytes"
		if h.v2 {
			file = "memory.max"
		}
		if err := writeFile(filepath.Join(dir, file), l.Memory.String()); err != nil {
			return err
		}
		set["memory"] = true
	}
	if l.CPUs != 0 && has("cpu") {
		if err := setQuota(h, dir, l.CPUs.quota()); err != nil {
			return err
		}
		set["cpu"] = true
	}
	if l.CPUSet.text != "" && has("cpuset") {
		if err := setCPUs(h, parent, dir, &l.CPUSet); err != nil {
			return err
		}
		set["cpuset"] = true
	}
	return nil
}

// setQuota sets the CPU quota of the cgroup, in microseconds per cpuPeriod.
func setQuota(h *hierarchy, dir string, quota int) error {
	period := strconv.Itoa(cpuPeriod)
	if h.v2 {
		return writeFile(filepath.Join(dir, "cpu.max"), strconv.Itoa(quota)+" "+period)
	}
	if err := writeFile(filepath.Join(dir, "cpu.cfs_period_us"), period); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "cpu.cfs_quota_us"), strconv.Itoa(quota))
}

// setCPUs limits the cgroup to cpus. It returns an error if the parent does not have
// all of them: a v2 kernel would accept the others silently and use those of the
// parent.
func setCPUs(h *hierarchy, parent, dir string, cpus *CPUList) error {
	file := "cpuset.effective_cpus" // v1
	if h.v2 {
		file = "cpuset.cpus.effective"
	}
	b, err := os.ReadFile(filepath.Join(parent, file))
	if err != nil {
		return err
	}
	text := bytes.TrimSpace(b)
	var given cgroup.CPUs
	if err := given.Parse(text); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(parent, file), err)
	}
	for cpu := cpus.cpus.Next(0); cpu >= 0; cpu = cpus.cpus.Next(cpu + 1) {
		if !given.Has(cpu) {
			return fmt.Errorf("cpuset %s: CPU %d is not among those of %s: %s", cpus, cpu, parent, text)
		}
	}
	return writeFile(filepath.Join(dir, "cpuset.cpus"), cpus.String())
}

// copyFiles copies the content of files of one cgroup to another.
func copyFiles(from, to string, names ...string) error {
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(to, name), strings.TrimSpace(string(b))); err != nil {
			return err
		}
	}
	return nil
}
