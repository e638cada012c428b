// Command vprocfs shows containers their own /proc. It is a FUSE daemon on the host
// (serve), a throwaway container to try it in (run), a report of which container a
// process belongs to (explain), and two commands that change the mounts of running
// containers (attach, heal).
//
// This package is the command line only: flags in, lines and exit statuses out.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"vprocfs/initpid"
	"vprocfs/internal/attach"
)

func main() {
	initpid.RunHelper()
	attach.RunHelper()
	err := dispatch(context.Background(), commands(), arguments(os.Args), os.Stdout)
	if err != nil && err.Error() != "" {
		// One line, even if the error is several or a name in it has a newline.
		fmt.Fprintln(os.Stderr, "vprocfs: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	os.Exit(exitStatus(err))
}

// arguments returns the arguments for dispatch: those of the program, after the verb
// lxcfs if the program was started by that name.
func arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if filepath.Base(argv[0]) == lxcfsName {
		return append([]string{lxcfsName}, argv[1:]...)
	}
	return argv[1:]
}

// commands returns all verbs in the order of the help.
func commands() []*command {
	return []*command{
		serveCommand(),
		lxcfsCommand(os.Stderr),
		upgradeCommand(),
		runCommand(),
		explainCommand(),
		attachCommand(os.Stdout),
		healCommand(os.Stdout),
		versionCommand(os.Stdout),
		containerInitCommand(),
		probeCommand(),
	}
}
