// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vprocfs/internal/attach"
)

// RuntimeOptions are the options of Runtime.
type RuntimeOptions struct {
	Dir     string // mount point of the daemon
	Runtime string // the real runtime, a path or a name; empty: the first of Runtimes found
	Hook    string // path of this program, for the hook of `run`; empty: its own
	// TimeNamespace gives each container a time namespace whose clocks begin with it.
	TimeNamespace bool
}

// Runtimes are the real runtimes that are looked for, in this order.
var Runtimes = []string{"runc", "crun"}

// globalValues are the global options of runc 1.1 to 1.4 and crun 1.8 to 1.25 that take
// a value in the next argument.
var globalValues = []string{"--root", "--log", "--log-format", "--criu", "--rootless", "--cgroup-manager"}

// commandLine is the command line of an OCI runtime.
type commandLine struct {
	global []string // before the command
	name   string   // the command; empty if there is none
	args   []string // after the command
}

// splitCommandLine finds the command in the arguments of a runtime.
func splitCommandLine(args []string) commandLine {
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains(globalValues, args[i]):
			i++
		case !strings.HasPrefix(args[i], "-"):
			return commandLine{args[:i:i], args[i], args[i+1:]}
		}
	}
	return commandLine{global: args}
}

// id returns the id of the container, which is the last argument of start and run.
func (c commandLine) id() string {
	if len(c.args) == 0 || strings.HasPrefix(c.args[len(c.args)-1], "-") {
		return ""
	}
	return c.args[len(c.args)-1]
}

// option returns the value of an option of the command, in any of the forms that runc
// and crun take.
func (c commandLine) option(long, short string) string {
	for i, a := range c.args {
		for _, name := range []string{"--" + long, "-" + long, "-" + short} {
			if v, ok := strings.CutPrefix(a, name+"="); ok {
				return v
			}
			if a == name && i+1 < len(c.args) {
				return c.args[i+1]
			}
		}
	}
	return ""
}

// Runtime executes the real OCI runtime with args in place of this process. Before
// `start` it attaches the files of the daemon to the container that waits for it, and
// before `run` it adds the hook to the container's config.json. Before `create` and
// `run` it adds the time namespace, and the seccomp listener if the daemon answers system
// calls. It returns only if the real runtime cannot be
// executed. What fails with the view is a line for warn.
func Runtime(ctx context.Context, o RuntimeOptions, args []string, warn io.Writer) error {
	real, err := findRuntime(o.Runtime)
	if err != nil {
		return err
	}
	c := splitCommandLine(args)
	if o.TimeNamespace && (c.name == "create" || c.name == "run") {
		if err := addTimeNamespace(ctx, real, c); err != nil && firstTime(err) {
			warnOf(warn, "runtime: the container starts with the clocks of the host: %v", err)
		}
	}
	if c.name == "create" || c.name == "run" {
		if err := addListener(ctx, real, c, o.Dir); err != nil {
			warnOf(warn, "runtime: the container's system calls are answered by the kernel: %v", err)
		}
	}
	switch c.name {
	case "start":
		err = beforeStart(ctx, real, c, o.Dir)
	case "run":
		err = addHook(c, o)
	}
	if err != nil {
		warnOf(warn, "runtime: the container starts with the kernel's files: %v", err)
	}
	return fmt.Errorf("execute %s: %w", real, unix.Exec(real, append([]string{real}, args...), os.Environ()))
}

// warnOf writes a warning of one line to w and to the system log.
func warnOf(w io.Writer, format string, err error) {
	warning := strings.ReplaceAll(fmt.Sprintf(format, err), "\n", "; ")
	fmt.Fprintln(w, "vprocfs: "+warning)
	Log(warning)
}

// findRuntime returns the path of the real runtime. It never returns this program, which
// may be installed under the name of a runtime.
func findRuntime(name string) (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	names := Runtimes
	if name != "" {
		names = []string{name}
	}
	for _, n := range names {
		path, err := exec.LookPath(n)
		if err != nil {
			continue
		}
		if found, err := os.Stat(path); err == nil && !os.SameFile(self, found) {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("no OCI runtime found: neither %s", strings.Join(names, " nor "))
}

// beforeStart attaches the files to the container that `create` has made.
func beforeStart(ctx context.Context, real string, c commandLine, dir string) error {
	id := c.id()
	if id == "" {
		return errors.New("start has no container id")
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, real, slices.Concat(withoutLog(c.global), []string{"state", id})...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s state %s: %w: %s", real, id, err, bytes.TrimSpace(stderr.Bytes()))
	}
	var s state
	if err := json.Unmarshal(out, &s); err != nil {
		return fmt.Errorf("%s state %s: %w", real, id, err)
	}
	if s.Annotations[AnnotationView] == "off" {
		return nil
	}
	if s.PID <= 0 {
		return fmt.Errorf("%s state %s: no pid", real, id)
	}
	return attachAll(ctx, s.PID, attach.Options{Dir: dir, Timeout: attachTime})
}

// withoutLog removes --log and its value from global options: what `state` says is not
// for the log of the container.
func withoutLog(global []string) (kept []string) {
	for i := 0; i < len(global); i++ {
		switch {
		case global[i] == "--log":
			i++
		case !strings.HasPrefix(global[i], "--log="):
			kept = append(kept, global[i])
		}
	}
	return kept
}
