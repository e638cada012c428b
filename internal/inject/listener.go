// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"vprocfs/internal/control"
	"vprocfs/internal/seccomp"
)

// annotationCalls marks a config.json that has a listener of this package: callsAdded if it
// had a seccomp policy before, callsMade if not.
const (
	annotationCalls = "vprocfs.io/syscalls"
	callsAdded      = "added"
	callsMade       = "made"
)

// answeredCalls are the system calls that the daemon answers.
func answeredCalls() []string {
	return []string{"sysinfo", "sched_getaffinity", "sched_setaffinity"}
}

// Actions of a seccomp policy (OCI runtime specification, config-linux.md).
const (
	actNotify = "SCMP_ACT_NOTIFY"
	actAllow  = "SCMP_ACT_ALLOW"
)

// flagWaitKillable keeps signals from interrupting a call that was received (Linux 5.19).
const flagWaitKillable = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"

// ociCalls is what is used of an element of linux.seccomp.syscalls.
type ociCalls struct {
	Names  []string        `json:"names"`
	Action string          `json:"action"`
	Args   json.RawMessage `json:"args,omitempty"`
}

// addListener has the daemon at dir answer system calls of the container in the config.json
// of the bundle, if that answers any and the runtime can hand them over. What a former run
// of the bundle has added is removed otherwise: without a socket that answers, no container
// starts.
func addListener(ctx context.Context, real string, c commandLine, dir string) error {
	socket, err := callSocket(dir)
	listens := err == nil && seccomp.Listens(socket) == nil
	var unsupported error
	err = editConfig(c, func(config object) error {
		removed := config.removeListener()
		if removed != nil && !errors.Is(removed, errUnchanged) || !listens {
			return removed
		}
		f, err := listenerFeatures(ctx, real)
		if err != nil {
			unsupported = err
			return removed
		}
		if err := config.addListener(socket, f); !errors.Is(err, errUnchanged) {
			return err
		}
		return removed
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil // the runtime says so
	}
	return errors.Join(err, unsupported)
}

// callSocket returns the socket of the daemon at dir.
func callSocket(dir string) (string, error) {
	// Without a request to the file system that is mounted there.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), b)
	if err != nil {
		return "", err
	}
	return control.SeccompPath(string(b[:n])), nil
}

// addListener adds a listener for the calls that the policy allows. It returns errUnchanged
// for a container that has a listener, or that wants no view.
func (o object) addListener(socket string, f *seccompFeatures) error {
	var notes map[string]string
	if err := o.get("annotations", &notes); err != nil {
		return err
	}
	if notes[AnnotationView] == "off" {
		return errUnchanged
	}
	linux, err := o.child("linux")
	if err != nil {
		return err
	}
	had := callsAdded
	var policy object
	if text, ok := linux["seccomp"]; !ok || bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
		had = callsMade
		policy = object{}
		if err := errors.Join(policy.set("defaultAction", actAllow), policy.set("architectures", architectures())); err != nil {
			return err
		}
	} else if policy, err = linux.child("seccomp"); err != nil {
		return err
	}
	if _, ok := policy["listenerPath"]; ok {
		return errUnchanged
	}
	var rules []json.RawMessage
	if err := policy.get("syscalls", &rules); err != nil {
		return fmt.Errorf("linux.seccomp.%w", err)
	}
	names, err := policy.allowed(rules)
	if err != nil || len(names) == 0 {
		return errors.Join(err, errUnchanged)
	}
	rule, err := json.Marshal(ociCalls{Names: names, Action: actNotify})
	if err != nil {
		return err
	}
	// The first rule of a call counts.
	if err := errors.Join(policy.set("syscalls", slices.Insert(rules, 0, rule)), policy.set("listenerPath", socket)); err != nil {
		return err
	}
	var flags []string
	if err := policy.get("flags", &flags); err != nil {
		return fmt.Errorf("linux.seccomp.%w", err)
	}
	if slices.Contains(f.Flags, flagWaitKillable) && !slices.Contains(flags, flagWaitKillable) {
		if err := policy.set("flags", append(flags, flagWaitKillable)); err != nil {
			return err
		}
	}
	annotations, err := o.child("annotations")
	if err != nil {
		return err
	}
	return errors.Join(linux.set("seccomp", policy), o.set("linux", linux), annotations.set(annotationCalls, had), o.set("annotations", annotations))
}

