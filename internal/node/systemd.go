// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/godbus/dbus/v5"
)

// Names of org.freedesktop.systemd1(5).
const (
	systemdName   = "org.freedesktop.systemd1"
	managerPath   = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerName   = systemdName + ".Manager"
	unitInterface = systemdName + ".Unit"
	jobRemoved    = managerName + ".JobRemoved"
)

// systemd is a connection to the systemd of the host. It does one job at a time.
type systemd struct {
	conn    *dbus.Conn
	signals chan *dbus.Signal
}

// connect connects by systemd's own socket, or by that of the system's bus, whose
// AppArmor rules may not let a container through.
func connect(ctx context.Context, host string) (*systemd, error) {
	s, err := dial(ctx, filepath.Join(host, "run/systemd/private"), false)
	if err == nil {
		return s, nil
	}
	s, busErr := dial(ctx, filepath.Join(host, "run/dbus/system_bus_socket"), true)
	if busErr != nil {
		return nil, fmt.Errorf("connect to systemd: %w", errors.Join(err, busErr))
	}
	return s, nil
}

// dial connects to a socket, behind which is a bus or systemd itself.
func dial(ctx context.Context, path string, bus bool) (*systemd, error) {
	// With the context of its caller it would end with that, and nothing could be put back.
	conn, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(path), dbus.WithContext(context.WithoutCancel(ctx)))
	if err != nil {
		return nil, err
	}
	s := &systemd{conn, make(chan *dbus.Signal, 64)}
	conn.Signal(s.signals)
	// By number, which needs no user database.
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err == nil && bus {
		if err = conn.Hello(); err == nil {
			err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(managerName), dbus.WithMatchMember("JobRemoved"))
		}
		if err == nil {
			err = s.call(ctx, "Subscribe").Err
		}
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// close closes the connection.
func (s *systemd) close() {
	_ = s.conn.Close() // nothing is left to send
}

// call calls a method of the manager.
func (s *systemd) call(ctx context.Context, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := s.conn.Object(systemdName, managerPath).CallWithContext(ctx, managerName+"."+method, 0, args...)
	if c.Err != nil {
		c.Err = fmt.Errorf("systemd: %s: %w", method, c.Err)
	}
	return c
}

// job calls a method that makes a job for a unit, and waits until the job has succeeded.
func (s *systemd) job(ctx context.Context, method, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	var job dbus.ObjectPath
	if err := s.call(ctx, method, unit, "replace").Store(&job); err != nil {
		return fmt.Errorf("%s: %w", unit, err)
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("systemd: %s of %s: %w", method, unit, ctx.Err())
		case signal, ok := <-s.signals:
			if !ok {
				return fmt.Errorf("systemd: %s of %s: the connection has ended", method, unit)
			}
			if signal.Name != jobRemoved {
				continue
			}
			var (
				id           uint32
				path         dbus.ObjectPath
				name, result string
			)
			if err := dbus.Store(signal.Body, &id, &path, &name, &result); err != nil || path != job {
				continue // another's job
			}
			if result != "done" {
				return fmt.Errorf("systemd: %s of %s: %s; see journalctl -u %s on the host", method, unit, result, unit)
			}
			return nil
		}
	}
}

func (s *systemd) daemonReload(ctx context.Context) error { return s.call(ctx, "Reload").Err }

// enable has units start at boot.
func (s *systemd) enable(ctx context.Context, units ...string) error {
	return s.call(ctx, "EnableUnitFiles", units, false, false).Err // until it is disabled, and nothing is overwritten
}

func (s *systemd) disable(ctx context.Context, unit string) error {
	return s.call(ctx, "DisableUnitFiles", []string{unit}, false).Err
}

// clean has systemd close the descriptors that it keeps of a unit that has ended. Before
// systemd 254 it keeps none then, and says that it does not know the word.
func (s *systemd) clean(ctx context.Context, unit string) {
	s.call(ctx, "CleanUnit", unit, []string{"fdstore"})
}

// resetFailed makes systemd forget that a unit has failed, which is an error if it has not.
func (s *systemd) resetFailed(ctx context.Context, unit string) { s.call(ctx, "ResetFailedUnit", unit) }

// active reports whether a unit runs.
func (s *systemd) active(ctx context.Context, unit string) (bool, error) {
	state, err := s.property(ctx, unit, "ActiveState")
	return state == "active" || state == "reloading", err
}

// wantActive returns an error if a unit does not run, as when a condition of it is not met.
func (s *systemd) wantActive(ctx context.Context, unit string) error {
	state, err := s.property(ctx, unit, "ActiveState")
	if err != nil || state == "active" || state == "reloading" {
		return err
	}
	return fmt.Errorf("%s is %s after its start: see systemctl status %s on the host", unit, state, unit)
}

// property returns a property of a unit that is a text.
func (s *systemd) property(ctx context.Context, unit, name string) (string, error) {
	var path dbus.ObjectPath
	if err := s.call(ctx, "LoadUnit", unit).Store(&path); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var v dbus.Variant
	err := s.conn.Object(systemdName, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, unitInterface, name).Store(&v)
	if err != nil {
		return "", fmt.Errorf("systemd: %s of %s: %w", name, unit, err)
	}
	text, ok := v.Value().(string)
	if !ok {
		return "", fmt.Errorf("systemd: %s of %s is no text", name, unit)
	}
	return text, nil
}
