// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"vprocfs/internal/supervise"
)

// notifyServe catches the signals of the daemon from now on. Each kind has a channel of
// its own, so that many signals of one kind do not push out those of another. SIGHUP stays
// ignored if it is, as under nohup(1).
func notifyServe() supervise.Signals {
	catch := func(signals ...os.Signal) <-chan os.Signal {
		c := make(chan os.Signal, 1)
		signal.Notify(c, signals...)
		return c
	}
	// systemd sends the first, a terminal the others.
	stop := []os.Signal{unix.SIGTERM, unix.SIGINT}
	if !signal.Ignored(unix.SIGHUP) {
		stop = append(stop, unix.SIGHUP)
	}
	return supervise.Signals{Stop: catch(stop...), Upgrade: catch(unix.SIGUSR1), Toggle: catch(unix.SIGUSR2)}
}
