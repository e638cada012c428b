package daemon

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// stopSignals stop the daemon. systemd sends the first, a terminal the others.
var stopSignals = [...]os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}

// serveSignals are the signals of the daemon. Each kind has a channel of its own, so
// that many signals of one kind do not push out those of another.
type serveSignals struct {
	stop, upgrade, toggle <-chan os.Signal
}

// notifyServe catches the signals from now on. SIGHUP stays ignored if it is, as under
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
