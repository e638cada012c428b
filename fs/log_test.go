// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"bytes"
	"log/slog"
	"sync"
)

// syncLog is what a server has logged.
type syncLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func newLog() *syncLog { return &syncLog{} }

func (l *syncLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *syncLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
