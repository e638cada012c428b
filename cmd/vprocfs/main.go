// Command vprocfs shows containers their own /proc: a FUSE daemon on the host
// (serve), a throwaway container to try it in (run), a command that tells what the
// daemon thinks of a process (explain), and two that change the mounts of running
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
		// One line, whatever is in a name or joined to the error.
		fmt.Fprintln(os.Stderr, "vprocfs: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	os.Exit(exitStatus(err))
}

// arguments is what dispatch is to do: what follows the name of the program, and
// the verb lxcfs before that where the program was started by this name.
func arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if filepath.Base(argv[0]) == lxcfsName {
		return append([]string{lxcfsName}, argv[1:]...)
	}
	return argv[1:]
}

// commands returns every verb, in the order in which help lists them.
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
