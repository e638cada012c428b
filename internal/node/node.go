// SPDX-License-Identifier: Apache-2.0

// Package node brings the daemon to a node of Kubernetes from a pod. Install makes it a
// service of the host's systemd, which outlives every pod; Remove takes it away again.
// Serve runs it within the pod, for hosts without systemd.
//
// The pod has the host's root directory as a volume, and speaks to systemd by its D-Bus
// socket below that. Install and Remove need no capability and none of the host's
// namespaces.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"regexp"
	"strings"
	"time"
)

// Options are the options of Install, Remove and Serve.
type Options struct {
	// Host is the directory where the root directory of the host is mounted.
	Host string
	// Image is the root directory of the image.
	Image string
	// Prefix is the directory on the host for the programs. Nothing else may be in it.
	Prefix string
	// Flags are further flags of `vprocfs serve`, separated by spaces.
	Flags string
	// NRI also installs the NRI plugin.
	NRI bool
	Log *slog.Logger
}

const (
	// jobTimeout is how long systemd may take to start, stop, reload or restart a unit.
	// It is more than the patience of `vprocfs upgrade`.
	jobTimeout = 3 * time.Minute
	// askTimeout is how long systemd may take for all else.
	askTimeout = 30 * time.Second
)

// What the daemon makes on the host: the mount point of the service, and the directory of
// its control socket.
const (
	mountPoint = "var/lib/vprocfs"
	socketDir  = "run/vprocfs"
)

// safe matches what needs no escape in a unit (systemd.syntax(7), systemd.service(5)).
var safe = regexp.MustCompile(`^[A-Za-z0-9_./,:=*@+ -]*$`)

// check returns an error if an option is invalid.
func (o *Options) check() error {
	switch {
	case !safe.MatchString(o.Flags):
		return fmt.Errorf("flags %q: only letters, digits, spaces and _./,:=*@+- may be in them", o.Flags)
	case !path.IsAbs(o.Prefix) || path.Clean(o.Prefix) != o.Prefix || strings.Count(o.Prefix, "/") < 2 ||
		!safe.MatchString(o.Prefix) || strings.Contains(o.Prefix, " "):
		return fmt.Errorf("prefix %q: must be the absolute path of a directory below another one, of letters, digits and _./,:=*@+-", o.Prefix)
	}
	return nil
}

// prefix is Prefix relative to the host's root directory.
func (o *Options) prefix() string { return strings.TrimPrefix(o.Prefix, "/") }

// Install installs or upgrades the service, and waits until it serves. The service of an
// older version is upgraded by `vprocfs upgrade`, which no reader notices. If something
// fails, the files of the old version are put back, and Install returns an error. It does
// nothing on a host without systemd, or with a service of that name that no pod has
// installed.
func Install(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	h, err := openHost(o.Host)
	if err != nil {
		return err
	}
	defer h.close()
	if !h.hasSystemd() {
		o.Log.Info("the host has no systemd: nothing is installed, the container serve of this pod serves")
		return nil
	}
	if other, err := h.foreign(); err != nil || other != "" {
		if err == nil {
			o.Log.Warn("the host has a vprocfs.service that no pod has installed: it is left alone", "unit", other)
		}
		return err
	}
	if err := h.checkPrefix(o.Prefix); err != nil {
		return err
	}
	want, err := o.plan()
	if err != nil {
		return err
	}
	s, err := connect(ctx, o.Host)
	if err != nil {
		return err
	}
	defer s.close()
	before := h.installed(o.prefix())
	if before != want.state {
		// If this pod is killed halfway, the next one does it all again.
		if err := h.remember(o.prefix(), state{NRI: before.NRI, Flags: before.Flags}); err != nil {
			return err
		}
	}
	changed, err := h.write(want.files)
	if err == nil {
		err = s.apply(ctx, want, before, changed)
	}
	if err == nil && before.NRI != "" && !o.NRI {
		err = removeUnit(ctx, h, s, nriUnit, o.prefix()+"/bin/vprocfs-nri")
	}
	if err != nil {
		putErr := putBack(context.WithoutCancel(ctx), h, s, changed)
		if putErr == nil {
			putErr = h.restore(o.prefix(), before)
		}
		return errors.Join(err, putErr)
	}
	if err := h.remember(o.prefix(), want.state); err != nil {
		return err
	}
	o.Log.Info("vprocfs serves as a service of the host", "unit", unit, "program", o.Prefix+"/bin/vprocfs", "changed", names(changed))
	return nil
}

