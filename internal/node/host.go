// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stateName is the name of the file below the prefix that has the state. It is written
// when everything else is done.
const stateName = "installed.json"

// host is the file system of the host. No symbolic link leads out of it.
type host struct{ root *os.Root }

func openHost(dir string) (*host, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &host{root}, nil
}

func (h *host) close() { h.root.Close() }

func (h *host) exists(path string) bool {
	_, err := h.root.Lstat(path)
	return err == nil
}

// hasSystemd reports whether PID 1 of the host is systemd (sd_booted(3)).
func (h *host) hasSystemd() bool { return h.exists("run/systemd/system") }

// foreign returns the path of the unit of the daemon that something other than Install has
// put on the host, such as a package; empty if there is none.
func (h *host) foreign() (string, error) {
	for _, dir := range []string{unitDir, "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		name := dir + "/" + unit
		fi, err := h.root.Lstat(name)
		if err != nil {
			continue // most hosts lack some of them
		}
		if fi.Mode().IsRegular() && dir == unitDir {
			text, err := h.root.ReadFile(name)
			if err != nil {
				return "", err
			}
			if strings.HasPrefix(string(text), mark) {
				continue
			}
		}
		return "/" + name, nil
	}
	return "", nil
}

// checkPrefix returns an error if the service is installed with its programs elsewhere. An
// upgrade would go on with the program there.
func (h *host) checkPrefix(prefix string) error {
	text, err := h.root.ReadFile(unitPath(unit))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, line, _ := strings.Cut(string(text), "\nExecStart=")
	there, _, _ := strings.Cut(line, "/bin/vprocfs ")
	if there != prefix {
		return fmt.Errorf("vprocfs is installed at %s: remove it before you install it at %s", there, prefix)
	}
	return nil
}

// installed returns the state that remember has written; the zero value if there is none.
func (h *host) installed(prefix string) (s state) {
	text, err := h.root.ReadFile(prefix + "/" + stateName)
	if err != nil || json.Unmarshal(text, &s) != nil {
		return state{}
	}
	return s
}

func (h *host) remember(prefix string, s state) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return h.replace(file{prefix + "/" + stateName, 0o644, append(text, '\n')})
}

// restore makes the state what it was: if there was none, nothing of the prefix is left.
func (h *host) restore(prefix string, s state) error {
	if s != (state{}) {
		return h.remember(prefix, s)
	}
	return h.root.RemoveAll(prefix)
}

// change is a file that was changed, as it was before.
type change struct{ before file }

// write makes the files as they should be. It returns those that it has changed, also with
// an error.
func (h *host) write(files []file) (changed []change, err error) {
	for _, f := range files {
		old := file{path: f.path, mode: f.mode}
		text, err := h.root.ReadFile(f.path)
		switch {
		case err == nil:
			old.text = text
		case !errors.Is(err, os.ErrNotExist):
			return changed, err
		}
		if (old.text == nil) == (f.text == nil) && bytes.Equal(old.text, f.text) {
			continue
		}
		changed = append(changed, change{old})
		if err := h.put(f); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// undo makes the files as they were.
func (h *host) undo(changed []change) (err error) {
	for _, c := range slices.Backward(changed) {
		err = errors.Join(err, h.put(c.before))
	}
	return err
}

// put writes or removes a file.
func (h *host) put(f file) error {
	if f.text == nil {
		return h.remove(f.path)
	}
	return h.replace(f)
}

// replace writes a file in one step: a program that runs is not changed.
func (h *host) replace(f file) error {
	if err := h.root.MkdirAll(path.Dir(f.path), 0o755); err != nil {
		return fmt.Errorf("directory of /%s: %w", f.path, err)
	}
	name := f.path + ".new"
	if err := h.remove(name); err != nil { // one that was killed has left it
		return err
	}
	out, err := h.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if err != nil {
		return err
	}
	_, err = out.Write(f.text)
	err = errors.Join(err, out.Chmod(f.mode), out.Sync(), out.Close()) // whatever the umask is
	if err == nil {
		err = h.root.Rename(name, f.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write /%s: %w", f.path, err), h.remove(name))
	}
	return nil
}

// remove removes a file if it is there.
func (h *host) remove(path string) error {
	if err := h.root.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeEmpty removes a directory if it is there and empty.
func (h *host) removeEmpty(path string) error {
	if err := h.remove(path); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// anyUnit reports whether the file of a unit is among the changes.
func anyUnit(changed []change) bool {
	return slices.ContainsFunc(changed, func(c change) bool { return strings.HasPrefix(c.before.path, unitDir+"/") })
}

// newUnits returns the names of the units that were not there before the changes.
func newUnits(changed []change) (names []string) {
	for _, c := range changed {
		if dir, name := path.Split(c.before.path); dir == unitDir+"/" && c.before.text == nil {
			names = append(names, name)
		}
	}
	return names
}

// names returns the paths of the changes, for the log.
func names(changed []change) string {
	var list []string
	for _, c := range changed {
		list = append(list, "/"+c.before.path)
	}
	return strings.Join(list, " ")
}
