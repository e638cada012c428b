// SPDX-License-Identifier: Apache-2.0

// Command vprocfs shows containers their own /proc. It is a FUSE daemon on the host
// (serve), a throwaway container to try it in (run), a report of which container a
// process belongs to (explain), two commands that change the mounts of running
// containers (attach, heal), two that container runtimes call for those that start
// (hook, runtime), and one that pods of Kubernetes run (node).
//
// This package is the command line only: flags in, lines and exit statuses out.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vprocfs/initpid"
	"vprocfs/internal/attach"
	"vprocfs/internal/logqueue"
	"vprocfs/internal/report"
)

// errorPatience is how long the reader of stderr may take at the end.
const errorPatience = 2 * time.Second

func main() {
	initpid.RunHelper()
	attach.RunHelper()
	err := dispatch(context.Background(), commands(), arguments(os.Args), os.Stdout)
	if err != nil && err.Error() != "" {
		// One line, even if the error is several or a name in it has a newline. Such a name
		// may be a container's.
		stderr := logqueue.New(int(os.Stderr.Fd()))
		fmt.Fprintln(stderr, "vprocfs: "+report.Printable(strings.ReplaceAll(err.Error(), "\n", "; ")))
		stderr.Flush(errorPatience)
	}
	os.Exit(exitStatus(err))
}

// arguments returns the arguments for dispatch: those of the program, after a verb if
// the program was started by the name lxcfs or by that of a wrapper runtime.
func arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	name := filepath.Base(argv[0])
	if name == lxcfsName {
		return append([]string{lxcfsName}, argv[1:]...)
	}
	if flags := wrapperFlags(name); flags != nil {
		return slices.Concat([]string{"runtime"}, flags, []string{"--"}, argv[1:])
	}
	return argv[1:]
}

// commands returns all verbs in the order of the help.
func commands() []*command {
	return []*command{
		serveCommand(),
		lxcfsCommand(os.Stderr),
		upgradeCommand(),
		unmountCommand(os.Stdout),
		runCommand(),
		statusCommand(os.Stdout),
		psCommand(os.Stdout),
		topCommand(os.Stdout),
		explainCommand(),
		logLevelCommand(),
		exportCommand(),
		setCommand(),
		getCommand(os.Stdout),
		unsetCommand(),
		attachCommand(os.Stdout),
		healCommand(os.Stdout),
		hookCommand(),
		runtimeCommand(),
		nodeCommand(os.Stderr),
		versionCommand(os.Stdout),
		containerInitCommand(),
		openPinsCommand(),
		writeAnswersCommand(),
		manualCommand(os.Stdout),
	}
}
