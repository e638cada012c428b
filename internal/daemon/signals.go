package daemon

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// stopSignals end a daemon: systemd sends the first, a terminal the others.
var stopSignals = [...]os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}

// serveSignals are the signals that a daemon is told something by. They are apart,
// so that no number of one kind keeps another out.
type serveSignals struct {
	stop, upgrade, toggle <-chan os.Signal
}

// notifyServe catches them from now on. SIGHUP stays ignored where it is, under
// nohup(1).
func notifyServe() serveSignals {
	catch := func(signals ...os.Signal) <-chan os.Signal {
		c := make(chan os.Signal, 1)
		signal.Notify(c, signals...)
		return c
	}
	stop := stopSignals[:]
	if signal.Ignored(unix.SIGHUP) {
		stop = stop[:2]
	}
	return serveSignals{catch(stop...), catch(unix.SIGUSR1), catch(unix.SIGUSR2)}
}
