// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The units, and where their files are on the host.
const (
	unit    = "vprocfs.service"
	nriUnit = "vprocfs-nri.service"
	unitDir = "etc/systemd/system"
)

func unitPath(name string) string { return unitDir + "/" + name }

// dropIn is the path of the file with the flags of a unit.
func dropIn(name string) string { return unitPath(name) + ".d/10-node.conf" }

// mark is the first line of the units of Install. A unit without it is another's.
const mark = "# Written by `vprocfs node install`, which a pod runs. Changes are lost.\n"

// file is a file to have on the host. Its path is relative to the root directory.
type file struct {
	path string
	mode os.FileMode
	text []byte // nil: it must not exist
}

// state is what has been installed: hashes of the programs, empty if there is none.
type state struct {
	Daemon string `json:"daemon"`
	NRI    string `json:"nri,omitempty"`
	Flags  string `json:"flags,omitempty"`
}

// plan is what Install wants on the host.
type plan struct {
	files []file
	state state
}

// plan reads the image.
func (o *Options) plan() (*plan, error) {
	p := &plan{state: state{Flags: o.Flags}}
	var err error
	if p.state.Daemon, err = p.program(o, "vprocfs", unit); err != nil {
		return nil, err
	}
	flags := file{path: dropIn(unit), mode: 0o644}
	if o.Flags != "" {
		flags.text = fmt.Appendf(nil, "%s[Service]\nEnvironment=\"VPROCFS_OPTS=%s\"\n", mark, o.Flags)
	}
	p.files = append(p.files, flags)
	if o.NRI {
		if p.state.NRI, err = p.program(o, "vprocfs-nri", nriUnit); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// program adds a program of the image and its unit, which names the program's place on
// the host. It returns the hash of the program.
func (p *plan) program(o *Options, name, unit string) (hash string, err error) {
	binary, err := os.ReadFile(filepath.Join(o.Image, "usr/bin", name))
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(o.Image, "usr/lib/systemd/system", unit))
	if err != nil {
		return "", err
	}
	bin := o.Prefix + "/bin/"
	// The daemon's unit runs vprocfs for other verbs, too.
	there := mark + strings.ReplaceAll(string(text), "/usr/bin/vprocfs", bin+"vprocfs")
	if !strings.Contains(there, bin+name+" ") {
		return "", fmt.Errorf("%s of the image does not run /usr/bin/%s", unit, name)
	}
	p.files = append(p.files,
		file{strings.TrimPrefix(bin+name, "/"), 0o755, binary},
		file{unitPath(unit), 0o644, []byte(there)})
	return fmt.Sprintf("%x", sha256.Sum256(binary)), nil
}

// units are the units to enable.
func (p *plan) units() []string {
	if p.state.NRI != "" {
		return []string{unit, nriUnit}
	}
	return []string{unit}
}
