// SPDX-License-Identifier: Apache-2.0

package test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProfilesOfTheWorkerAreThere for root alone, and over the worker's death.
func TestProfilesOfTheWorkerAreThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	dir, worker := serve(t, "--debug-listen", "unix:"+path)
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}
	ask := func(what string) (string, error) {
		resp, err := client.Get("http://x/debug/pprof/" + what)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		return string(text), err
	}
	checkUptime(t, dir)
	for range 2 {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", st, err)
		}
		for what, want := range map[string]string{"": "/debug/pprof/heap\n", "goroutine?debug=2": "(*Server).readLoop", "trace?seconds=1": "go 1.", "profile?seconds=1": "\x1f\x8b"} {
			if out, err := ask(what); err != nil || !strings.Contains(out, want) {
				t.Errorf("%q: %v: %.80q", what, err, out)
			}
		}
		unix.Kill(worker, unix.SIGKILL)
		waitFor(t, "the next worker to answer", func() bool {
			s, _ := askStatus(t, dir)
			next := s.Daemon.Holder.Worker
			_, err := ask("")
			if s.Well && next != worker && err == nil {
				worker = next
				return true
			}
			return false
		})
	}
	if _, stderr, exit := vprocfs(t, "serve", "--debug-listen", "tcp:1234", dir); exit != 2 || !strings.Contains(stderr, "must be unix:") {
		t.Errorf("exit status %d: %s", exit, stderr)
	}
}
