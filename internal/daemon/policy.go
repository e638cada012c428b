// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"log/slog"
	"os"

	"vprocfs/procvirt"
)

// PolicyTarget says whose policy is meant: that of the container of process PID, as a
// daemon with the same View finds it, or of the containers in the control group with
// the directory Cgroup.
type PolicyTarget struct {
	PID    int
	Cgroup string
	View   ViewOptions
}

// PolicyWord is a word of a policy, and where it is.
type PolicyWord = procvirt.PolicyWord

// SetPolicy sets words, each KEY=VALUE, in a policy. They hold from the next content on,
// and as long as the control group lives.
func SetPolicy(t PolicyTarget, words []string) error {
	return withPolicy(t, func(r *procvirt.Registry, dirs []string) error { return r.SetPolicy(dirs[0], words) })
}

// UnsetPolicy removes the words with the given keys from a policy, and all if there are
// none. Those of control groups above still hold.
func UnsetPolicy(t PolicyTarget, keys []string) error {
	return withPolicy(t, func(r *procvirt.Registry, dirs []string) error { return r.UnsetPolicy(dirs[0], keys) })
}

// Policy returns the words that hold, and those that are not known to this version.
func Policy(t PolicyTarget) (words []PolicyWord, unknown []string, err error) {
	err = withPolicy(t, func(r *procvirt.Registry, dirs []string) (err error) {
		words, unknown, err = r.Policy(dirs)
		return err
	})
	return words, unknown, err
}

// withPolicy calls do with the directories that have the policy, nearest first.
func withPolicy(t PolicyTarget, do func(*procvirt.Registry, []string) error) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	src, err := newSource(t.View, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer src.Close()
	var dirs []string
	if t.Cgroup != "" {
		dirs, err = src.registry.PolicyDirsOf(t.Cgroup)
	} else if dirs, err = src.registry.PolicyDirs(t.PID); err != nil {
		err = fmt.Errorf("pid %d: %w", t.PID, err)
	}
	if err != nil {
		return err
	}
	return do(src.registry, dirs)
}
