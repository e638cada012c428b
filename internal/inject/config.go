// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// object is an object of a config.json (OCI runtime specification, config.md). Members
// that this program does not know stay as they are.
type object map[string]json.RawMessage

// errNoObject is returned for a config.json that is null.
var errNoObject = errors.New("not an object")

// get decodes the member with the given name into v, which stays as it is if there is
// none.
func (o object) get(name string, v any) error {
	text, ok := o[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// set makes v the member with the given name.
func (o object) set(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	o[name] = text
	return nil
}

// child returns the member with the given name, which is an object; a new one if there
// is none or if it is null.
func (o object) child(name string) (object, error) {
	c := object{}
	if err := o.get(name, &c); err != nil {
		return nil, err
	}
	if c == nil {
		c = object{}
	}
	return c, nil
}

// editConfig has edit change the config.json of the bundle of a command, which the
// runtime will read next. A file that edit leaves as it is is not written.
func editConfig(c commandLine, edit func(object) error) error {
	bundle := c.option("bundle", "b")
	if bundle == "" {
		bundle = "."
	}
	name := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	changed, err := edited(text, edit)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if bytes.Equal(changed, text) {
		return nil
	}
	return replaceFile(name, changed)
}

// errUnchanged is returned by an edit that has nothing to change.
var errUnchanged = errors.New("unchanged")

// edited returns a config as edit changes it.
func edited(config []byte, edit func(object) error) ([]byte, error) {
	var o object
	if err := json.Unmarshal(config, &o); err != nil {
		return nil, err
	}
	if o == nil {
		return nil, errNoObject
	}
	switch err := edit(o); {
	case errors.Is(err, errUnchanged):
		return config, nil
	case err != nil:
		return nil, err
	}
	return json.Marshal(o)
}

// addHook adds the createRuntime hook to the config.json of the bundle.
func addHook(c commandLine, o RuntimeOptions) error {
	path := o.Hook
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return err
		}
	}
	return editConfig(c, func(config object) error {
		return config.addHook(path, []string{"vprocfs", "hook", "--mount", o.Dir})
	})
}

// addHook adds a createRuntime hook, unless it is there.
func (o object) addHook(path string, args []string) error {
	hooks, err := o.child("hooks")
	if err != nil {
		return err
	}
	var stage []json.RawMessage
	if err := hooks.get("createRuntime", &stage); err != nil {
		return fmt.Errorf("hooks.%w", err)
	}
	one, err := json.Marshal(struct {
		Path string   `json:"path"`
		Args []string `json:"args"`
	}{path, args})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(stage, func(h json.RawMessage) bool { return sameJSON(h, one) }) {
		return errUnchanged
	}
	if err := hooks.set("createRuntime", append(stage, one)); err != nil {
		return err
	}
	return o.set("hooks", hooks)
}

// sameJSON reports whether two values differ in white space only.
func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// replaceFile replaces the content of a file at once, keeping its mode and owner.
func replaceFile(name string, text []byte) (err error) {
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".vprocfs-config-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // err says what is wrong
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(st.Mode().Perm())
	}
	var owner unix.Stat_t
	if err == nil {
		err = unix.Stat(name, &owner)
	}
	if err == nil {
		err = f.Chown(int(owner.Uid), int(owner.Gid))
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
