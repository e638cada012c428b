// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// healTimeout is the longest time of one run of vprocfs heal.
	healTimeout = time.Minute
	// maxHealLines is how many failures of one run are logged.
	maxHealLines = 10
)

// healer runs `vprocfs heal`, which replaces the files of aborted connections in all
// containers. Each run is a process of its own, and there is one at a time.
type healer struct {
	log *slog.Logger
	dir string
	due chan struct{}

	runs, failed atomic.Uint64
}

func newHealer(dir string, log *slog.Logger) *healer {
	h := &healer{log: log, dir: dir, due: make(chan struct{}, 1)}
	go func() {
		for range h.due {
			h.heal()
		}
	}()
	return h
}

// ask starts a run, or another one after the current run. It does not wait.
func (h *healer) ask() {
	select {
	case h.due <- struct{}{}:
	default:
	}
}

// heal runs vprocfs heal. Like every reader, that waits until a worker serves.
func (h *healer) heal() {
	ctx, cancel := context.WithTimeout(context.Background(), healTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "heal", "--mount", h.dir)
	cmd.Args[0] = "vprocfs"
	// A helper of it that hangs may keep its output open (WaitDelay).
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	h.runs.Add(1)
	h.log.Info("containers healed", "namespaces", bytes.Count(out, []byte("\n")))
	if err == nil {
		return
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	h.failed.Add(1)
	h.log.Warn("not all containers are healed", "err", err, "stderr", strings.TrimSpace(failed.String()))
	lines := 0
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "failed") && lines < maxHealLines {
			h.log.Warn("not healed", "namespace", strings.TrimSpace(line))
			lines++
		}
	}
}
