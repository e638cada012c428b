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

	"vprocfs/initpid"
)

func main() {
	initpid.RunHelper()
	err := dispatch(context.Background(), commands(), os.Args[1:], os.Stdout)
	if err != nil && err.Error() != "" {
		fmt.Fprintln(os.Stderr, "vprocfs: "+err.Error())
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
