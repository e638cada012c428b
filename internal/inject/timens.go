// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// annotationOffsets marks a config.json whose time namespace is of this package, so
// that the next run of the bundle gets new offsets.
const annotationOffsets = "vprocfs.io/time-offsets"

// timeNamespace is the type of a time namespace in linux.namespaces.
const timeNamespace = "time"

// clockOffset is a member of linux.timeOffsets (OCI runtime specification 1.1,
// config-linux.md): what is added to a clock of the host.
type clockOffset struct {
	Seconds     int64  `json:"secs"`
	Nanoseconds uint32 `json:"nanosecs"`
}

// ociNamespace is what is used of an element of linux.namespaces.
type ociNamespace struct {
	Type string `json:"type"`
	Path string `json:"path,omitempty"`
}

// addTimeNamespace adds a time namespace to the config.json of the bundle, if the
// runtime and the kernel can make one.
func addTimeNamespace(ctx context.Context, real string, c commandLine) error {
	var unsupported error
	err := editConfig(c, func(config object) error {
		if err := config.addTimeNamespace(clocks, "/proc"); err != nil {
			return err
		}
		if unsupported = timeNamespaces(ctx, real); unsupported != nil {
			return errUnchanged
		}
		return nil
	})
	if unsupported != nil {
		// Another runtime may have run the bundle before.
		err = editConfig(c, object.removeTimeNamespace)
	}
	return cmp.Or(err, unsupported)
}

// clocks returns CLOCK_BOOTTIME and CLOCK_MONOTONIC.
func clocks() (boot, monotonic time.Duration, err error) {
	for _, c := range []struct {
		id int32
		to *time.Duration
	}{{unix.CLOCK_BOOTTIME, &boot}, {unix.CLOCK_MONOTONIC, &monotonic}} {
		var ts unix.Timespec
		if err := unix.ClockGettime(c.id, &ts); err != nil {
			return 0, 0, fmt.Errorf("clock_gettime: %w", err)
		}
		*c.to = time.Duration(ts.Nano())
	}
	return boot, monotonic, nil
}

// pidNamespacePath is the path by which engines name the pid namespace of another
// container.
var pidNamespacePath = regexp.MustCompile(`^/proc/([0-9]+)/ns/pid$`)

// addTimeNamespace adds a time namespace in which the clocks begin with the container,
// or the time namespace of the container whose pid namespace this one shares. It leaves
// configs alone that have one, that have the pid namespace of the host, or that want no
// view.
func (o object) addTimeNamespace(clocks func() (boot, monotonic time.Duration, err error), proc string) error {
	var notes map[string]string
	if err := o.get("annotations", &notes); err != nil {
		return err
	}
	if notes[AnnotationView] == "off" {
		return errUnchanged
	}
	if err := o.removeTimeNamespace(); err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	linux, namespaces, err := o.linux()
	if err != nil {
		return err
	}
	pid := slices.IndexFunc(namespaces, func(text json.RawMessage) bool { return decoded(text).Type == "pid" })
	has := slices.ContainsFunc(namespaces, func(text json.RawMessage) bool { return decoded(text).Type == timeNamespace })
	if _, offsets := linux["timeOffsets"]; pid < 0 || has || offsets {
		return errUnchanged
	}
	added := ociNamespace{Type: timeNamespace}
	if path := decoded(namespaces[pid]).Path; path != "" {
		if added.Path = timeNamespaceOf(path, proc); added.Path == "" {
			return errUnchanged
		}
	} else {
		boot, monotonic, err := clocks()
		if err != nil {
			return err
		}
		if err := o.addOffsets(linux, boot, monotonic); err != nil {
			return err
		}
	}
	text, err := json.Marshal(added)
	if err != nil {
		return err
	}
	if err := linux.set("namespaces", append(namespaces, text)); err != nil {
		return err
	}
	return o.set("linux", linux)
}

// addOffsets adds the offsets by which the clocks, which show boot and monotonic now,
// begin now.
func (o object) addOffsets(linux object, boot, monotonic time.Duration) error {
	// Whole seconds, as btime of /proc/stat is: it stays exact.
	if err := linux.set("timeOffsets", map[string]clockOffset{
		"boottime":  {Seconds: -int64(boot / time.Second)},
		"monotonic": {Seconds: -int64(monotonic / time.Second)},
	}); err != nil {
		return err
	}
	annotations, err := o.child("annotations")
	if err != nil {
		return err
	}
	return cmp.Or(annotations.set(annotationOffsets, "vprocfs"), o.set("annotations", annotations))
}