// architectures are those whose programs run here: the others would be killed.
func architectures() []string {
	if runtime.GOARCH == "arm64" {
		return []string{"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"}
	}
	return []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}
}

// allowed returns those of answeredCalls that a policy allows, whatever their arguments are.
// The daemon lets the kernel carry out calls, so that one that is forbidden must stay so.
func (o object) allowed(rules []json.RawMessage) (names []string, err error) {
	var byDefault string
	if err := o.get("defaultAction", &byDefault); err != nil {
		return nil, fmt.Errorf("linux.seccomp.%w", err)
	}
	actions := make(map[string]string)
	for _, text := range rules {
		var r ociCalls
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("linux.seccomp.syscalls: %w", err)
		}
		action := r.Action
		if args := bytes.TrimSpace(r.Args); len(args) > 0 && !slices.Contains([]string{"null", "[]"}, string(args)) {
			action = "some" // depends on the arguments
		}
		for _, name := range r.Names {
			if old, ok := actions[name]; ok && old != action {
				action = "some"
			}
			actions[name] = action
		}
	}
	for _, name := range answeredCalls() {
		action, ok := actions[name]
		if !ok {
			action = byDefault
		}
		if action == actAllow {
			names = append(names, name)
		}
	}
	return names, nil
}

// removeListener removes what addListener has added. It returns errUnchanged if that is
// nothing.
func (o object) removeListener() error {
	annotations, err := o.child("annotations")
	if err != nil {
		return err
	}
	var had string
	if err := annotations.get(annotationCalls, &had); err != nil {
		return err
	}
	if had == "" {
		return errUnchanged
	}
	delete(annotations, annotationCalls)
	linux, err := o.child("linux")
	if err != nil {
		return err
	}
	if had == callsMade {
		delete(linux, "seccomp")
		return errors.Join(o.set("linux", linux), o.set("annotations", annotations))
	}
	policy, err := linux.child("seccomp")
	if err != nil {
		return err
	}
	var rules []json.RawMessage
	if err := policy.get("syscalls", &rules); err != nil {
		return fmt.Errorf("linux.seccomp.%w", err)
	}
	// No other rule may notify: there was no listener.
	rules = slices.DeleteFunc(rules, func(text json.RawMessage) bool {
		var r ociCalls
		return json.Unmarshal(text, &r) == nil && r.Action == actNotify
	})
	delete(policy, "listenerPath")
	return errors.Join(policy.set("syscalls", rules), linux.set("seccomp", policy), o.set("linux", linux), o.set("annotations", annotations))
}

// seccompFeatures is what is used of linux.seccomp in the output of `features`.
type seccompFeatures struct {
	Actions []string `json:"actions"`
	Flags   []string `json:"supportedFlags"`
}

// listenerFeatures returns what the runtime at path real can do with seccomp, or an error if
// it cannot hand over a listener.
func listenerFeatures(ctx context.Context, real string) (*seccompFeatures, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, real, "features").Output()
	var f struct {
		Linux struct {
			Seccomp seccompFeatures `json:"seccomp"`
		} `json:"linux"`
	}
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil && oldCrun(ctx, real) {
		return &seccompFeatures{}, nil
	}
	if err != nil || !slices.Contains(f.Linux.Seccomp.Actions, actNotify) {
		return nil, fmt.Errorf("%s cannot hand over system calls (runc 1.1 and crun 1.0 can)", real)
	}
	return &f.Linux.Seccomp, nil
}

// oldCrun reports whether real is a crun from 1.0 on, which has listeners. `features` came
// later.
func oldCrun(ctx context.Context, real string) bool {
	out, err := exec.CommandContext(ctx, real, "--version").Output()
	var major int
	if err != nil {
		return false
	}
	_, err = fmt.Sscanf(string(out), "crun version %d.", &major)
	return err == nil && major >= 1 && bytes.Contains(out, []byte("+SECCOMP"))
}