// apply has systemd work with the files of a plan. before is what was installed, changed
// are the files that differed.
func (s *systemd) apply(ctx context.Context, want *plan, before state, changed []change) error {
	if anyUnit(changed) {
		if err := s.daemonReload(ctx); err != nil {
			return err
		}
	}
	if err := s.enable(ctx, want.units()...); err != nil {
		return err
	}
	active, err := s.active(ctx, unit)
	if err != nil {
		return err
	}
	switch {
	case !active:
		err = s.job(ctx, "StartUnit", unit)
	case before.Flags != want.state.Flags:
		// Readers wait for the next daemon: systemd keeps the connection.
		err = s.job(ctx, "RestartUnit", unit)
	case before.Daemon != want.state.Daemon:
		err = s.job(ctx, "ReloadUnit", unit)
	}
	if err != nil {
		return err
	}
	if err := s.wantActive(ctx, unit); err != nil || want.state.NRI == "" {
		return err
	}
	if before.NRI != want.state.NRI {
		err = s.job(ctx, "RestartUnit", nriUnit)
	} else {
		err = s.job(ctx, "StartUnit", nriUnit)
	}
	if err != nil {
		return err
	}
	return s.wantActive(ctx, nriUnit)
}

// putBack undoes changes after a failure. A daemon that has ended meanwhile is started
// with the old files, if there are any.
func putBack(ctx context.Context, h *host, s *systemd, changed []change) error {
	if len(changed) == 0 {
		return nil
	}
	for _, name := range newUnits(changed) {
		if err := errors.Join(s.job(ctx, "StopUnit", name), s.disable(ctx, name)); err != nil {
			return err
		}
	}
	if err := h.undo(changed); err != nil {
		return err
	}
	if anyUnit(changed) {
		if err := s.daemonReload(ctx); err != nil {
			return err
		}
	}
	if !h.exists(unitPath(unit)) {
		return nil
	}
	if active, err := s.active(ctx, unit); err != nil || active {
		return err
	}
	return s.job(ctx, "StartUnit", unit)
}

// Remove stops the service, which takes the files out of all containers, and removes all
// that Install has installed. It does nothing if that is nothing.
func Remove(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	h, err := openHost(o.Host)
	if err != nil {
		return err
	}
	defer h.close()
	other, err := h.foreign()
	if err != nil {
		return err
	}
	if other != "" || !h.exists(unitPath(unit)) && !h.exists(o.prefix()+"/"+stateName) {
		o.Log.Info("no pod has installed anything on this host: nothing is removed")
		return nil
	}
	if err := h.checkPrefix(o.Prefix); err != nil {
		return err
	}
	s, err := connect(ctx, o.Host)
	if err != nil {
		return err
	}
	defer s.close()
	for _, u := range []string{nriUnit, unit} { // the daemon last
		if err := removeUnit(ctx, h, s, u, ""); err != nil {
			return err
		}
	}
	if err := h.root.RemoveAll(o.prefix()); err != nil {
		return err
	}
	for _, dir := range []string{mountPoint, socketDir} {
		if err := h.removeEmpty(dir); err != nil {
			return err
		}
	}
	o.Log.Info("vprocfs is removed from the host")
	return nil
}

// removeUnit stops and disables a unit, and removes its file and, if it is not empty, its
// program.
func removeUnit(ctx context.Context, h *host, s *systemd, name, program string) error {
	if h.exists(unitPath(name)) {
		if err := s.job(ctx, "StopUnit", name); err != nil {
			return err
		}
		s.clean(ctx, name)
		if err := s.disable(ctx, name); err != nil {
			return err
		}
	}
	for _, p := range []string{unitPath(name), dropIn(name), program} {
		if p == "" {
			continue
		}
		if err := h.remove(p); err != nil {
			return err
		}
	}
	if err := h.removeEmpty(path.Dir(dropIn(name))); err != nil {
		return err
	}
	if err := s.daemonReload(ctx); err != nil {
		return err
	}
	s.resetFailed(ctx, name)
	return nil
}