// removeTimeNamespace removes what addTimeNamespace has added. It returns errUnchanged
// if that is nothing.
func (o object) removeTimeNamespace() error {
	annotations, err := o.child("annotations")
	if err != nil {
		return err
	}
	if _, ok := annotations[annotationOffsets]; !ok {
		return errUnchanged
	}
	linux, namespaces, err := o.linux()
	if err != nil {
		return err
	}
	namespaces = slices.DeleteFunc(namespaces, func(text json.RawMessage) bool { return decoded(text).Type == timeNamespace })
	delete(linux, "timeOffsets")
	delete(annotations, annotationOffsets)
	return cmp.Or(linux.set("namespaces", namespaces), o.set("linux", linux), o.set("annotations", annotations))
}

// linux returns the members linux and linux.namespaces.
func (o object) linux() (linux object, namespaces []json.RawMessage, err error) {
	if linux, err = o.child("linux"); err != nil {
		return nil, nil, err
	}
	if err := linux.get("namespaces", &namespaces); err != nil {
		return nil, nil, fmt.Errorf("linux.%w", err)
	}
	return linux, namespaces, nil
}

// decoded returns an element of linux.namespaces; its zero value if it is none.
func decoded(text json.RawMessage) (n ociNamespace) {
	_ = json.Unmarshal(text, &n) // the runtime says what is wrong with it
	return n
}

// timeNamespaceOf returns the path of the time namespace of the process whose pid
// namespace is at path; nothing if it is that of this process or cannot be found.
func timeNamespaceOf(path, proc string) string {
	m := pidNamespacePath.FindStringSubmatch(path)
	if m == nil {
		return ""
	}
	own, err1 := os.Readlink(proc + "/self/ns/time")
	theirs, err2 := os.Readlink(filepath.Join(proc, m[1], "ns/time"))
	if err1 != nil || err2 != nil || own == theirs {
		return ""
	}
	return "/proc/" + m[1] + "/ns/time"
}

// timeNamespaces returns an error if the kernel or the runtime at path real cannot give a
// container a time namespace.
func timeNamespaces(ctx context.Context, real string) error {
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		return errors.New("the kernel has no time namespaces (Linux 5.6 with CONFIG_TIME_NS has them)")
	}
	if !canSetOffsets() {
		return errors.New("CAP_SYS_TIME is missing")
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, real, "features").Output()
	var f features
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil || !f.timeNamespaces() {
		return fmt.Errorf("%s has no time namespaces (runc 1.2 and crun 1.21 have them)", real)
	}
	return nil
}

// features is what is used of the output of `features` (OCI runtime specification,
// features.md).
type features struct {
	Linux struct {
		Namespaces []string `json:"namespaces"`
	} `json:"linux"`
	Annotations struct {
		Crun string `json:"run.oci.crun.version"`
	} `json:"annotations"`
}

// timeNamespaces reports whether a container can have a time namespace. crun does not list
// it. Version 1.21 was seen to make it; in 1.8.1 the init of a container with a pid
// namespace too is killed.
func (f *features) timeNamespaces() bool {
	var major, minor int
	_, err := fmt.Sscanf(f.Annotations.Crun, "%d.%d", &major, &minor)
	return slices.Contains(f.Linux.Namespaces, timeNamespace) || err == nil && (major > 1 || major == 1 && minor >= 21)
}

// canSetOffsets reports whether this process has CAP_SYS_TIME, as the runtime needs to
// write the offsets of a time namespace (time_namespaces(7)).
func canSetOffsets() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) == nil && sets[0].Effective&(1<<unix.CAP_SYS_TIME) != 0
}

// firstTime reports whether no wrapper has told of err since the host started. Each
// command of a runtime is a process of its own, so a file remembers it.
func firstTime(err error) bool {
	dir := "/run"
	if os.Geteuid() != 0 {
		dir = os.Getenv("XDG_RUNTIME_DIR")
	}
	return firstTimeIn(dir, err)
}

func firstTimeIn(dir string, err error) bool {
	name := filepath.Join(dir, "vprocfs-timens")
	if told, readErr := os.ReadFile(name); readErr == nil && string(told) == err.Error() {
		return false
	}
	_ = os.WriteFile(name, []byte(err.Error()), 0o600) // without it the line comes again
	return true
}
