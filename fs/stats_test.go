// SPDX-License-Identifier: Apache-2.0

package fs_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"vprocfs/fs"
)

// TestRequestsAreCountedByOpcodeAndFile with their errors, bytes and durations.
func TestRequestsAreCountedByOpcodeAndFile(t *testing.T) {
	const text = "0123456789"
	m := serve(t, constant(text), fs.ServerOptions{})
	for range 3 {
		if _, err := readAll(m.path("uptime")); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkdir(m.dir+"/proc/x", 0o700); err != unix.EROFS {
		t.Fatalf("mkdir: %v", err)
	}
	n := func(op, file string) (n uint64) {
		for _, r := range m.srv.Stats().Requests {
			if r.Op == op && r.File == file {
				n = r.N
			}
		}
		return n
	}
	refused := func() bool {
		for _, e := range m.srv.Stats().Errors {
			if e == (fs.ErrorCount{Op: "mkdir", Errno: "EROFS", N: 1}) {
				return true
			}
		}
		return false
	}
	// A request is counted after its answer, and nobody waits for a RELEASE.
	eventually(t, "all requests are counted", func() bool {
		return n("open", "proc/uptime") == 3 && n("read", "proc/uptime") == 6 && n("release", "proc/uptime") == 3 && n("mkdir", "proc") == 1 && refused()
	})
	st := m.srv.Stats()
	if st.ContentBytes != 3*uint64(len(text)) || st.Reads.Count() != 6 || st.Reads.Seconds <= 0 {
		t.Errorf("%d bytes in %d reads that took %v s", st.ContentBytes, st.Reads.Count(), st.Reads.Seconds)
	}
	if st.Handles != 0 || st.MaxHandles == 0 || st.Waiting != 0 {
		t.Errorf("%+v", st)
	}
}
