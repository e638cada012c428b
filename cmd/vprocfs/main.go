// Command vprocfs shows containers their own /proc: a FUSE daemon on the host
// (serve), a throwaway container to try it in (run), and a command that tells
// what the daemon thinks of a process (explain).
//
// This package only wires: flags, signals, exit statuses. It computes nothing.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"vprocfs/initpid"
)

func main() {
	initpid.RunHelper()
	err := dispatch(context.Background(), commands(), os.Args[1:], os.Stdout)
	if err != nil && err.Error() != "" {
		// One line, whatever is in a name or joined to the error.
		fmt.Fprintln(os.Stderr, "vprocfs: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	os.Exit(exitStatus(err))
}

// commands returns every verb, in the order in which help lists them.
func commands() []*command {
	return []*command{
		serveCommand(),
		runCommand(),
		explainCommand(),
		versionCommand(os.Stdout),
		containerInitCommand(),
	}
}
