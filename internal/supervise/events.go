// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"log/slog"
	"time"
)

// procID names a process of a machine. clientID names who waits for a reply; 0 is
// nobody.
type (
	procID   int
	clientID int
)

// An event is something that has happened: one of the following. A machine's first event
// is started or adopted.
type event any

type (
	// started: this process begins, and there is no worker.
	started struct {
		inherited bool // the mount is older than this process
	}
	// adopted: this process begins with a worker of another holder.
	adopted struct {
		pid      int
		toggled  bool
		level    string
		tally    Tally
		upgraded bool     // by an exec of this process, which a client may wait for
		client   clientID // 0: none
	}
	// due: the machine's deadline has come.
	due struct{}
	// spawned answers a spawn action.
	spawned struct {
		id  procID
		pid int
		err error
	}
	// received: the process has sent a message. Its file is the shell's business.
	received struct {
		id procID
		message
	}
	// hungUp: the process has closed its control socket, most likely because it died.
	hungUp struct{ id procID }
	// ended: the process is dead and reaped.
	ended struct {
		id  procID
		how exit
	}
	// probeEnded answers a probe action.
	probeEnded struct {
		id  procID
		err error
	}
	// upgradeAsked: a client, or with 0 a signal, asks for an upgrade.
	upgradeAsked struct{ client clientID }
	// execFailed answers a become action. If that succeeds there is no answer.
	execFailed struct{ err error }
	// levelAsked: a client asks for another log level.
	levelAsked struct{ level string }
	// toggleAsked: a signal asks for what only the worker knows.
	toggleAsked struct{}
	// stopAsked: a signal asks for the end.
	stopAsked struct{ signal string }
	// unmounted answers an unmount action.
	unmounted struct{ err error }
	// renewEnded answers a renew action.
	renewEnded struct{ err error }
)

// An action is something to be done: one of the following.
type action any

type (
	// spawn starts a worker, or a candidate of the new program.
	spawn struct {
		id        procID
		candidate bool
	}
	// order sends a message to a process.
	order struct {
		id         procID
		word, rest string
	}
	// handFile sends the descriptor of that name to a process.
	handFile struct {
		id   procID
		name string
	}
	// kill sends SIGKILL to a process.
	kill struct{ id procID }
	// probe uses what the process serves.
	probe struct {
		id      procID
		timeout time.Duration
	}
	// become executes the new program in this process, which keeps the worker, and the
	// client that waits.
	become struct {
		worker  procID
		client  clientID
		toggled bool
		level   string
		tally   Tally
	}
	// notify tells systemd.
	notify struct{ state string }
	// serving calls Config.Serving.
	serving struct{ pid int }
	// reply answers a client; nil is success.
	reply struct {
		client clientID
		err    error
	}
	// logged writes to the log.
	logged struct {
		level slog.Level
		msg   string
		args  []any
	}
	// unmount calls Config.Stop.
	unmount struct{}
	// renew calls Config.Renew.
	renew struct{}
	// abandon removes the descriptors from systemd's store and calls Config.Abort.
	abandon struct{}
	// exitWith ends Run. It is the last action of a machine.
	exitWith struct{ err error }
)
