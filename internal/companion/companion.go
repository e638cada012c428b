// SPDX-License-Identifier: Apache-2.0

// Package companion starts vprocfs-export, a program that stands beside vprocfs because
// the libraries it needs have no place in a daemon. It has its flags too, for both.
package companion

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"vprocfs/internal/report"
)

// ExportName is the name of the program.
const ExportName = "vprocfs-export"

// Exec becomes the program with that name, with the flags that are set in fl. It is the one
// in the directory of this program, or else in PATH.
func Exec(name string, fl *pflag.FlagSet) error {
	path, err := find(name)
	if err != nil {
		return err
	}
	args := []string{name}
	fl.Visit(func(f *pflag.Flag) { args = append(args, "--"+f.Name+"="+f.Value.String()) })
	return fmt.Errorf("exec %s: %w", path, unix.Exec(path, args, os.Environ()))
}

func find(name string) (string, error) {
	dir := "the directory of this program"
	if self, err := os.Executable(); err == nil {
		dir = filepath.Dir(self)
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither in %s nor in PATH: it is a package of its own", name, dir)
	}
	return path, nil
}

// Export is the command line of vprocfs-export.
type Export struct {
	Listen       string
	Mount        string
	PerContainer int
}

// defaultAddress is where scrapes are answered: for this host only.
const defaultAddress = "127.0.0.1:9891"

// AddFlags adds the flags.
func (o *Export) AddFlags(fl *pflag.FlagSet) {
	fl.StringVar(&o.Listen, "listen", defaultAddress, "`ADDRESS` to answer scrapes at: HOST:PORT, or unix:PATH")
	fl.StringVar(&o.Mount, "mount", "", "`DIR` is the mount point of the daemon (default "+report.DefaultMount+", or the only one that runs)")
	fl.IntVar(&o.PerContainer, "per-container", 0, "metrics of their own for the `N` containers that read most")
}

// Check returns an error if a flag has an invalid value.
func (o *Export) Check() error {
	if o.PerContainer < 0 {
		return fmt.Errorf("invalid argument %d for --per-container: must not be negative", o.PerContainer)
	}
	return nil
}
